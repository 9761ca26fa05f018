"""Events that are malformed, forged or wrongly signed: refused with a reason, one line in the log, and nothing else happens."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.matrix.canonical import canonical_json, decode_json
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import SigningKey, sign_event
from tests.federation.peer_room import PeerRoom, message
from tests.federation.quiet import Log, log

__all__ = ["log"]

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def resigned(room: PeerRoom, json: dict[str, Any]) -> dict[str, Any]:
    """With the peer's right signature over whatever it is."""
    json.pop("signatures", None)
    return sign_event(json, room.version, room.peer.server_name, room.peer.key)


MALFORMED: dict[str, Change] = {
    "no type": lambda json: json.pop("type"),
    "type of another kind": lambda json: json.update(type=["m.room.message"]),
    "long type": lambda json: json.update(type="x" * 256),
    "NUL in type": lambda json: json.update(type="a\0b"),
    "state key that is no string": lambda json: json.update(state_key=1),
    "NUL in state key": lambda json: json.update(state_key="a\0b"),
    "no sender": lambda json: json.pop("sender"),
    "sender that is no user": lambda json: json.update(sender="bob"),
    "sender without a server": lambda json: json.update(sender="@bob"),
    "no content": lambda json: json.pop("content"),
    "content that is a list": lambda json: json.update(content=[]),
    "float in content": lambda json: json["content"].update(x=1.5),
    "huge integer in content": lambda json: json["content"].update(x=2**60),
    "too large": lambda json: json["content"].update(x="x" * 70_000),
    "no depth": lambda json: json.pop("depth"),
    "negative depth": lambda json: json.update(depth=-1),
    "depth that is true": lambda json: json.update(depth=True),
    "depth without end": lambda json: json.update(depth=2**53),
    "timestamp that is text": lambda json: json.update(origin_server_ts="now"),
    "no prev events": lambda json: json.pop("prev_events"),
    "prev events of another format": lambda json: json.update(prev_events=[["$a", {"sha256": "x"}]]),
    "prev event that is no event": lambda json: json.update(prev_events=["!a"]),
    "too many prev events": lambda json: json.update(prev_events=[f"$e{number}" for number in range(21)]),
    "long prev event": lambda json: json.update(prev_events=["$" + "x" * 255]),
    "prev events that are an object": lambda json: json.update(prev_events={}),
    "too many auth events": lambda json: json.update(auth_events=[f"$e{number}" for number in range(11)]),
    "auth events with null": lambda json: json.update(auth_events=[None]),
    "no hashes": lambda json: json.pop("hashes"),
    "hashes that are text": lambda json: json.update(hashes="sha256"),
    "no room": lambda json: json.pop("room_id"),
    "room that is a number": lambda json: json.update(room_id=5),
    "room with NUL": lambda json: json.update(room_id="!a\0:b"),
    "another room": lambda json: json.update(room_id="!other:example.org"),
}


@pytest.mark.parametrize("what", sorted(MALFORMED))
def test_malformed_event_is_dropped_with_one_line(room: PeerRoom, log: Log, what: str) -> None:
    json = room.build("m.room.message", message("hello"), advance=False).json
    MALFORMED[what](json)
    good = room.build("m.room.message", message("good"))
    log.clear()
    try:
        bad = resigned(room, json)
    except Exception:
        bad = json
    answer = room.send(bad, good)
    assert answer.status_code == 200, answer.text
    assert answer.json()["pdus"].pop(good.event_id) == {}
    assert all("error" in each for each in answer.json()["pdus"].values() if each)
    room.wait_for_event(good.event_id)
    room.wait_until_idle()
    assert log.faults() == []
    assert len(log.lines()) == 1, log.lines()
    assert log.lines()[0].startswith("1 of 2 events")


@pytest.mark.parametrize("raw", [None, 1, "text", [], {}, [{}], {"room_id": None}, {"room_id": {}}], ids=repr)
def test_what_is_no_event_is_dropped(room: PeerRoom, log: Log, raw: Any) -> None:
    log.clear()
    answer = room.send(raw)
    assert (answer.status_code, answer.json()) == (200, {"pdus": {}})
    assert (log.faults(), len(log.lines())) == ([], 1)


