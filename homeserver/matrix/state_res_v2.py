"""State resolution of room versions 2 to 11 (v2) and 12 (v2.1).

The idea: what the states disagree on, and the events by which they came to disagree (the auth difference),
are put in one order that all servers compute alike, and are replayed under the authorisation rules. Events
that can take power away go first, so that nobody outruns their own ban.

v2.1 differs in two places, marked below: the replay starts from nothing instead of from the unconflicted
state, and events on auth paths between conflicted events are replayed too. Both make old state, brought in
by a wrong /state answer, lose.

Spec: rooms/v12#state-resolution
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain

from homeserver.matrix.auth_graph import AuthEvents, AuthGraph
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId, RoomId, create_event_id_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import power_levels
from homeserver.matrix.state_map import CREATE, NOTHING, POWER_LEVELS, Overlay, Shared, StateKey
from homeserver.matrix.versions import RoomVersion, StateResolution

_PowerOrder = tuple[int, int, EventId]


class ResolverV2:
    """One resolution of one room; keep nothing of it but the AuthGraph.

    Spec: rooms/v12#state-resolution
    """

    def __init__(
        self,
        version: RoomVersion,
        events: AuthEvents,
        graph: AuthGraph,
        *,
        room_id: RoomId,
        rejected: Collection[EventId],
    ) -> None:
        self._version = version
        self._events = events
        self._graph = graph
        self._room_id = room_id
        self._rejected = rejected
        self._is_v2_1 = version.state_resolution is StateResolution.V2_1

    def resolve(
        self, states: Sequence[Mapping[StateKey, EventId]], shared: Shared = NOTHING
    ) -> dict[StateKey, EventId]:
        """The resolution of the states, without what they share beside (`shared`).

        Spec: rooms/v12#algorithm
        """
        unconflicted, conflicted = separate(states)
        if not any(conflicted):
            return unconflicted
        full = self._load_full_conflicted_set(chain(unconflicted.values(), shared.event_ids()), conflicted)
        # 1. Power events and what authorises them, in reverse topological power order.
        power_events = self._select_power_events(full)
        ordered = self._sort_by_power(power_events)
        # 2. Replay them: v2.1 on nothing, v2 on the unconflicted state.
        state = Overlay({}, NOTHING) if self._is_v2_1 else Overlay(dict(unconflicted), shared)
        self._replay(ordered, state)
        # 3. All other events, in the mainline order of the power levels that came out.
        others = [event for event in full.values() if event.event_id not in power_events]
        ordered = self._sort_by_mainline(others, state.get(POWER_LEVELS))
        # 4. Replay them on what step 2 gave.
        self._replay(ordered, state)
        # 5. What was never in conflict stays.
        resolved = {key: event_id for key, event_id in state.own.items() if shared.get(key) is None}
        resolved.update(unconflicted)
        return resolved

    def _load_full_conflicted_set(
        self, unconflicted: Iterable[EventId], conflicted: Sequence[AbstractSet[EventId]]
    ) -> dict[EventId, Pdu]:
        conflicted_ids = set().union(*conflicted)
        full = conflicted_ids | load_auth_difference(self._graph, unconflicted, conflicted)
        if self._is_v2_1:
            full |= self._graph.load_subgraph(conflicted_ids)
        found = self._events.load(sorted(full))
        # Sorting and replaying look at the auth events of each: one load for all of them.
        self._events.preload(auth_id for event in found for auth_id in event.auth_events)
        return {event.event_id: event for event in found}

    def _select_power_events(self, full: Mapping[EventId, Pdu]) -> dict[EventId, Pdu]:
        """Power events of the full conflicted set, and the events of the set in their auth chains.

        SPEC: chains are followed inside the set only, as Synapse does. In v2.1 that is no
        difference, as the set has everything between two of its conflicted events; in v2 it is one only
        where /state answers were wrong.
        """
        selected: dict[EventId, Pdu] = {}
        stack = [event for event in full.values() if is_power_event(event)]
        while stack:
            event = stack.pop()
            if event.event_id not in selected:
                selected[event.event_id] = event
                stack += (full[auth_id] for auth_id in event.auth_events if auth_id in full)
        return selected

    def _sort_by_power(self, selected: Mapping[EventId, Pdu]) -> list[Pdu]:
        """Reverse topological power ordering: Kahn's algorithm, the smallest candidate first.

        Events of a cycle, which servers can forge in version 2 where ids are no hashes, are left out.
        """
        waiting: dict[EventId, int] = {}
        children: dict[EventId, list[EventId]] = {}
        for event in selected.values():
            parents = {auth_id for auth_id in event.auth_events if auth_id in selected}
            waiting[event.event_id] = len(parents)
            for parent in parents:
                children.setdefault(parent, []).append(event.event_id)
        heap = [self._power_order(selected[event_id]) for event_id, count in waiting.items() if count == 0]
        heapq.heapify(heap)
        ordered = []
        while heap:
            event_id = heapq.heappop(heap)[2]
            ordered.append(selected[event_id])
            for child in children.get(event_id, ()):
                waiting[child] -= 1
                if waiting[child] == 0:
                    heapq.heappush(heap, self._power_order(selected[child]))
        return ordered

    def _power_order(self, event: Pdu) -> _PowerOrder:
        """Greater power of the sender first, then the older, then the smaller id."""
        create, levels = self._load_room_create(), None
        for auth_event in self._events.load(event.auth_events):
            if (auth_event.type, auth_event.state_key) == POWER_LEVELS:
                levels = auth_event
            elif (auth_event.type, auth_event.state_key) == CREATE:
                create = auth_event
        power = power_levels(self._version, create, levels).user(event.sender)
        return -power, event.origin_server_ts, event.event_id

    def _load_room_create(self) -> Pdu | None:
        """The create event that the room id names; None before version 12."""
        if not self._version.room_id_is_create_hash:
            return None
        return self._events.load_one(create_event_id_of(self._room_id))

    def _sort_by_mainline(self, others: Iterable[Pdu], power_levels_id: EventId | None) -> list[Pdu]:
        """Events authorised by older power levels first, then by age, then by id."""
        mainline = self._load_mainline(power_levels_id)
        positions: dict[EventId, int] = {}

        def order(event: Pdu) -> tuple[int, int, EventId]:
            position = self._load_mainline_position(event, mainline, positions)
            return -position, event.origin_server_ts, event.event_id

        return sorted(others, key=order)

    def _load_mainline(self, power_levels_id: EventId | None) -> dict[EventId, int]:
        """The power levels and those that authorised them, back to the first, each with its place."""
        mainline: dict[EventId, int] = {}
        event = self._events.load_one(power_levels_id) if power_levels_id is not None else None
        while event is not None and event.event_id not in mainline:
            mainline[event.event_id] = len(mainline)
            event = self._load_power_levels_of(event)
        return mainline

    def _load_mainline_position(
        self, event: Pdu, mainline: Mapping[EventId, int], positions: dict[EventId, int]
    ) -> int:
        """The place of the nearest power levels that are in the mainline; len(mainline) stands for "none".

        `positions` remembers the answer for each power-levels event met on the way.
        """
        path: list[EventId] = []
        position = len(mainline)
        current = self._load_power_levels_of(event)
        while current is not None and current.event_id not in path:
            known = mainline.get(current.event_id, positions.get(current.event_id))
            if known is not None:
                position = known
                break
            path.append(current.event_id)
            current = self._load_power_levels_of(current)
        positions.update((event_id, position) for event_id in path)
        return position

    def _load_power_levels_of(self, event: Pdu) -> Pdu | None:
        for auth_event in self._events.load(event.auth_events):
            if (auth_event.type, auth_event.state_key) == POWER_LEVELS:
                return auth_event
        return None

    def _replay(self, ordered: Sequence[Pdu], state: Overlay) -> None:
        """The iterative auth checks: apply to `state` each event that is allowed in it.

        Spec: rooms/v12#definitions
        """
        required = [self._auth_types(event) for event in ordered]
        current = (state.get(key) for keys in required for key in keys)
        self._events.preload(event_id for event_id in current if event_id is not None)
        for event, keys in zip(ordered, required, strict=True):
            try:
                check_auth(event, self._load_auth_state(event, keys, state))
            except AuthRejected:
                continue
            state.own[event.key] = event.event_id

    def _auth_types(self, event: Pdu) -> list[StateKey]:
        return auth_types_for(event.version, event.type, event.sender, event.state_key, event.content)

    def _load_auth_state(self, event: Pdu, keys: Iterable[StateKey], state: Overlay) -> dict[StateKey, Pdu]:
        """Entries of `state`; where one is absent, the event's own auth event of that key if not rejected."""
        named = {
            auth_event.key: auth_event
            for auth_event in self._events.load(event.auth_events)
            if auth_event.state_key is not None and auth_event.event_id not in self._rejected
        }
        found: dict[StateKey, Pdu] = {}
        for key in keys:
            event_id = state.get(key)
            current = self._events.load_one(event_id) if event_id is not None else named.get(key)
            if current is not None:
                found[key] = current
        create = self._load_room_create()
        if create is not None:
            found[CREATE] = create
        return found


