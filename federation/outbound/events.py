"""Events as they go to other servers: those of our users, and those that entered the room through us.

An event concerns the servers that are in the room before it or after it, and the server of the member whom it is about: a
user who is kicked, banned, or whose invite or knock is refused has to learn of it. (An invite itself goes by a request
of its own, which the other server signs.)

Log rows made here: "relay" {event_id, origin}, keyed by room: another server's event that it is for us to pass on.

Spec: server-server-api#pdus
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define

from federation.outbound.items import EVENT, Item
from homeserver.folds.events import EventCache
from homeserver.folds.room_servers import RemoteMembers, RoomServers
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.state_map import CREATE
from homeserver.matrix.sticky import names_sticky
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.outbound import load_event_ids

RELAY: Final = "relay"
_TOLD_AT_THE_END = frozenset({"leave", "ban"})


@define(eq=False)
class EventSource:
    """Drives `servers`: rows are applied as they are addressed, so that those before and after an event are known."""

    server_name: ServerName
    database: Database
    events: EventCache
    servers: RoomServers
    kind: str = EVENT
    log_kinds: Sequence[str] = (EVENT, RELAY)
    most_edus: int = 0
    newest_first: bool = True

    def get_addressed(self, row: LogRow) -> tuple[Item, Sequence[ServerName]] | None:
        room_id = RoomId(row.key)
        is_ours = row.kind == RELAY or self._is_ours(row)
        members = self.servers.get(room_id)
        if members is None and is_ours:
            return None
        before = set(members.servers) if members is not None and is_ours and row.deltas else ()
        if row.deltas or row.is_state_alone:
            self.servers.on_rows((row,))
            members = self.servers.get(room_id)
        if not is_ours:
            return _nobody(row)
        if members is None:
            return None
        is_sticky = row.event is not None and names_sticky(row.event.pdu)
        item = Item(row.position, EVENT, room_id, row.data["event_id"], is_sticky=is_sticky)
        return item, self._concerned(row, members, before)

    async def load_missing(self, row: LogRow) -> None:
        await self.servers.load(RoomId(row.key))

    async def load_bodies(self, items: Sequence[Item]) -> Sequence[dict[str, Any]]:
        ids = await self._load_ids(items)
        rooms = {ids[item.position]: RoomId(item.key) for item in items if item.position in ids}
        known = await self.servers.load_many(set(rooms.values()))
        versions = {room_id: members.version for room_id, members in known.items() if members.version is not None}
        events = await self.events.load_many(rooms, versions)
        found = (events.get(event_id) for event_id in rooms)
        return [event.pdu.json for event in found if event is not None and event.rejected is None]

    def _is_ours(self, row: LogRow) -> bool:
        event = row.event
        if event is None or event.soft_failed or domain_of(event.pdu.sender) != self.server_name:
            return False
        # The join by which this server came to know the room: the server that let it in tells the others.
        return not any(delta.key == CREATE and delta.event_id != event.event_id for delta in row.deltas)

    def _concerned(self, row: LogRow, members: RemoteMembers, before: Iterable[ServerName]) -> Sequence[ServerName]:
        servers = {*before, *members.servers}
        event = row.event
        if event is not None and event.pdu.membership in _TOLD_AT_THE_END:
            servers.add(domain_of(UserId(event.pdu.state_key or "")))
        return [server for server in servers if server not in (self.server_name, row.data.get("origin"), "")]

    async def _load_ids(self, items: Sequence[Item]) -> Mapping[int, EventId]:
        found = {item.position: item.event_id for item in items if item.event_id is not None}
        missing = [item.position for item in items if item.event_id is None]
        return {**found, **(await self.database.read(load_event_ids, missing) if missing else {})}


def _nobody(row: LogRow) -> tuple[Item, Sequence[ServerName]]:
    return Item(row.position, EVENT, row.key), ()


@define(eq=False)
class Relays:
    """Passes on what other servers' users do through us: joins, leaves and knocks that we are the resident server of."""

    log: LogWriter

    async def relay(self, room_id: RoomId, event_id: EventId, origin: ServerName) -> None:
        """Returns when it is certain that the room's servers will get the stored event, but for the origin's."""
        await self.log.submit(LogItem(RELAY, room_id, {"event_id": event_id, "origin": origin}))