# -- signatures ----------------------------------------------------------------------------------------------------------


def signed_with(room: PeerRoom, signatures: Any) -> dict[str, Any]:
    json = room.build("m.room.message", message("hello"), advance=False).json
    json["signatures"] = signatures(json["signatures"], room.peer)
    return json


SIGNATURES: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "none": lambda signatures, peer: {},
    "a list": lambda signatures, peer: [],
    "of nobody": lambda signatures, peer: {peer.server_name: {}},
    "that is no text": lambda signatures, peer: {peer.server_name: {peer.key.key_id: 5}},
    "that is not base64": lambda signatures, peer: {peer.server_name: {peer.key.key_id: "*" * 86}},
    "that is not ASCII": lambda signatures, peer: {peer.server_name: {peer.key.key_id: "é" * 86}},
    "that is short": lambda signatures, peer: {peer.server_name: {peer.key.key_id: "AAAA"}},
    "that is wrong": lambda signatures, peer: {peer.server_name: {peer.key.key_id: "A" * 86}},
    "of an unknown key": lambda signatures, peer: {peer.server_name: {"ed25519:other": "A" * 86}},
    "of an unknown algorithm": lambda signatures, peer: {peer.server_name: {"rsa:1": "A" * 86}},
    "of another server": lambda signatures, peer: {"other.example": signatures[peer.server_name]},
    "with very many keys": lambda signatures, peer: {
        peer.server_name: {f"ed25519:{number}": "A" * 86 for number in range(300)}
    },
}


@pytest.mark.parametrize("what", sorted(SIGNATURES))
def test_wrong_signature_is_refused(room: PeerRoom, log: Log, what: str) -> None:
    json = signed_with(room, SIGNATURES[what])
    log.clear()
    answer = room.send(json)
    assert answer.status_code == 200
    assert all("error" in each for each in answer.json()["pdus"].values())
    assert (log.faults(), len(log.lines())) == ([], 1)
    room.wait_until_idle()
    assert "hello" not in [each["content"].get("body") for each in room.alice.messages(room.room_id)["chunk"]]


def test_server_can_not_speak_for_users_of_others(room: PeerRoom, start_peer: Any) -> None:
    """Neither for ours, nor for those of a third server, whichever key it signs with."""
    other = start_peer(key=SigningKey("other", bytes(range(1, 33))))
    for sender in (room.alice.user_id, f"@carol:{other.server_name}"):
        forged = room.build("m.room.message", message("forged"), sender=sender, advance=False)
        assert "not signed by" in room.send(forged).json()["pdus"][forged.event_id]["error"]
        server = ServerName(sender.partition(":")[2])
        twice = sign_event(forged.json, room.version, server, room.peer.key)
        (outcome,) = room.send(twice).json()["pdus"].values()
        assert "error" in outcome
    room.wait_until_idle()
    assert "forged" not in [each["content"].get("body") for each in room.alice.messages(room.room_id)["chunk"]]


def test_event_of_a_third_server_is_taken_from_whoever_passes_it_on(room: PeerRoom, start_peer: Any) -> None:
    other = start_peer(key=SigningKey("other", bytes(range(1, 33))))
    carol = f"@carol:{other.server_name}"
    join = room.build(
        "m.room.member",
        {"membership": "join"},
        sender=carol,
        state_key=carol,
        signing_key=other.key,
        server_name=other.server_name,
    )
    assert room.send(join).json() == {"pdus": {join.event_id: {}}}
    room.wait_for_member(carol, "join")


def test_key_must_be_good_at_the_time_of_the_event(start_federated: Any, start_peer: Any) -> None:
    """From room version 5 on; before, any time was right."""
    hearth, peer = start_federated(), start_peer()
    far_ms = 4_000_000_000_000
    new, old = PeerRoom.open(hearth, peer, "10"), PeerRoom.open(hearth, peer, "4")
    late = new.build("m.room.message", message("late"), origin_server_ts=far_ms)
    assert "good for" in new.send(late).json()["pdus"][late.event_id]["error"]
    late = old.build("m.room.message", message("late"), origin_server_ts=far_ms)
    assert old.send(late).json()["pdus"] == {late.event_id: {}}


