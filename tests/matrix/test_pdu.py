"""Pdus: building, reading back, format and size checks, hashes, in every room version."""

from __future__ import annotations

import copy
from typing import Any

import canonicaljson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeserver.matrix import hashing, signing
from homeserver.matrix.build import add_signature, build_pdu
from homeserver.matrix.errors import BadJson, BadSignature, MatrixError, TooLarge
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, is_hash_room_id
from homeserver.matrix.pdu import Pdu, load_pdu, parse_pdu, redact_pdu, redact_unless_hash_matches
from homeserver.matrix.redaction import redact
from homeserver.matrix.versions import ROOM_VERSIONS, V1, V3, V4, V5, V6, V10, V11, V12, RoomVersion

KEY = signing.SigningKey("a", b"k" * 32)
SERVER = ServerName("example.org")
ALICE = UserId("@alice:example.org")
ALL = list(ROOM_VERSIONS.values())
every_version = pytest.mark.parametrize("version", ALL, ids=lambda version: "v" + version.identifier)


def build(version: RoomVersion, **changes: Any) -> Pdu:
    """A message, or what the changes make of it, by alice."""
    hash_room = RoomId("!" + "r" * 43)
    fields: dict[str, Any] = {
        "type": "m.room.message",
        "sender": ALICE,
        "room_id": hash_room if version.room_id_is_create_hash else RoomId("!room:example.org"),
        "content": {"body": "hi", "msgtype": "m.text"},
        "prev_events": [EventId("$prev:example.org")],
        "auth_events": [EventId("$auth1:example.org"), EventId("$auth2:example.org")],
        "depth": 5,
        "origin_server_ts": 1_700_000_000_000,
    }
    if version.event_id_on_wire:
        fields["event_id"] = EventId("$new:example.org")
    if version.references_carry_hashes:
        fields["hashes_of"] = "hash of {}".format
    return build_pdu(version, **{**fields, **changes}, signing_key=KEY, server_name=SERVER)


def wire(version: RoomVersion, **changes: Any) -> dict[str, Any]:
    """The JSON of a good event with some fields replaced, or taken out where the value is ABSENT."""
    json = {**build(version).json, **changes}
    return {key: value for key, value in json.items() if value is not ABSENT}


ABSENT = object()


# -- round trips ---------------------------------------------------------------------------------------------


@every_version
def test_built_event_is_read_back_the_same(version: RoomVersion) -> None:
    built = build(version, state_key="k")
    parsed = parse_pdu(built.json, version)
    loaded = load_pdu(built.json_bytes, version, built.event_id)
    for pdu in (parsed, loaded):
        assert pdu == built
        assert hash(pdu) == hash(built)
        for name in (
            "room_id",
            "type",
            "state_key",
            "sender",
            "content",
            "depth",
            "prev_events",
            "auth_events",
        ):
            assert getattr(pdu, name) == getattr(built, name)
    assert built.auth_events == ("$auth1:example.org", "$auth2:example.org")
    assert built.key == ("m.room.message", "k")


@every_version
def test_built_event_has_right_hash_and_signature(version: RoomVersion) -> None:
    pdu = build(version)
    assert hashing.is_content_hash_right(pdu.json)
    assert hashing.compute_event_id(pdu.json, version) == pdu.event_id
    signing.verify_event_signature(pdu.json, version, SERVER, KEY.verify_key)
    assert pdu.json_bytes == canonicaljson.encode_canonical_json(pdu.json)


@every_version
def test_redacted_event_keeps_id_and_signature(version: RoomVersion) -> None:
    pdu = build(version)
    redacted = redact_pdu(pdu)
    assert redacted.content == {}
    assert redacted.event_id == hashing.compute_event_id(redacted.json, version) == pdu.event_id
    signing.verify_event_signature(redacted.json, version, SERVER, KEY.verify_key)


def test_old_versions_name_events_themselves_and_send_pairs() -> None:
    json = build(V1).json
    assert json["event_id"] == "$new:example.org"
    assert json["prev_events"] == [["$prev:example.org", {"sha256": "hash of $prev:example.org"}]]


def test_hash_ids_are_not_on_the_wire_and_in_two_alphabets() -> None:
    assert "event_id" not in build(V3).json
    digest = bytes([0xFB, 0xFF] * 16)
    assert hashing.event_id_of_hash(digest, V3).startswith("$+/")
    assert hashing.event_id_of_hash(digest, V4).startswith("$-_")


@pytest.mark.parametrize("version", [V10, V11])
def test_redacts_is_found_where_the_version_has_it(version: RoomVersion) -> None:
    pdu = build(version, type="m.room.redaction", content={"reason": "x"}, redacts=EventId("$target"))
    assert pdu.redacts == "$target"
    assert ("redacts" in pdu.json) is (version is V10)
    assert ("redacts" in pdu.content) is (version is V11)
    assert load_pdu(pdu.json_bytes, version, pdu.event_id).redacts == "$target"


