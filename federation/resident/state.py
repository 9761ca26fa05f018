"""The state of rooms as other servers read it: at an event, and with what authorises it.

Events go out as the bytes that are stored.

Spec: server-server-api#retrieving-events
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define, frozen

from federation.resident.graph import RoomGraph
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import RoomHead
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.snapshots import load_state


@frozen
class StateAt:
    """The state before an event, and the auth chain of it."""

    state: Mapping[StateKey, EventId]
    auth_chain: Collection[StoredEvent]


@define(eq=False)
class RoomStates:
    database: Database
    graph: RoomGraph

    async def load_before(self, head: RoomHead, event: StoredEvent) -> Mapping[StateKey, EventId]:
        """Raises: NotFound for an outlier, whose state nobody knows."""
        if event.snapshot_before is None:
            raise NotFound("This server does not know the state at that event")
        return await self.database.read(load_state, head.room_id, event.snapshot_before)

    async def load_at(self, head: RoomHead, event: StoredEvent) -> StateAt:
        """Raises: NotFound."""
        state = await self.load_before(head, event)
        return StateAt(state, await self.graph.load_auth_chain(head, state.values()))

    async def load_events(self, head: RoomHead, event_ids: Collection[EventId]) -> list[Pdu]:
        """Those that are stored, in no order."""
        rooms_of = dict.fromkeys(event_ids, head.room_id)
        found = await self.graph.events.load_many(rooms_of, {head.room_id: head.version})
        return [event.pdu for event in found.values()]


def encode_list(pdus: Iterable[Pdu]) -> bytes:
    """A JSON list of the events as servers exchange them."""
    return b"[" + b",".join(pdu.json_bytes for pdu in pdus) + b"]"
