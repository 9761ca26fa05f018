"""Room state as a persistent map: (type, state_key) -> event id.

A room head keeps one StateMap per version of the room's state. Maps share structure (a HAMT), so the state
after an event costs O(log n) beside the state before it, and old ones may be kept as long as anybody needs
them.

Spec: server-server-api#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TypeAlias

import attrs
import immutables

from homeserver.matrix.ids import EventId

StateKey: TypeAlias = tuple[str, str]
StateMap: TypeAlias = "immutables.Map[StateKey, EventId]"

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")


def member_key(user_id: str) -> StateKey:
    return ("m.room.member", user_id)


@attrs.frozen
class Shared:
    """A large state without some keys: what states have in common that differ at most in those keys."""

    state: Mapping[StateKey, EventId]
    without: Collection[StateKey] = frozenset()

    def get(self, key: StateKey) -> EventId | None:
        return None if key in self.without else self.state.get(key)

    def event_ids(self) -> Iterator[EventId]:
        """O(n)."""
        return (event_id for key, event_id in self.state.items() if key not in self.without)


NOTHING = Shared({})


@attrs.frozen
class Overlay:
    """A state that grows above what is shared."""

    own: dict[StateKey, EventId]
    shared: Shared

    def get(self, key: StateKey) -> EventId | None:
        return self.own.get(key) or self.shared.get(key)


@attrs.frozen
class StateDiff:
    """What leads from one state to another: entries to add or replace, and keys that are no longer there."""

    changed: dict[StateKey, EventId]
    removed: frozenset[StateKey]

    def __bool__(self) -> bool:
        return bool(self.changed or self.removed)


def build_state_map(
    entries: Mapping[StateKey, EventId] | Iterable[tuple[StateKey, EventId]] = (),
) -> StateMap:
    return immutables.Map(entries)


def diff(before: Mapping[StateKey, EventId], after: Mapping[StateKey, EventId]) -> StateDiff:
    """The difference of two states; O(n), so not for each message."""
    if before is after:
        return StateDiff({}, frozenset())
    changed = {key: event_id for key, event_id in after.items() if before.get(key) != event_id}
    removed = frozenset(key for key in before if key not in after)
    return StateDiff(changed, removed)


def apply_diff(state: StateMap, change: StateDiff) -> StateMap:
    """The state that `change` leads to; shares structure with `state`."""
    mutation = state.mutate()
    mutation.update(change.changed)
    for key in change.removed:
        mutation.pop(key, None)
    return mutation.finish()