def test_redacts_of_other_types_means_nothing() -> None:
    assert build(V11, content={"redacts": "$target"}).redacts is None
    assert build(V11, type="m.room.redaction", content={"redacts": 5}).redacts is None


def test_v12_create_event_gives_the_room_its_id() -> None:
    pdu = build(V12, type="m.room.create", state_key="", room_id=None, prev_events=[], auth_events=[])
    assert "room_id" not in pdu.json
    assert pdu.room_id == "!" + pdu.event_id[1:]
    assert is_hash_room_id(pdu.room_id)
    assert parse_pdu(pdu.json, V12).room_id == load_pdu(pdu.json_bytes, V12, pdu.event_id).room_id == pdu.room_id


def test_json_may_be_changed_by_who_asks_for_it() -> None:
    pdu = build(V11)
    pdu.json["content"]["body"] = "changed"
    assert pdu.json["content"]["body"] == pdu.content["body"] == "hi"


def test_unsigned_is_filtered_and_no_part_of_the_event() -> None:
    json = wire(V11, unsigned={"age": 5, "redacted_because": {}, "prev_content": {}})
    pdu = parse_pdu(json, V11)
    assert pdu.unsigned == {"age": 5}
    assert "unsigned" not in pdu.json
    assert parse_pdu(wire(V11, unsigned="x"), V11).unsigned == {}


def test_membership_is_only_that_of_member_events() -> None:
    assert build(V11, type="m.room.member", state_key=ALICE, content={"membership": "join"}).membership == "join"
    assert build(V11, type="m.room.member", state_key=ALICE, content={"membership": 1}).membership is None
    assert build(V11, content={"membership": "join"}).membership is None


def test_depth_stops_at_the_versions_largest() -> None:
    assert build(V11, depth=2**53 + 5).depth == 2**53 - 1
    assert build(V5, depth=2**53 + 5).depth == 2**53 + 5


def test_second_server_adds_its_signature() -> None:
    pdu = build(V11)
    both = add_signature(pdu, signing.SigningKey("b", b"x" * 32), ServerName("other.org"))
    assert both.event_id == pdu.event_id
    assert set(both.json["signatures"]) == {"example.org", "other.org"}
    signing.verify_event_signature(both.json, V11, SERVER, KEY.verify_key)


# -- hashes and signatures on receipt ------------------------------------------------------------------------


def test_event_of_right_hash_is_kept_as_it_is() -> None:
    pdu = parse_pdu(build(V11).json, V11)
    assert redact_unless_hash_matches(pdu) is pdu


@pytest.mark.parametrize("sha256", ["", "!", "AAAA", "A" * 43])
def test_event_of_wrong_hash_is_redacted(sha256: str) -> None:
    pdu = parse_pdu(wire(V11, hashes={"sha256": sha256}), V11)
    assert redact_unless_hash_matches(pdu).json == redact(pdu.json, V11)


def test_changed_content_breaks_the_hash_but_not_the_signature() -> None:
    json = wire(V11, content={"body": "forged"})
    assert not hashing.is_content_hash_right(json)
    signing.verify_event_signature(json, V11, SERVER, KEY.verify_key)
    pdu = redact_unless_hash_matches(parse_pdu(json, V11))
    assert (pdu.content, pdu.event_id) == ({}, build(V11).event_id)


def test_changed_header_breaks_the_signature() -> None:
    with pytest.raises(BadSignature):
        signing.verify_event_signature(wire(V11, sender="@eve:example.org"), V11, SERVER, KEY.verify_key)


# -- format --------------------------------------------------------------------------------------------------

BAD_FIELDS: list[tuple[str, Any]] = [
    *[(name, bad) for name in ("type", "sender", "room_id") for bad in (ABSENT, None, 1, [], {})],
    ("state_key", None),
    ("state_key", 1),
    ("sender", "alice"),
    ("sender", "@alice"),
    ("room_id", "room"),
    *[("origin_server_ts", bad) for bad in (ABSENT, None, "1", True, 2**63)],
    *[("depth", bad) for bad in (ABSENT, None, "1", True, -1, 2**63)],
    *[("content", bad) for bad in (ABSENT, None, [], "x")],
    *[(name, bad) for name in ("prev_events", "auth_events") for bad in (ABSENT, None, {}, "x", [1], [None], [[]])],
    *[(name, ["x"]) for name in ("prev_events", "auth_events")],
    *[("hashes", bad) for bad in (ABSENT, None, [], {}, {"sha256": 1})],
    *[("signatures", bad) for bad in (ABSENT, None, [], {"a": 1}, {"a": {"b": 1}})],
]


