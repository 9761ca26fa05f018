"""Redaction: every version's table, written out once more from the specification."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix.redaction import redact
from homeserver.matrix.versions import ROOM_VERSIONS, V11, RoomVersion, room_version

NUMBERS = range(1, 13)
TOP_LEVEL = {
    *("event_id", "type", "room_id", "sender", "state_key", "content", "hashes", "signatures"),
    *("depth", "prev_events", "auth_events", "origin_server_ts"),
}
LEGACY = {"origin", "membership", "prev_state"}
POWER_LEVELS = {
    *("ban", "events", "events_default", "kick"),
    *("redact", "state_default", "users", "users_default"),
}


def kept_content(event_type: str, version: int) -> set[str]:
    """The keys of content that the version's page lists."""
    return {
        "m.room.member": {"membership"} | ({"join_authorised_via_users_server"} if version >= 9 else set()),
        "m.room.create": {"creator"},
        "m.room.join_rules": {"join_rule"} | ({"allow"} if version >= 8 else set()),
        "m.room.power_levels": POWER_LEVELS | ({"invite"} if version >= 11 else set()),
        "m.room.history_visibility": {"history_visibility"},
        "m.room.aliases": {"aliases"} if version < 6 else set(),
        "m.room.redaction": {"redacts"} if version >= 11 else set(),
    }.get(event_type, set())


ALL_CONTENT: dict[str, Any] = dict.fromkeys(
    POWER_LEVELS
    | {"membership", "join_authorised_via_users_server", "creator", "join_rule", "allow", "invite", "redacts"}
    | {"history_visibility", "aliases", "body", "displayname", "notifications", "room_version", "m.federate"},
    1,
)
TYPES = [
    "m.room.member",
    "m.room.create",
    "m.room.join_rules",
    "m.room.power_levels",
    "m.room.history_visibility",
    "m.room.aliases",
    "m.room.redaction",
    "m.room.message",
    "m.room.server_acl",
]


@pytest.mark.parametrize("number", NUMBERS)
def test_top_level_keys(number: int) -> None:
    event = dict.fromkeys(TOP_LEVEL | LEGACY | {"redacts", "unsigned", "age_ts", "extra"}, 1)
    redacted = redact({**event, "content": {}}, room_version(str(number)))
    assert redacted.keys() == (TOP_LEVEL | LEGACY if number < 11 else TOP_LEVEL)


@pytest.mark.parametrize("event_type", TYPES)
@pytest.mark.parametrize("number", NUMBERS)
def test_content_keys(number: int, event_type: str) -> None:
    redacted = redact({"type": event_type, "content": ALL_CONTENT}, room_version(str(number)))
    everything = event_type == "m.room.create" and number >= 11
    expected = ALL_CONTENT.keys() if everything else kept_content(event_type, number)
    assert redacted["content"].keys() == expected


@pytest.mark.parametrize("number", NUMBERS)
def test_signed_part_of_a_third_party_invite_stays_from_v11(number: int) -> None:
    content = {"membership": "invite", "third_party_invite": {"display_name": "x", "signed": {"token": "t"}}}
    redacted = redact({"type": "m.room.member", "content": content}, room_version(str(number)))["content"]
    assert redacted.get("third_party_invite") == ({"signed": {"token": "t"}} if number >= 11 else None)


def test_third_party_invite_that_is_no_object_goes() -> None:
    content = {"membership": "invite", "third_party_invite": "x"}
    assert redact({"type": "m.room.member", "content": content}, V11)["content"] == {"membership": "invite"}


@pytest.mark.parametrize("event", [{}, {"type": 1, "content": {"a": 1}}, {"type": [], "content": 5}])
def test_malformed_event_has_empty_content(event: dict[str, Any]) -> None:
    assert redact(event, V11)["content"] == {}


def test_the_event_given_is_left_alone() -> None:
    event = {"type": "m.room.message", "content": {"body": "x"}, "unsigned": {}}
    redact(event, V11)
    assert event == {"type": "m.room.message", "content": {"body": "x"}, "unsigned": {}}


@given(
    st.sampled_from(list(ROOM_VERSIONS.values())),
    st.sampled_from(TYPES),
    st.dictionaries(st.sampled_from(sorted(ALL_CONTENT)), st.integers()),
)
def test_redacting_twice_is_redacting_once(version: RoomVersion, event_type: str, content: dict[str, int]) -> None:
    once = redact({"type": event_type, "content": content, "unsigned": {}, "origin": "a"}, version)
    assert redact(once, version) == once
