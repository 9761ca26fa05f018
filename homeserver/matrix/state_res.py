"""State resolution: one room state out of several that disagree.

`resolve` splits what all states agree on from what they don't, and gives the rest to the algorithm of the
room version. Everything is computed from events that the loader returns; the loader is synchronous, so the
caller loads ahead or is already in a database thread.

Cost: one pass over the states to find the conflicts; after that the work depends on the conflicted events
and their auth chains, not on the size of the room. See state_res_v2.load_auth_difference for the one
exception and how it is bounded.

Spec: server-server-api#room-state-resolution
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from homeserver.matrix.auth_graph import AuthEvents, AuthGraph, LoadEvents
from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import NOTHING, Shared, StateKey
from homeserver.matrix.state_res_v1 import resolve_v1
from homeserver.matrix.state_res_v2 import ResolverV2
from homeserver.matrix.versions import RoomVersion, StateResolution


def resolve(
    version: RoomVersion,
    state_sets: Sequence[Mapping[StateKey, EventId]],
    load: LoadEvents,
    *,
    room_id: RoomId,
    rejected: Collection[EventId] = (),
    graph: AuthGraph | None = None,
    shared: Shared = NOTHING,
) -> dict[StateKey, EventId]:
    """The resolution of the states, which is the same for any order of them.

    `load` returns the events it knows of those asked for. `rejected` are ids of rejected events: they are
    no auth events for others (pass a set). `graph` is a memory of edges kept from earlier resolutions of
    this room. `shared` is what the states have in common beside: with it `state_sets`, and the answer, have only
    the keys in which they may differ.

    Spec: rooms/v12#state-resolution
    """
    states = _distinct(state_sets)
    if len(states) <= 1:
        return dict(states[0]) if states else {}
    events = AuthEvents(load)
    if version.state_resolution is StateResolution.V1:
        return resolve_v1(states, events, shared)
    resolver = ResolverV2(
        version,
        events,
        AuthGraph(events.load_edges) if graph is None else graph,
        room_id=room_id,
        rejected=rejected,
    )
    return resolver.resolve(states, shared)


def _distinct(state_sets: Sequence[Mapping[StateKey, EventId]]) -> list[Mapping[StateKey, EventId]]:
    """The states without those that are one and the same object, as heads often share theirs."""
    return list({id(state): state for state in state_sets}.values())