@pytest.mark.parametrize("version", [V1, V6, V12])
@pytest.mark.parametrize(("field", "bad"), BAD_FIELDS)
def test_wrong_field_is_named(version: RoomVersion, field: str, bad: Any) -> None:
    with pytest.raises(MatrixError, match=f"^{field}: "):
        parse_pdu(wire(version, **{field: bad}), version)


def test_fields_that_only_some_versions_have() -> None:
    with pytest.raises(BadJson, match=r"^event_id: "):
        parse_pdu(wire(V1, event_id=ABSENT), V1)
    with pytest.raises(BadJson, match=r"^prev_events: "):
        parse_pdu(wire(V1, prev_events=["$a:b"]), V1)
    with pytest.raises(BadJson, match=r"^prev_events: "):
        parse_pdu(wire(V3, prev_events=[["$a:b", {}]]), V3)
    with pytest.raises(MatrixError, match=r"^room_id: "):
        parse_pdu(wire(V11, room_id="!" + "r" * 43), V11)
    with pytest.raises(MatrixError, match=r"^room_id: "):
        parse_pdu(wire(V12, room_id="!room:example.org"), V12)
    with pytest.raises(BadJson, match=r"^room_id: "):
        parse_pdu(wire(V12, type="m.room.create", state_key=""), V12)
    with pytest.raises(BadJson, match=r"^redacts: "):
        parse_pdu(wire(V10, type="m.room.redaction", redacts=5), V10)


@pytest.mark.parametrize(("version", "most"), [(V5, 2**63 - 1), (V6, 2**53 - 1)])
def test_depth_up_to_the_border(version: RoomVersion, most: int) -> None:
    assert parse_pdu(wire(version, depth=most), version).depth == most
    with pytest.raises(BadJson, match=r"^depth: "):
        parse_pdu(wire(version, depth=most + 1), version)


@pytest.mark.parametrize("number", [1.5, 2**53])
def test_odd_numbers_are_refused_from_v6(number: float) -> None:
    assert parse_pdu(wire(V5, content={"n": [number]}), V5).content == {"n": [number]}
    with pytest.raises(BadJson):
        parse_pdu(wire(V6, content={"n": [number]}), V6)
    with pytest.raises(BadJson):
        build(V6, content={"n": number})


JSON_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(ALL), st.sampled_from(sorted({name for name, _ in BAD_FIELDS})), JSON_VALUES)
def test_any_value_in_a_field_is_parsed_or_refused(version: RoomVersion, field: str, value: Any) -> None:
    try:
        pdu = parse_pdu(copy.deepcopy(wire(version, **{field: value})), version)
    except MatrixError:
        return
    assert load_pdu(pdu.json_bytes, version, pdu.event_id) == pdu


# -- sizes ---------------------------------------------------------------------------------------------------


def test_event_of_65536_bytes_is_the_largest() -> None:
    room_left = 65536 - len(build(V11, content={"body": ""}).json_bytes)
    largest = build(V11, content={"body": "x" * room_left})
    assert len(largest.json_bytes) == 65536
    assert parse_pdu({**largest.json, "unsigned": {"age": 1}}, V11) == largest
    with pytest.raises(TooLarge, match=r"^event: "):
        build(V11, content={"body": "x" * (room_left + 1)})
    json = largest.json
    json["content"]["body"] += "x"
    with pytest.raises(TooLarge, match=r"^event: "):
        parse_pdu(json, V11)


def test_size_is_counted_in_bytes_of_utf8() -> None:
    with pytest.raises(TooLarge):
        build(V11, content={"body": "é" * 33000})


@pytest.mark.parametrize("field", ["type", "state_key"])
def test_types_and_state_keys_end_at_255_bytes(field: str) -> None:
    build(V11, **{field: "é" * 127 + "x"})
    with pytest.raises(TooLarge, match=f"^{field}: "):
        build(V11, **{field: "é" * 128})


@pytest.mark.parametrize(
    ("version", "field", "longest"),
    [
        (V11, "sender", "@" + "a" * 242 + ":example.org"),
        (V11, "room_id", "!" + "a" * 242 + ":example.org"),
        (V1, "event_id", "$" + "a" * 242 + ":example.org"),
    ],
)
def test_ids_end_at_255_bytes(version: RoomVersion, field: str, longest: str) -> None:
    assert getattr(parse_pdu(wire(version, **{field: longest}), version), field) == longest
    too_long = longest[0] + "a" + longest[1:]
    with pytest.raises(TooLarge, match=f"^{field}: "):
        parse_pdu(wire(version, **{field: too_long}), version)


@pytest.mark.parametrize(("field", "most"), [("prev_events", 20), ("auth_events", 10)])
def test_number_of_references_is_bounded(field: str, most: int) -> None:
    parse_pdu(wire(V11, **{field: ["$a"] * most}), V11)
    with pytest.raises(BadJson, match=f"^{field}: "):
        parse_pdu(wire(V11, **{field: ["$a"] * (most + 1)}), V11)
