"""States of a room in memory, as a tree: each state knows which keys make it differ from the one it came from.

Comparing two states of a room with ten thousand members must not look at ten thousand keys. Two states that are near
each other in the tree differ at most in the keys on the way between them, and these are few. Where the tree does not
tell (its old end is cut off, so that it stays small), the states are compared whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from weakref import WeakValueDictionary

from homeserver.matrix.ids import EventId
from homeserver.matrix.state_map import StateKey, StateMap
from homeserver.store.snapshots import Change, Snapshot

# How many ancestors a state keeps: at least one, at most two of these.
KEPT_ANCESTORS = 128
KEPT_TIPS = 64

Changes = Mapping[StateKey, EventId | None]


class StateNode:
    """A state and the snapshot that stands for it. Never changes, but that old parents are let go."""

    __slots__ = ("__weakref__", "generation", "keys", "parent", "snapshot", "state")

    def __init__(
        self, snapshot: Snapshot, state: StateMap, parent: StateNode | None = None, keys: Sequence[StateKey] = ()
    ) -> None:
        self.snapshot = snapshot
        self.state = state
        self.parent = parent
        self.keys = keys
        self.generation: int = parent.generation + 1 if parent is not None else 0
        if self.generation and self.generation % KEPT_ANCESTORS == 0:
            _cut(self)

    def child(self, changes: Changes, named: Sequence[Change]) -> StateNode:
        """A state with some keys changed (None: removed); `named` are the changes as a new snapshot stores them."""
        snapshot = Snapshot(self.snapshot.room_id, parent=self.snapshot, changes=named)
        return self.stored_child(changes, snapshot)

    def stored_child(self, changes: Changes, snapshot: Snapshot) -> StateNode:
        """The same, for a state that has its snapshot already."""
        return StateNode(snapshot, apply_changes(self.state, changes), self, tuple(changes))


def apply_changes(state: StateMap, changes: Changes) -> StateMap:
    mutation = state.mutate()
    for key, event_id in changes.items():
        if event_id is not None:
            mutation[key] = event_id
        else:
            mutation.pop(key, None)
    return mutation.finish()


def differing_keys(one: StateNode, other: StateNode) -> set[StateKey]:
    """Keys in which the two states differ."""
    candidates = _keys_between(one, other)
    if candidates is None:
        candidates = {*one.state, *other.state}
    return {key for key in candidates if one.state.get(key) != other.state.get(key)}


def changes_between(before: StateNode, after: StateNode) -> dict[StateKey, EventId | None]:
    """What leads from one state to another."""
    return {key: after.state.get(key) for key in differing_keys(before, after)}


def _keys_between(one: StateNode, other: StateNode) -> set[StateKey] | None:
    """The keys that changed on the way from one to the other; None where memory does not know the way."""
    keys: set[StateKey] = set()
    while one is not other:
        if one.generation < other.generation:
            one, other = other, one
        keys.update(one.keys)
        if one.parent is None:
            return None
        one = one.parent
    return keys


def _cut(node: StateNode) -> None:
    oldest = node
    for _ in range(KEPT_ANCESTORS):
        if oldest.parent is None:
            return
        oldest = oldest.parent
    oldest.parent = None
    oldest.keys = ()


class StateNodes:
    """The states of one room that memory has, by snapshot, and what was resolved of them lately."""

    def __init__(self) -> None:
        self._nodes: WeakValueDictionary[int, StateNode] = WeakValueDictionary()
        self._tips: OrderedDict[int, StateNode] = OrderedDict()
        self._resolved: OrderedDict[frozenset[StateNode], StateNode] = OrderedDict()
        # auth_events of events that resolutions looked at. Never change, so threads may add to them.
        self.graph_edges: dict[EventId, Sequence[EventId]] = {}

    def get(self, snapshot_id: int) -> StateNode | None:
        node = self._nodes.get(snapshot_id)
        if node is not None and snapshot_id in self._tips:
            self._tips.move_to_end(snapshot_id)
        return node

    def put(self, node: StateNode) -> None:
        """Keep a state whose snapshot is stored, and those that lead to it."""
        self._tips[node.snapshot.snapshot_id] = node
        self._tips.move_to_end(node.snapshot.snapshot_id)
        if len(self._tips) > KEPT_TIPS:
            self._tips.popitem(last=False)
        known: StateNode | None = node
        while known is not None and self._nodes.get(known.snapshot.snapshot_id) is not known:
            self._nodes[known.snapshot.snapshot_id] = known
            known = known.parent

    def get_resolved(self, states: Iterable[StateNode]) -> StateNode | None:
        """The resolution of the states, if it is one of them or was worked out lately."""
        wanted = frozenset(states)
        if len(wanted) == 1:
            return next(iter(wanted))
        return self._resolved.get(wanted)

    def put_resolved(self, states: Iterable[StateNode], resolved: StateNode) -> None:
        self._resolved[frozenset(states)] = resolved
        if len(self._resolved) > KEPT_TIPS:
            self._resolved.popitem(last=False)
