"""State resolution of room version 1: by depth, with the sha1 of the event id as the tie-break.

Power levels, join rules and memberships that are in conflict are replayed from the lowest depth up until
one is not allowed; of anything else the deepest allowed event is taken.

Spec: rooms/v1#state-resolution
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

from homeserver.matrix.auth_graph import AuthEvents
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import NOTHING, Overlay, Shared, StateKey

_REPLAYED_TYPES = ("m.room.power_levels", "m.room.join_rules", "m.room.member")


def resolve_v1(
    states: Sequence[Mapping[StateKey, EventId]], events: AuthEvents, shared: Shared = NOTHING
) -> dict[StateKey, EventId]:
    """The resolution of the states by the algorithm of room version 1, without what they share beside (`shared`).

    Spec: rooms/v1#state-resolution
    """
    # "Start by setting R to the union of the states, excluding any conflicting events."
    resolved, conflicted_ids = _separate(states)
    conflicted = {key: sorted(events.load(event_ids), key=_depth_order) for key, event_ids in conflicted_ids.items()}
    auth_state = _load_auth_state(Overlay(resolved, shared), conflicted, events)
    # "First power levels", then join rules, then members; each pass sees what the passes before it resolved.
    for type in _REPLAYED_TYPES:
        of_type = {key: candidates for key, candidates in conflicted.items() if key[0] == type}
        _resolve_pass(of_type, _replay, resolved, auth_state)
    # "For all other conflicts, pick the event with the highest depth and lowest sha1 that passes."
    others = {key: candidates for key, candidates in conflicted.items() if key[0] not in _REPLAYED_TYPES}
    _resolve_pass(others, _pick, resolved, auth_state)
    return resolved


def _separate(
    states: Sequence[Mapping[StateKey, EventId]],
) -> tuple[dict[StateKey, EventId], dict[StateKey, set[EventId]]]:
    """What is in no conflict, and the event ids for each key that is.

    A key that some states lack is in no conflict in this algorithm.
    """
    resolved: dict[StateKey, EventId] = dict(states[0])
    conflicted: dict[StateKey, set[EventId]] = {}
    for state in states[1:]:
        for key, event_id in state.items():
            known = resolved.setdefault(key, event_id)
            if known != event_id:
                conflicted.setdefault(key, {known}).add(event_id)
    for key in conflicted:
        del resolved[key]
    return resolved, conflicted


def _depth_order(event: Pdu) -> tuple[int, int]:
    """Ascending depth, then descending sha1 of the id."""
    digest = hashlib.sha1(event.event_id.encode(), usedforsecurity=False).digest()
    return event.depth, -int.from_bytes(digest)


def _load_auth_state(
    resolved: Overlay, conflicted: Mapping[StateKey, Iterable[Pdu]], events: AuthEvents
) -> dict[StateKey, Pdu]:
    """The part of R that the checks will ask for."""
    wanted = {
        key
        for candidates in conflicted.values()
        for event in candidates
        for key in auth_types_for(event.version, event.type, event.sender, event.state_key, event.content)
    }
    found = events.load(event_id for key in wanted if (event_id := resolved.get(key)) is not None)
    return {event.key: event for event in found}


def _resolve_pass(
    conflicted: Mapping[StateKey, Sequence[Pdu]],
    choose: Callable[[Sequence[Pdu], Mapping[StateKey, Pdu]], Pdu],
    resolved: dict[StateKey, EventId],
    auth_state: dict[StateKey, Pdu],
) -> None:
    """Resolve these keys; none of them sees the outcome of another, so their order does not matter."""
    chosen = {key: choose(candidates, auth_state) for key, candidates in conflicted.items() if candidates}
    auth_state.update(chosen)
    resolved.update((key, event.event_id) for key, event in chosen.items())


def _replay(candidates: Sequence[Pdu], auth_state: Mapping[StateKey, Pdu]) -> Pdu:
    """Take the first; go on while the next is allowed after the one before it."""
    state = dict(auth_state)
    chosen = candidates[0]
    for event in candidates[1:]:
        state[chosen.key] = chosen
        if not _is_allowed(event, state):
            return chosen
        chosen = event
    return chosen


def _pick(candidates: Sequence[Pdu], auth_state: Mapping[StateKey, Pdu]) -> Pdu:
    for event in reversed(candidates):
        if _is_allowed(event, auth_state):
            return event
    # SPEC: says nothing on what to do if none passes. The one of least depth stays, as in Synapse, which
    # most rooms of version 1 live on: a room that lacks the entry on one server only would diverge for good.
    return candidates[0]


def _is_allowed(event: Pdu, auth_state: Mapping[StateKey, Pdu]) -> bool:
    try:
        check_auth(event, auth_state)
    except AuthRejected:
        return False
    return True
