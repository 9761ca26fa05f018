"""State resolution over rooms that nobody thought of: random histories in up to three forks."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.matrix.auth_graph import AuthGraph
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.state_res import resolve
from homeserver.matrix.state_res_v2 import load_auth_difference, separate
from homeserver.matrix.versions import V1, V2, V6, V11, V12, RoomVersion
from tests.matrix.event_factory import ALICE, BOB, CHARLIE, DAVE, Room

USERS = (ALICE, BOB, CHARLIE, DAVE)
State = dict[StateKey, EventId]

users = st.sampled_from(USERS)
times = st.integers(0, 30)
actions = st.one_of(
    st.tuples(st.just("member"), users, users, st.sampled_from(["join", "leave", "ban", "invite"]), times),
    st.tuples(st.just("levels"), users, users, st.sampled_from([0, 50, 100]), times),
    st.tuples(st.just("rule"), users, users, st.sampled_from(["public", "invite"]), times),
    st.tuples(st.just("topic"), users, users, st.just("t"), times),
)
histories = st.tuples(
    st.lists(actions, max_size=8), st.lists(st.lists(actions, min_size=1, max_size=6), min_size=2, max_size=3)
)
versions = st.sampled_from([V1, V2, V6, V11, V12])
relaxed = settings(max_examples=60)


@attrs.frozen
class Forked:
    room: Room
    states: list[State]

    def resolve(self, states: list[State] | tuple[State, ...]) -> State:
        return resolve(self.room.version, states, self.room.load, room_id=self.room.room_id)


def _try(room: Room, action: tuple[str, str, str, Any, int]) -> None:
    """Do it if the authorisation rules let it pass, as a server would."""
    kind, sender, target, value, ts = action
    name = f"{kind}-{room.clock}"
    scratch = dict(room.state)
    if kind == "member":
        event = room.member(sender, target, value, name, ts=ts)
    elif kind == "levels":
        event = room.levels(name, sender, {ALICE: 100, target: value}, ts=ts)
    elif kind == "rule":
        event = room.join_rule(name, value, sender=sender, ts=ts)
    else:
        event = room.send(name, "m.room.topic", sender, {"topic": name}, ts=ts)
    room.state = scratch
    try:
        check_auth(event, room.auth_state())
    except AuthRejected:
        del room.events[event.event_id]
    else:
        room.state = {**scratch, event.key: event.event_id}


def build(version: RoomVersion, history: Any) -> Forked:
    trunk, branches = history
    room = Room(version).opened()
    for action in trunk:
        _try(room, action)
    start, states = dict(room.state), []
    for branch in branches:
        room.state = dict(start)
        for action in branch:
            _try(room, action)
        states.append(room.state)
    return Forked(room, states)


@relaxed
@given(versions, histories)
def test_the_order_of_the_states_does_not_matter(version: RoomVersion, history: Any) -> None:
    forked = build(version, history)
    results = [forked.resolve(order) for order in permutations(forked.states)]
    assert all(result == results[0] for result in results)


@relaxed
@given(versions, histories)
def test_a_state_resolved_with_itself_is_itself(version: RoomVersion, history: Any) -> None:
    forked = build(version, history)
    for state in [*forked.states, forked.resolve(forked.states)]:
        assert forked.resolve([state, dict(state)]) == state


@relaxed
@given(versions, histories)
def test_the_resolution_is_made_of_what_the_states_have_or_their_chains(version: RoomVersion, history: Any) -> None:
    forked = build(version, history)
    resolved = forked.resolve(forked.states)
    unconflicted, _ = separate(forked.states)
    assert unconflicted.items() <= resolved.items()
    assert all(forked.room.events[event_id].key == key for key, event_id in resolved.items())


@relaxed
@given(versions, histories)
def test_repeating_a_state_changes_nothing(version: RoomVersion, history: Any) -> None:
    forked = build(version, history)
    assert forked.resolve([*forked.states, dict(forked.states[0])]) == forked.resolve(forked.states)


@relaxed
@given(versions, histories)
def test_a_graph_that_is_kept_gives_the_same_resolution(version: RoomVersion, history: Any) -> None:
    forked = build(version, history)
    room = forked.room
    graph = AuthGraph(lambda ids: {id: room.events[id].auth_events for id in ids if id in room.events})
    for _ in range(2):
        kept = resolve(version, forked.states, room.load, room_id=room.room_id, graph=graph)
        assert kept == forked.resolve(forked.states)


# -- the graph walks against the definitions, word by word ---------------------------------------------------

graphs = st.lists(st.sets(st.integers(0, 11), max_size=3), min_size=1, max_size=12)
state_ids = st.lists(st.sets(st.integers(0, 11), min_size=1), min_size=2, max_size=3)


def _as_edges(shape: list[set[int]]) -> dict[EventId, tuple[EventId, ...]]:
    """Event n may name lower numbers only, so there is no cycle."""
    return {
        EventId(str(number)): tuple(EventId(str(parent)) for parent in parents if parent < number)
        for number, parents in enumerate(shape)
    }


def _chain(edges: Mapping[EventId, tuple[EventId, ...]], event_id: EventId) -> set[EventId]:
    parents = set(edges.get(event_id, ()))
    return parents.union(*(_chain(edges, parent) for parent in parents))


def _graph(edges: Mapping[EventId, tuple[EventId, ...]]) -> AuthGraph:
    return AuthGraph(lambda ids: {event_id: edges[event_id] for event_id in ids if event_id in edges})


@given(graphs, state_ids)
def test_the_auth_difference_is_what_not_every_chain_has(shape: list[set[int]], numbers: list[set[int]]) -> None:
    edges = _as_edges(shape)
    states = [{EventId(str(number)) for number in state} for state in numbers]
    unconflicted = set.intersection(*states)
    conflicted = [state - unconflicted for state in states]
    chains = [state.union(*(_chain(edges, event_id) for event_id in state)) for state in states]
    expected = chains[0].union(*chains) - chains[0].intersection(*chains)
    found = load_auth_difference(_graph(edges), unconflicted, conflicted)
    assert found.union(*conflicted) == expected.union(*conflicted)


@given(graphs, st.sets(st.integers(0, 11), min_size=1))
def test_the_subgraph_is_what_lies_between_two_ends(shape: list[set[int]], numbers: set[int]) -> None:
    edges = _as_edges(shape)
    ends = {EventId(str(number)) for number in numbers}
    between = {
        event_id
        for event_id in edges
        if _chain(edges, event_id) & ends and any(event_id in _chain(edges, end) for end in ends)
    }
    assert _graph(edges).load_subgraph(ends) == ends | between