def test_event_id_of_another_server_needs_its_signature(start_federated: Any, start_peer: Any) -> None:
    room = PeerRoom.open(start_federated(), start_peer(), "1")
    pdu = room.build("m.room.message", message("x"), event_id=f"$mine:{room.hearth.server_name}")
    (outcome,) = room.send(pdu).json()["pdus"].values()
    assert "not signed by" in outcome["error"]


@pytest.mark.parametrize(("sent", "version"), [("1", "11"), ("11", "1"), ("12", "11"), ("11", "12")])
def test_event_in_the_format_of_another_room_version_is_refused(
    start_federated: Any, start_peer: Any, log: Log, sent: str, version: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    room, other = PeerRoom.open(hearth, peer, version), PeerRoom.open(hearth, peer, sent)
    json = other.build("m.room.message", message("x")).json
    json["room_id"] = room.room_id
    log.clear()
    answer = room.send(resigned(room, json))
    assert answer.status_code == 200
    room.wait_until_idle()
    assert "x" not in [each["content"].get("body") for each in room.alice.messages(room.room_id)["chunk"]]
    assert log.faults() == []


# -- what a fuzzer thinks of ---------------------------------------------------------------------------------------------

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "$", "!", "@", "@a:b", "$a", "!a:b", "\0", "x" * 300, "m.room.member", "m.room.create"]),
    st.lists(
        st.one_of(st.none(), st.text(max_size=5), st.just("$a"), st.lists(st.text(max_size=3), max_size=3)), max_size=30
    ),
    st.dictionaries(st.text(max_size=5), st.one_of(st.none(), st.integers(), st.text(max_size=5)), max_size=4),
)
FIELDS = [
    "type",
    "state_key",
    "sender",
    "content",
    "depth",
    "origin_server_ts",
    "prev_events",
    "auth_events",
    "hashes",
    "signatures",
    "room_id",
    "event_id",
    "redacts",
    "unsigned",
    "origin",
]
MEMBERS = ("membership", "join_authorised_via_users_server", "third_party_invite", "m.relates_to", "redacts", "users")
MUTATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.sampled_from(FIELDS), ODD),
        st.tuples(st.just("content"), st.sampled_from(MEMBERS), ODD),
        st.tuples(st.just("drop"), st.sampled_from(FIELDS), st.none()),
        st.tuples(st.just("type"), st.sampled_from(["m.room.member", "m.room.create", "m.room.redaction"]), st.none()),
    ),
    min_size=1,
    max_size=3,
)


def mutated(json: dict[str, Any], mutations: list[tuple[str, str, Any]]) -> dict[str, Any]:
    json = copy.deepcopy(json)
    for kind, name, value in mutations:
        if kind == "set":
            json[name] = value
        elif kind == "drop":
            json.pop(name, None)
        elif kind == "type":
            json["type"] = name
        elif isinstance(json.get("content"), dict):
            json["content"][name] = value
    return json


def signed_if_possible(room: PeerRoom, json: dict[str, Any]) -> dict[str, Any]:
    try:
        return resigned(room, json)
    except Exception:
        return json


def is_json(value: Any) -> bool:
    try:
        decode_json(canonical_json(value))
    except Exception:
        return False
    return True


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_no_mutation_of_events_makes_an_error(start_federated: Any, start_peer: Any, log: Log, version: str) -> None:
    room = PeerRoom.open(start_federated(), start_peer(), version)
    good = [
        room.build("m.room.message", message("x"), advance=False).json,
        room.build("m.room.member", {"membership": "join"}, state_key=room.bob, advance=False).json,
    ]
    log.clear()

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.sampled_from(good), MUTATIONS), min_size=10, max_size=50))
    def send(events: list[tuple[dict[str, Any], Any]]) -> None:
        made = [signed_if_possible(room, mutated(json, mutations)) for json, mutations in events]
        answer = room.send(*[each for each in made if is_json(each)])
        assert answer.status_code == 200, answer.text
        assert log.faults() == []

    send()
    pdu = room.build("m.room.message", message("after all that"))
    room.send(pdu)
    room.wait_for_event(pdu.event_id)
    assert log.faults() == []