def separate(
    states: Sequence[Mapping[StateKey, EventId]],
) -> tuple[dict[StateKey, EventId], list[set[EventId]]]:
    """The unconflicted state map, and for each state its events of the conflicted state set.

    Spec: rooms/v12#definitions
    """
    first, rest = states[0], states[1:]
    unconflicted = {
        key: event_id for key, event_id in first.items() if all(state.get(key) == event_id for state in rest)
    }
    conflicted = [{event_id for key, event_id in state.items() if key not in unconflicted} for state in states]
    return unconflicted, conflicted


def is_power_event(event: Pdu) -> bool:
    """Whether the event may take away somebody's ability to do something in the room.

    Spec: rooms/v12#definitions
    """
    if event.state_key is None:
        return False
    if event.type == "m.room.member":
        return event.content.get("membership") in ("leave", "ban") and event.sender != event.state_key
    return event.type in ("m.room.power_levels", "m.room.join_rules") and event.state_key == ""


def load_auth_difference(
    graph: AuthGraph, unconflicted: Iterable[EventId], conflicted: Sequence[AbstractSet[EventId]]
) -> set[EventId]:
    """Events that are in the auth chain of some states but not of all.

    The full chain of state i is U + C_i: U the chains of the unconflicted events, which all states have,
    and C_i those of its conflicted events. So the difference is (union of C_i) - (intersection of C_i) - U.
    Only the C_i are walked. U is needed only if something is left after the intersection that is neither
    conflicted (it counts anyway) nor unconflicted; then one step up from the unconflicted events mostly
    settles it, because everything in the intersection is cut off with its ancestors. In the usual fork
    nothing is left, and the members of the room are never looked at (nor is `unconflicted` iterated).

    Rejected: pruning that walk by depth. Depths are what a peer says they are.

    SPEC: an event of a state counts as part of that state's chain, which the text leaves out. Synapse
    counts it; else an unconflicted event that only one side refers to would be replayed here and not
    there.

    Spec: rooms/v12#definitions
    """
    chains = [graph.load_ancestors(event_ids) | event_ids for event_ids in conflicted]
    common = set.intersection(*chains)
    left = set().union(*chains) - common - set().union(*conflicted)
    if not left:
        return set()
    common_state = set(unconflicted)
    left -= common_state
    return left - graph.load_reached(common_state, left, common)
