"""Filters: what they let through, what they refuse, what they keep."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError
from homeserver.matrix.filters import EMPTY_FILTER, parse_filter, parse_room_event_filter

ROOM = "!room:x"
BOB = "@bob:x"

# The specification's example.
EXAMPLE: dict[str, Any] = {
    "room": {
        "state": {"types": ["m.room.*"], "not_rooms": ["!726s6s6q:example.com"]},
        "timeline": {
            "limit": 10,
            "types": ["m.room.message"],
            "not_rooms": ["!726s6s6q:example.com"],
            "not_senders": ["@spam:example.com"],
        },
        "ephemeral": {"types": ["m.receipt", "m.typing"], "not_senders": ["@spam:example.com"]},
    },
    "presence": {"types": ["m.presence"], "not_senders": ["@alice:example.com"]},
    "event_format": "client",
    "event_fields": ["type", "content", "sender"],
}


def matches(source: dict[str, Any], type: str = "m.room.message", sender: str | None = BOB, **content: Any) -> bool:
    return parse_room_event_filter(source).matches(type, sender, ROOM, content)


def test_example_of_the_specification() -> None:
    parsed = parse_filter(EXAMPLE)
    timeline, state = parsed.room.timeline, parsed.room.state
    assert timeline.limit == 10
    assert timeline.matches("m.room.message", BOB, ROOM, {})
    assert not timeline.matches("m.room.message", "@spam:example.com", ROOM, {})
    assert not timeline.matches("m.room.message", BOB, "!726s6s6q:example.com", {})
    assert state.matches("m.room.name", BOB, ROOM, {})
    assert not state.matches("org.example", BOB, ROOM, {})
    assert not parsed.presence.matches("m.presence", "@alice:example.com")
    assert parsed.presence.matches("m.presence", BOB)
    assert parsed.account_data.matches_all
    assert not parsed.is_trivial


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({}, True),
        ({"types": []}, False),
        ({"types": ["*"]}, True),
        ({"types": ["m.room.message"]}, True),
        ({"types": ["m.room.mess"]}, False),
        ({"types": ["m.room.*"]}, True),
        ({"types": ["*.message"]}, True),
        ({"types": ["m.*.message", "x"]}, True),
        ({"types": ["m.room.messag?"]}, False),
        ({"types": ["M.ROOM.*"]}, False),
        ({"types": ["m.room.*"], "not_types": ["m.room.message"]}, False),
        ({"not_types": ["*"]}, False),
        ({"not_types": ["m.call.*"]}, True),
        ({"not_types": ["m*e"]}, False),
        ({"senders": []}, False),
        ({"senders": [BOB]}, True),
        ({"senders": ["@eve:x"]}, False),
        ({"not_senders": [BOB]}, False),
        ({"senders": [BOB], "not_senders": [BOB]}, False),
        ({"rooms": []}, False),
        ({"rooms": [ROOM]}, True),
        ({"rooms": ["!other:x"]}, False),
        ({"not_rooms": [ROOM]}, False),
        ({"rooms": [ROOM], "not_rooms": [ROOM]}, False),
        ({"not_rooms": ["!other:x"]}, True),
    ],
)
def test_room_event_filter(source: dict[str, Any], expected: bool) -> None:
    parsed = parse_room_event_filter(source)
    assert parsed.matches("m.room.message", BOB, ROOM, {}) is expected
    assert not (parsed.matches_none and expected)
    assert expected or not parsed.matches_all


@pytest.mark.parametrize(
    ("wanted", "content", "expected"),
    [
        (True, {"url": "mxc://x/y"}, True),
        (True, {"url": None}, True),
        (True, {"body": "url"}, False),
        (False, {"url": "mxc://x/y"}, False),
        (False, {}, True),
    ],
)
def test_contains_url(wanted: bool, content: dict[str, Any], expected: bool) -> None:
    assert matches({"contains_url": wanted}, **content) is expected


THREAD = {"m.relates_to": {"rel_type": "m.thread"}}


@pytest.mark.parametrize(
    ("field", "content", "expected"),
    [
        ("rel_types", THREAD, True),
        ("rel_types", {}, False),
        ("rel_types", {"m.relates_to": {"rel_type": ["m.thread"]}}, False),
        ("not_rel_types", THREAD, False),
        ("not_rel_types", {}, True),
        ("not_rel_types", {"m.relates_to": "m.thread"}, True),
        ("not_rel_types", {"m.relates_to": {"rel_type": "m.annotation"}}, True),
    ],
)
def test_relation_types(field: str, content: dict[str, Any], expected: bool) -> None:
    assert matches({f"org.matrix.msc3874.{field}": ["m.thread"]}, **content) is expected


def test_related_by_fields_are_for_the_query() -> None:
    parsed = parse_room_event_filter({"related_by_rel_types": ["m.thread"], "related_by_senders": [BOB]})
    assert parsed.related_by_rel_types == frozenset({"m.thread"})
    assert parsed.related_by_senders == frozenset({BOB})
    assert parsed.matches("m.room.message", BOB, ROOM, {})


def test_events_without_sender_pass_unless_senders_are_asked_for() -> None:
    assert matches({"not_senders": [BOB]}, "m.typing", None)
    assert not matches({"senders": [BOB]}, "m.typing", None)


@given(
    st.lists(st.text(alphabet="ab*", max_size=4), max_size=3),
    st.lists(st.text(alphabet="ab*", max_size=4), max_size=3),
    st.text(alphabet="ab", max_size=6),
)
def test_types_agree_with_a_naive_match(types: list[str], not_types: list[str], event_type: str) -> None:
    expected = any(naive_glob(p, event_type) for p in types)
    expected = expected and not any(naive_glob(p, event_type) for p in not_types)
    parsed = parse_room_event_filter({"types": types, "not_types": not_types})
    assert parsed.matches(event_type, BOB, ROOM, {}) is expected
    assert not (parsed.matches_none and expected)
    assert expected or not parsed.matches_all


def naive_glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(naive_glob(pattern[1:], text[i:]) for i in range(len(text) + 1))
    return text[:1] == pattern[0] and naive_glob(pattern[1:], text[1:])


def test_hostile_types_cost_little() -> None:
    start = time.process_time()
    assert not matches({"types": ["a*" * 100 + "b"]}, "a" * 255)
    assert time.process_time() - start < 1


def test_limits() -> None:
    parsed = parse_room_event_filter({"limit": 5000})
    assert parsed.limit_within(10, 100) == 100
    assert parse_room_event_filter({"limit": 0}).limit_within(10, 100) == 0
    assert EMPTY_FILTER.room.timeline.limit_within(10, 100) == 10


def test_flags() -> None:
    parsed = parse_filter(
        {
            "room": {
                "include_leave": True,
                "state": {"lazy_load_members": True, "include_redundant_members": True},
                "timeline": {"unread_thread_notifications": True},
            }
        }
    )
    assert parsed.room.include_leave
    assert parsed.lazy_load_members
    assert parsed.include_redundant_members
    assert parsed.unread_thread_notifications
    assert parsed.is_trivial


def test_the_empty_filter_is_trivial() -> None:
    empty = EMPTY_FILTER
    assert empty.is_trivial
    assert not (empty.lazy_load_members or empty.include_redundant_members or empty.room.include_leave)


@pytest.mark.parametrize(
    "source",
    [
        {"event_fields": ["type"]},
        {"event_format": "federation"},
        {"presence": {"not_types": ["*"]}},
        {"account_data": {"senders": []}},
        {"room": {"rooms": [ROOM]}},
        {"room": {"ephemeral": {"types": []}}},
        {"room": {"timeline": {"contains_url": False}}},
    ],
)
def test_filters_that_leave_something_out_are_not_trivial(source: dict[str, Any]) -> None:
    assert not parse_filter(source).is_trivial


@pytest.mark.parametrize(
    ("source", "error", "where"),
    [
        ([], BadJson, "object"),
        (None, BadJson, "object"),
        ("0", BadJson, "object"),
        ({"room": []}, BadJson, "room"),
        ({"presence": None}, BadJson, "presence"),
        ({"room": {"include_leave": "yes"}}, BadJson, "room.include_leave"),
        ({"room": {"timeline": {"limit": "10"}}}, BadJson, "room.timeline.limit"),
        ({"room": {"timeline": {"limit": 1.5}}}, BadJson, "room.timeline.limit"),
        ({"room": {"timeline": {"limit": True}}}, BadJson, "room.timeline.limit"),
        ({"room": {"timeline": {"limit": -1}}}, InvalidParam, "room.timeline.limit"),
        ({"room": {"state": {"types": "m.room.*"}}}, BadJson, "room.state.types"),
        ({"room": {"state": {"types": [1]}}}, BadJson, "room.state.types"),
        ({"room": {"state": {"contains_url": 1}}}, BadJson, "room.state.contains_url"),
        ({"room": {"state": {"not_rooms": ["#a:x"]}}}, InvalidParam, "room.state.not_rooms"),
        ({"room": {"rooms": ["x"]}}, InvalidParam, "room.rooms"),
        ({"account_data": {"not_senders": ["bob"]}}, InvalidParam, "account_data.not_senders"),
        ({"event_format": "cbor"}, BadJson, "event_format"),
        ({"event_fields": [["type"]]}, BadJson, "event_fields"),
        ({"event_fields": ["a" + ".a" * 100]}, InvalidParam, "event_fields"),
        (
            {"room": {"timeline": {"org.matrix.msc3874.rel_types": 5}}},
            BadJson,
            "room.timeline.org.matrix.msc3874.rel_types",
        ),
    ],
)
def test_malformed_filters_name_the_field(source: object, error: type[MatrixError], where: str) -> None:
    with pytest.raises(error) as raised:
        parse_filter(source)
    assert where in raised.value.error


def test_equal_parts_of_filters_are_one() -> None:
    one = parse_filter({"org.example": 1, "room": {"timeline": {"org.example": [2], "types": ["a", "b"]}}})
    other = parse_filter({"room": {"timeline": {"types": ["a", "b"]}, "not_rooms": ["!room:here"]}})
    assert one.room.timeline is other.room.timeline
    assert one.room != other.room
    assert one.room.state is not one.room.timeline and one.presence is one.account_data


EVENT: dict[str, Any] = {
    "type": "m.room.message",
    "sender": BOB,
    "content": {"body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": "$e"}},
}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["type"], {"type": "m.room.message"}),
        (["content.body", "sender"], {"content": {"body": "x"}, "sender": BOB}),
        ([r"content.m\.relates_to.rel_type"], {"content": {"m.relates_to": {"rel_type": "m.thread"}}}),
        (["content.m.relates_to"], {}),
        (["content", "content.body"], {"content": EVENT["content"]}),
        (["content.body", "content"], {"content": EVENT["content"]}),
        (["type.x", "unsigned"], {}),
        ([], {}),
    ],
)
def test_event_fields(fields: list[str], expected: dict[str, Any]) -> None:
    assert parse_filter({"event_fields": fields}).prune(EVENT) == expected


def test_without_event_fields_the_event_is_untouched() -> None:
    assert EMPTY_FILTER.prune(EVENT) is EVENT


@pytest.mark.parametrize(
    "source",
    [
        {"room": {"rooms": [ROOM], "include_leave": True}},
        {"room": {"timeline": {"not_rooms": [ROOM]}, "state": {"rooms": [ROOM]}}},
        {"room": {"ephemeral": {"types": []}}},
        {"presence": {"types": []}, "account_data": {"types": []}},
    ],
)
def test_sync_key_leaves_out_what_does_not_change_timeline_and_state(source: dict[str, Any]) -> None:
    assert parse_filter(source).sync_key == EMPTY_FILTER.sync_key


@pytest.mark.parametrize(
    "source",
    [
        {"event_fields": ["type"]},
        {"event_format": "federation"},
        {"room": {"timeline": {"limit": 1}}},
        {"room": {"timeline": {"types": []}}},
        {"room": {"state": {"types": []}}},
        {"room": {"state": {"not_types": ["a"]}}},
        {"room": {"state": {"senders": [BOB]}}},
        {"room": {"state": {"lazy_load_members": True}}},
        {"room": {"state": {"include_redundant_members": True}}},
        {"room": {"timeline": {"contains_url": False}}},
        {"room": {"timeline": {"org.matrix.msc3874.not_rel_types": ["m.thread"]}}},
    ],
)
def test_sync_key_tells_what_changes_timeline_and_state(source: dict[str, Any]) -> None:
    assert parse_filter(source).sync_key != EMPTY_FILTER.sync_key


def test_sync_key_does_not_depend_on_the_order_of_lists() -> None:
    one = parse_filter({"room": {"timeline": {"types": ["a", "b"]}}})
    other = parse_filter({"room": {"timeline": {"types": ["b", "a", "b"]}}})
    assert one.sync_key == other.sync_key
