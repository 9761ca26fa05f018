"""States around events, and their resolution where they fork: from memory if it has them, else from the database."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import immutables
from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.folds.events import EventCache
from homeserver.matrix.auth_graph import AuthGraph
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import Shared, StateKey
from homeserver.matrix.state_res import resolve
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import Room
from homeserver.rooms.state_nodes import Changes, StateNode, changes_between, differing_keys
from homeserver.runtime.db import Database
from homeserver.store.event_graph import load_auth_edges
from homeserver.store.events import StoredEvent, load_events
from homeserver.store.snapshots import (
    Change,
    Removal,
    Snapshot,
    has_snapshot,
    load_accepted_state,
    load_nids,
    load_state,
)

# Events that are still on their way to the disk.
Fresh = Mapping[EventId, StoredEvent]
NONE: Fresh = {}


@define(eq=False)
class States:
    """Loads states into a room's StateNodes."""

    database: Database
    events: EventCache

    async def load_after(self, room: Room, event: StoredEvent) -> StateNode:
        """The state after a stored event that is no outlier."""
        snapshot_id = event.snapshot_after
        assert snapshot_id is not None
        return await self.load_snapshot(room, snapshot_id)

    async def load_snapshot(self, room: Room, snapshot_id: int) -> StateNode:
        node = room.nodes.get(snapshot_id)
        if node is None:
            head = room.committed
            state = await self.database.read(load_state, head.room_id, snapshot_id)
            node = room.nodes.get(snapshot_id) or beside(
                head.node, state, Snapshot(head.room_id, snapshot_id=snapshot_id)
            )
            room.nodes.put(node)
        return node

    async def load_kept(self, room: Room, snapshot_id: int, node: StateNode) -> StateNode:
        """A state of an event that was an outlier, under the id that it gets; or the one that has this id already: others rest on
        it, though the event was taken out of the timeline for a while (store/history_trimming.py)."""
        if node.snapshot.parent is None:
            return node  # it is stored
        there = await self.database.read(has_snapshot, room.committed.room_id, snapshot_id)
        return await self.load_snapshot(room, snapshot_id) if there else node

    async def load_given(self, room: Room, state: Mapping[StateKey, EventId]) -> StateNode:
        """A state that another server told, as a node of the room; all of its events are stored."""
        return await self.load_beside(room.committed.node, state)

    async def load_beside(self, base: StateNode, state: Mapping[StateKey, EventId]) -> StateNode:
        """A state whose events are stored; those that are not, or were rejected, are left out. O(n)."""
        named = [event_id for key, event_id in state.items() if base.state.get(key) != event_id]
        room_id = base.snapshot.room_id
        accepted = await self.database.read(load_accepted_state, room_id, named) if named else {}
        known = {
            key: event_id
            for key, event_id in state.items()
            if base.state.get(key) == event_id or accepted.get(event_id, (None, 0))[0] == key
        }
        changes = {key: known.get(key) for key in {*known, *base.state} if known.get(key) != base.state.get(key)}
        return await self._child(base, changes)

    async def resolve(
        self, room: Room, nodes: Collection[StateNode], arriving: Sequence[StoredEvent] = ()
    ) -> StateNode:
        """The resolution of the states; one of them if it is that. `arriving`: events that are in them and in no store."""
        found = room.nodes.get_resolved(nodes)
        if found is None:
            ordered = sorted(set(nodes), key=lambda node: node.generation)
            # States of events that are still on their way to the disk count, too.
            fresh = {**room.fresh, **{event.event_id: event for event in arriving}}
            fork = Fork(room.committed, ordered, room.nodes.graph_edges, fresh, self.events.peek)
            nearest, changes, nids = await self.database.read(fork.load)
            found = nearest if not changes else nearest.child(changes, _named(nearest, changes, fresh, nids))
            room.nodes.put_resolved(nodes, found)
        return found

    async def _child(self, base: StateNode, changes: Changes) -> StateNode:
        """A state beside another, in a snapshot that is still to be stored."""
        if not changes:
            return base
        nids = await self.database.read(load_nids, [*_event_ids(base, changes)])
        return base.child(changes, _named(base, changes, NONE, nids))


