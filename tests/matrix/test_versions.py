"""Room versions: one row of the table for each version, as the specification's pages name the changes."""

from __future__ import annotations

import pickle

import attrs
import pytest

from homeserver.matrix.errors import UnsupportedRoomVersion
from homeserver.matrix.versions import ROOM_VERSIONS, EventIdFormat, StateResolution, room_version

ORDER = [str(number) for number in range(1, 13)]

FIRST_WITH = {
    "strict_canonical_json": 6,
    "enforce_key_validity": 5,
    "redacts_in_content": 11,
    "room_id_is_create_hash": 12,
    "creator_is_sender": 11,
    "creators_have_infinite_power": 12,
    "additional_creators": 12,
    "notifications_power_levels_checked": 6,
    "knock": 7,
    "restricted_join": 8,
    "knock_restricted": 10,
    "integer_power_levels": 10,
    "redaction_keeps_join_rules_allow": 8,
    "redaction_keeps_authorising_user": 9,
    "redaction_keeps_create_content": 11,
    "redaction_keeps_power_levels_invite": 11,
    "redaction_keeps_third_party_signed": 11,
    "redaction_keeps_redacts_content": 11,
}
FIRST_WITHOUT = {
    "references_carry_hashes": 3,
    "create_in_auth_events": 12,
    "aliases_auth_rule": 6,
    "redaction_auth_rule": 3,
    "redaction_keeps_legacy_top_level": 11,
    "redaction_keeps_aliases": 6,
}


def test_all_versions_are_there() -> None:
    assert list(ROOM_VERSIONS) == ORDER
    assert [room_version(name).identifier for name in ORDER] == ORDER


@pytest.mark.parametrize("identifier", ["", "0", "13", "org.example.1", "1 "])
def test_unknown_version_is_unsupported(identifier: str) -> None:
    with pytest.raises(UnsupportedRoomVersion) as caught:
        room_version(identifier)
    assert (caught.value.status, caught.value.errcode) == (400, "M_UNSUPPORTED_ROOM_VERSION")


@pytest.mark.parametrize(("rule", "first"), FIRST_WITH.items())
def test_rule_holds_from_its_version_on(rule: str, first: int) -> None:
    assert [getattr(room_version(name), rule) for name in ORDER] == [int(name) >= first for name in ORDER]


@pytest.mark.parametrize(("rule", "first"), FIRST_WITHOUT.items())
def test_rule_ends_with_its_version(rule: str, first: int) -> None:
    assert [getattr(room_version(name), rule) for name in ORDER] == [int(name) < first for name in ORDER]


def test_every_flag_is_in_the_tables() -> None:
    flags = {field.name for field in attrs.fields(type(room_version("1"))) if field.type in (bool, "bool")}
    assert flags == FIRST_WITH.keys() | FIRST_WITHOUT.keys()


def test_event_ids_state_resolution_and_depth() -> None:
    versions = [room_version(name) for name in ORDER]
    wire, std, url = (
        EventIdFormat.SERVER_ASSIGNED,
        EventIdFormat.HASH_BASE64,
        EventIdFormat.HASH_URLSAFE_BASE64,
    )
    assert [version.event_id_format for version in versions] == [wire, wire, std, *[url] * 9]
    v1, v2, v21 = StateResolution.V1, StateResolution.V2, StateResolution.V2_1
    assert [version.state_resolution for version in versions] == [v1, *[v2] * 10, v21]
    assert [version.max_depth for version in versions] == [2**63 - 1] * 5 + [2**53 - 1] * 7


def test_a_pickled_version_is_the_same_object() -> None:
    version = room_version("11")
    assert pickle.loads(pickle.dumps(version)) is version
