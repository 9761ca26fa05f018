"""The ranges of a sliding sync's lists."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.sync.sliding.request import merge_ranges
from tests.sync.test_sliding_sync import ask

ends = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: (min(pair), max(pair)))


def indices(ranges: Any) -> list[int]:
    return [index for first, last in ranges for index in range(first, last + 1)]


@given(st.lists(ends, max_size=12))
def test_merged_ranges_cover_the_same_each_once_and_in_order(ranges: list[tuple[int, int]]) -> None:
    merged = merge_ranges(ranges)
    assert indices(merged) == sorted(set(indices(ranges)))
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(merged))


def test_the_same_range_said_a_hundred_times_is_one() -> None:
    assert merge_ranges([(0, 2**53 - 2)] * 100) == ((0, 2**53 - 2),)


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([[0, 0]], {4}),
        ([[1, 2], [2, 3], [1, 1]], {3, 2, 1}),
        ([[4, 9], [0, 0]], {4, 0}),
        ([[5, 9]], set()),
        ([], set()),
    ],
)
def test_a_list_is_cut_to_its_ranges(alice: Any, ranges: Any, expected: set[int]) -> None:
    rooms = [alice.create_room() for _ in range(5)]
    both = {"ranges": [[0, 0]], "timeline_limit": 3, "required_state": [["m.room.create", ""]]}
    body = {"lists": {"l": {"ranges": ranges, "timeline_limit": 1, "required_state": []}}}
    assert set(ask(alice, body)["rooms"]) == {rooms[n] for n in expected}
    answer = ask(alice, {"conn_id": "two", "lists": {**body["lists"], "both": both}})
    assert answer["lists"] == {"l": {"count": 5}, "both": {"count": 5}}
    assert set(answer["rooms"]) == {rooms[n] for n in expected | {4}}
    assert [len(answer["rooms"][room]["required_state"]) for room in answer["rooms"]].count(1) == 1
    assert len(answer["rooms"][rooms[4]]["timeline"]) == 3
