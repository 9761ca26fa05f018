"""The state of rooms as other servers read it: at an event, and with what authorises it.

Events go out as the bytes that are stored, so that a room of ten thousand members need not be parsed for each who joins.

Spec: server-server-api#retrieving-events
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define

from federation.resident.graph import RoomGraph
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import EventId
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import RoomHead
from homeserver.runtime.db import Database
from homeserver.store.event_bytes import load_event_bytes
from homeserver.store.events import StoredEvent
from homeserver.store.snapshots import load_state


@define(eq=False)
class RoomStates:
    database: Database
    graph: RoomGraph

    async def load_before(self, head: RoomHead, event: StoredEvent) -> Mapping[StateKey, EventId]:
        """The state before an event. Raises: NotFound for an outlier, whose state nobody knows."""
        if event.snapshot_before is None:
            raise NotFound("This server does not know the state at that event")
        if event.snapshot_before and event.snapshot_before == head.snapshot.snapshot_id:
            return head.state  # PERF(56 ms for 10,000 members): most who join do so in the state that the head has
        return await self.database.read(load_state, head.room_id, event.snapshot_before)

    async def load_events(self, head: RoomHead, event_ids: Collection[EventId]) -> list[StoredEvent]:
        """Those of the room's events that are stored."""
        rooms_of = dict.fromkeys(event_ids, head.room_id)
        return list((await self.graph.events.load_many(rooms_of, {head.room_id: head.version})).values())

    async def load_auth_chain(self, head: RoomHead, event_ids: Collection[EventId]) -> set[EventId]:
        """The events that authorise these, and those that authorise them, and so on.

        Where no event names the create event, as the room's id does (version 12), it authorises them all.
        """
        chain = await self.graph.load_auth_chain(head, event_ids)
        create_id = head.create.event_id
        if head.version.room_id_is_create_hash and any(event_id != create_id for event_id in event_ids):
            chain.add(create_id)
        return chain

    async def load_bytes(self, head: RoomHead, event_ids: Collection[EventId]) -> bytes:
        """The events as a JSON list, in no order."""
        return encode_list(await self.database.read(load_event_bytes, head.room_id, head.version, event_ids))


def encode_list(events: Iterable[bytes]) -> bytes:
    """A JSON list of encoded events."""
    return b"[" + b",".join(events) + b"]"
