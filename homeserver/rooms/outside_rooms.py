"""Local users before the door of rooms that this server is not in: invites, knocks, and how they end.

Nothing of such a room can be judged here. An invite counts because the inviter's server signed it, and what ends it must
come from that server (a kick, a withdrawn invite) or from here.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of, is_user_id
from homeserver.matrix.limits import MAX_EVENT_BYTES
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import membership_change
from homeserver.rooms.purges import OpenGate, RoomGate
from homeserver.runtime.db import Database
from homeserver.runtime.turns import Turns
from homeserver.store.log import membership_item
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.outside_rooms import OutsideRoom, load_outside_room, save_outside_room
from homeserver.store.room_writes import save_memberships

_WAITING = frozenset({"invite", "knock"})
_ENDED = frozenset({"leave", "ban"})
MAX_STATE = 100
_SHOWN = ("type", "state_key", "sender")


@define(eq=False)
class OutsideRooms:
    """Memberships of local users in rooms that this server is not in."""

    server_name: ServerName
    database: Database
    memberships: Memberships
    log: LogWriter
    turns: Turns[RoomId]
    gate: RoomGate = field(factory=OpenGate)

    async def receive_invite(self, invite: Pdu, room_state: Sequence[dict[str, Any]], /) -> None:
        """An invite of a local user, whose signatures and hash were checked, and the room's stripped state."""
        await self.store(invite, room_state, [domain_of(invite.sender)])

    async def store(self, event: Pdu, room_state: Sequence[dict[str, Any]], servers: Sequence[ServerName], /) -> None:
        """The user's newest membership. With no state and no servers, those that are known stay.

        room_state: as another server tells it; what of that is no stripped state is left out.
        """
        async with self.gate.entering(event.room_id), self.turns.take(event.room_id):
            await self._store(event, room_state, servers)

    async def receive_end(self, event: Pdu, /) -> bool:
        """A leave or ban of a local user by another server, checked as above. False if there is nothing that it may end.

        It must be of the server that sent the invite, or for a knock of any server that is likely in the room.
        """
        if event.state_key is None or event.membership not in _ENDED:
            return False
        user_id = UserId(event.state_key)
        async with self.turns.take(event.room_id):
            row = (await self.memberships.load(user_id)).get(event.room_id)
            room = await self._load(user_id, event.room_id)
            if room is None or row is None or row.membership not in _WAITING or row.event_id != room.event.event_id:
                return False
            if domain_of(event.sender) not in {domain_of(room.event.sender), *room.servers}:
                return False
            await self._store(event, (), ())
            return True

    async def load_servers(self, user_id: UserId, room_id: RoomId, /) -> Sequence[ServerName]:
        """Servers that are likely in the room."""
        room = await self._load(user_id, room_id)
        return room.servers if room is not None else ()

    async def load_version(self, user_id: UserId, room_id: RoomId, /) -> RoomVersion:
        """Raises: NotFound."""
        return (await self.load_event(user_id, room_id)).version

    async def load_event(self, user_id: UserId, room_id: RoomId, /) -> Pdu:
        """The user's newest member event. Raises: NotFound."""
        room = await self._load(user_id, room_id)
        if room is None:
            raise NotFound("You are not in this room, or it does not exist")
        return room.event

    async def _load(self, user_id: UserId, room_id: RoomId) -> OutsideRoom | None:
        return await self.database.read(load_outside_room, user_id, room_id)

    async def _store(self, event: Pdu, room_state: Sequence[dict[str, Any]], servers: Sequence[ServerName]) -> None:
        change, room_state = membership_change(event), _well_formed(room_state)
        known = await self._load(change.user_id, event.room_id) if not room_state or not servers else None
        if known is not None:
            room_state, servers = room_state or known.state, servers or known.servers
        room = OutsideRoom(change.user_id, event, room_state, servers)

        def save(conn: Connection, position: int) -> None:
            save_memberships(conn, [(event.room_id, change, position)])
            save_outside_room(conn, room)

        kind, key, data = membership_item(event.room_id, change)
        await self.log.submit(LogItem(kind, key, data, save))


def _well_formed(room_state: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries that clients can read, with nothing else in them; none is larger than an event can be.

    Spec: client-server-api#stripped-state
    """
    entries = [{name: entry.get(name) for name in (*_SHOWN, "content")} for entry in room_state[:MAX_STATE]]
    return [entry for entry in entries if _is_readable(entry)]


def _is_readable(entry: dict[str, Any]) -> bool:
    if not isinstance(entry["content"], dict) or not all(isinstance(entry[name], str) for name in _SHOWN):
        return False
    if not is_user_id(entry["sender"]):
        return False
    try:
        return len(orjson.dumps(entry)) <= MAX_EVENT_BYTES
    except TypeError:  # integers beyond 64 bits
        return False
