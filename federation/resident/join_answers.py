"""What a server is given that joined a room by way of this one: the room's state before its join, and what proves it.

Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from federation.resident.state import RoomStates
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.ids import EventId, ServerName, UserId
from homeserver.matrix.state_map import StateKey, member_key
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.store.events import StoredEvent
from homeserver.sync.left import STRIPPED
from homeserver.sync.summary import ALIAS, NAME, pick_heroes, text_of


@define(eq=False)
class JoinAnswers:
    server_name: ServerName
    states: RoomStates

    async def load(self, head: RoomHead, join: StoredEvent, *, omit_members: bool) -> bytes:
        """The encoded answer; head: the room's before the join."""
        state = await self.states.load_before(head, join)
        shown = await self._load_without_members(head, join, state) if omit_members else set(state.values())
        chain = await self.states.load_auth_chain(head, {*shown, join.event_id})
        if omit_members:
            chain -= shown
        about: dict[str, Any] = {"origin": self.server_name, "members_omitted": omit_members}
        if omit_members:
            about["servers_in_room"] = sorted(head.joined_servers())
        return b'%b,"event":%b,"state":%b,"auth_chain":%b}' % (
            encode_json(about)[:-1],
            join.pdu.json_bytes,
            await self.states.load_bytes(head, shown),
            await self.states.load_bytes(head, chain),
        )

    async def load_knock_state(self, head: RoomHead) -> bytes:
        """The state events by which somebody who knocks may know the room, as an encoded list.

        Spec: server-server-api#put_matrixfederationv1send_knockroomideventid
        """
        return await self.states.load_bytes(head, [head.state[key] for key in STRIPPED if key in head.state])

    async def _load_without_members(
        self, head: RoomHead, join: StoredEvent, state: Mapping[StateKey, EventId]
    ) -> set[EventId]:
        """The state's events but for members; with those by whom the room is named where it has no name."""
        shown = {event_id for (type_, _), event_id in state.items() if type_ != MEMBER}
        named = await self.states.load_events(head, [state[key] for key in (NAME, ALIAS) if key in state])
        if any(text_of(event) is not None for event in named):
            return shown
        heroes = pick_heroes(head, UserId(join.pdu.sender))
        return shown | {state[member_key(hero)] for hero in heroes if member_key(hero) in state}
