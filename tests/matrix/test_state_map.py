"""Room states and what lies between two of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.ids import EventId
from homeserver.matrix.state_map import CREATE, StateDiff, StateKey, apply_diff, build_state_map, diff

State = dict[StateKey, EventId]

keys = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["", "x", "y"]))
states = st.dictionaries(keys, st.sampled_from([EventId("$1"), EventId("$2")]))


@given(states, states)
def test_the_difference_leads_from_one_state_to_the_other(before: State, after: State) -> None:
    start = build_state_map(before)
    assert dict(apply_diff(start, diff(start, after))) == after
    assert dict(start) == before


@given(states)
def test_there_is_no_difference_between_equal_states(state: State) -> None:
    assert not diff(build_state_map(state), dict(state))
    assert not diff(state, state)


def test_a_difference_says_what_changed_and_what_went() -> None:
    before = {CREATE: EventId("$c"), ("a", ""): EventId("$1"), ("b", ""): EventId("$2")}
    after = {CREATE: EventId("$c"), ("a", ""): EventId("$3"), ("d", ""): EventId("$4")}
    expected = StateDiff({("a", ""): EventId("$3"), ("d", ""): EventId("$4")}, frozenset({("b", "")}))
    assert diff(before, after) == expected
    assert expected