@frozen
class Fork:
    """States that are to be resolved, in a thread of the database."""

    head: RoomHead
    nodes: Sequence[StateNode]
    edges: dict[EventId, Sequence[EventId]]
    fresh: Fresh
    peek: Callable[[EventId], StoredEvent | None]

    def load(self, conn: Connection) -> tuple[StateNode, Changes, dict[EventId, int]]:
        """The state that is nearest to the resolution, what leads from it there, and the nids of what that names."""
        resolved = self._load_resolution(conn)
        found = [(node, _missing_changes(node, resolved)) for node in self.nodes]
        nearest, changes = min(found, key=lambda near: len(near[1]))
        stored = [event_id for event_id in _event_ids(nearest, changes) if event_id not in self.fresh]
        return nearest, changes, load_nids(conn, stored) if stored else {}

    def _load_resolution(self, conn: Connection) -> dict[StateKey, EventId | None]:
        """What the resolution has for each key in which the states differ (None: nothing), and for keys that none has."""
        head, first = self.head, self.nodes[0]
        rejected: set[EventId] = set()
        keys: set[StateKey] = set()
        for node in self.nodes[1:]:
            keys |= differing_keys(first, node)
        states = [
            {key: event_id for key in keys if (event_id := node.state.get(key)) is not None} for node in self.nodes
        ]
        resolved = resolve(
            head.version,
            states,
            lambda ids: self._load(conn, ids, rejected),
            room_id=head.room_id,
            rejected=rejected,
            graph=AuthGraph(lambda ids: self._load_edges(conn, ids), self.edges),
            shared=Shared(first.state, keys),
        )
        return {**dict.fromkeys(keys), **resolved}

    def _load_edges(self, conn: Connection, ids: Collection[EventId]) -> dict[EventId, Sequence[EventId]]:
        fresh = {event_id: self.fresh[event_id].pdu.auth_events for event_id in ids if event_id in self.fresh}
        return {**load_auth_edges(conn, self.head.room_id, set(ids) - fresh.keys()), **fresh}

    def _load(self, conn: Connection, ids: Collection[EventId], rejected: set[EventId]) -> dict[EventId, Pdu]:
        found = [event for event_id in ids if (event := self.fresh.get(event_id) or self.peek(event_id)) is not None]
        missing = set(ids) - {event.event_id for event in found}
        if missing:
            found += load_events(conn, missing, {self.head.room_id: self.head.version})
        rejected.update(event.event_id for event in found if event.rejected is not None)
        return {event.event_id: event.pdu for event in found if event.pdu.room_id == self.head.room_id}


def _event_ids(base: StateNode, changes: Changes) -> Iterator[EventId]:
    """What the changes bring in or take away."""
    return (event_id or base.state[key] for key, event_id in changes.items())


def _named(base: StateNode, changes: Changes, fresh: Fresh, nids: Mapping[EventId, int]) -> list[Change]:
    """The changes as a snapshot stores them."""
    named: list[Change] = []
    for key, taken in changes.items():
        event_id = taken or base.state[key]
        event = fresh.get(event_id)
        if event is not None:
            named.append(event if taken is not None else Removal(event))
        else:
            named.append(nids[event_id] if taken is not None else -nids[event_id])
    return named


def beside(base: StateNode, state: Mapping[StateKey, EventId], snapshot: Snapshot) -> StateNode:
    """A stored state as a relative of another one; O(n)."""
    stored = StateNode(snapshot, _as_map(state))
    return base.stored_child(changes_between(base, stored), snapshot)


def _as_map(state: Mapping[StateKey, EventId]) -> immutables.Map[StateKey, EventId]:
    return state if isinstance(state, immutables.Map) else immutables.Map(state)


def _missing_changes(node: StateNode, resolved: Changes) -> dict[StateKey, EventId | None]:
    return {key: event_id for key, event_id in resolved.items() if node.state.get(key) != event_id}
