"""Transactions and EDUs that are malformed, too large or sent by the wrong server."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.federation.peer_room import V1, PeerRoom, message
from tests.federation.quiet import Log, log

__all__ = ["log"]

EDU = {"edu_type": "org.example.test", "content": {}}


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def put(room: PeerRoom, body: Any, txn_id: str = "hostile", **about: Any) -> Any:
    return room.peer.put(room.hearth, f"{V1}/send/{txn_id}", body, **about)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ("text", "body"),
        ({"pdus": {}}, "pdus"),
        ({"pdus": None}, "pdus"),
        ({"pdus": [{}] * 51}, "pdus"),
        ({"edus": "text"}, "edus"),
        ({"edus": [EDU] * 101}, "edus"),
        ({"origin": "other.example", "pdus": []}, "origin"),
        ({"origin": None, "pdus": []}, "origin"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_transaction_is_refused_naming_the_field(room: PeerRoom, log: Log, body: Any, field: str) -> None:
    answer = put(room, body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["errcode"] in ("M_BAD_JSON", "M_INVALID_PARAM", "M_NOT_JSON")
    assert field == "body" or field in answer.json()["error"]
    assert log.faults() == []


def test_transaction_id_is_bounded(room: PeerRoom) -> None:
    assert put(room, {"pdus": []}, "x" * 256).status_code == 400
    assert put(room, {"pdus": []}, "a%00b").status_code == 400
    assert put(room, {"pdus": []}, "x" * 255).status_code == 200


def test_transaction_must_be_signed_by_its_origin(room: PeerRoom, start_peer: Any) -> None:
    body = {"pdus": [], "edus": []}
    assert room.hearth.ask("PUT", f"{V1}/send/1", body).json()["errcode"] == "M_UNAUTHORIZED"
    other = {"Authorization": 'X-Matrix origin="localhost:1",key="ed25519:peer",sig="AAAA"'}
    assert put(room, body, headers=other).status_code == 401
    assert room.peer.put(room.hearth, f"{V1}/send/1", body).status_code == 200


def test_transaction_that_is_too_large_is_refused(room: PeerRoom, log: Log) -> None:
    answer = put(room, {"pdus": [], "x": "x" * (13 * 1024 * 1024)})
    assert (answer.status_code, answer.json()["errcode"]) == (413, "M_TOO_LARGE")
    assert log.faults() == []


def test_transactions_of_one_id_from_two_servers_are_two(room: PeerRoom, start_peer: Any) -> None:
    other = start_peer()
    pdu = room.build("m.room.message", message("one"))
    assert room.send(pdu, txn_id="same").json() == {"pdus": {pdu.event_id: {}}}
    assert other.put(room.hearth, f"{V1}/send/same", {"pdus": []}).json() == {"pdus": {}}


# -- EDUs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edu",
    [
        None,
        5,
        [],
        {},
        {"edu_type": 5, "content": {}},
        {"edu_type": "org.example.test"},
        {"edu_type": "org.example.test", "content": []},
        {"content": {}},
    ],
    ids=repr,
)
def test_malformed_edu_is_dropped_with_one_line(room: PeerRoom, log: Log, edu: Any) -> None:
    heard: list[Any] = []

    async def hear(origin: str, content: dict[str, Any]) -> None:
        heard.append(content)

    room.hearth.federation.receiving.edus.register("org.example.test", hear)
    log.clear()
    answer = room.send(edus=[edu, {"edu_type": "org.example.test", "content": {"good": 1}}])
    assert (answer.status_code, answer.json()) == (200, {"pdus": {}})
    assert heard == [{"good": 1}]
    assert (log.faults(), len(log.lines())) == ([], 1)


def test_unknown_edu_is_ignored(room: PeerRoom, log: Log) -> None:
    log.clear()
    assert room.send(edus=[{"edu_type": "org.example.unknown", "content": {}}]).json() == {"pdus": {}}
    assert (log.faults(), log.lines()) == ([], [])


def test_edu_about_a_room_that_shuts_its_server_out_is_ignored(room: PeerRoom) -> None:
    heard: list[Any] = []

    async def hear(origin: str, content: dict[str, Any]) -> None:
        heard.append(content)

    edus = room.hearth.federation.receiving.edus
    for edu_type in ("org.example.room", "org.example.other"):
        edus.register(edu_type, hear)
    room.alice.set_state(room.room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["Localhost"]})
    about_room = {"edu_type": "org.example.room", "content": {"room_id": room.room_id}}
    room.send(edus=[about_room, {"edu_type": "org.example.other", "content": {"x": 1}}])
    assert heard == [{"x": 1}]


def test_who_types_and_reads_in_a_room_that_shuts_their_server_out_is_not_shown(room: PeerRoom) -> None:
    other = PeerRoom.open(room.hearth, room.peer)
    read = {each.room_id: each.alice.send(each.room_id, "read this") for each in (room, other)}
    room.alice.set_state(room.room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["Localhost"]})
    receipts = {
        room_id: {"m.read": {room.bob: {"event_ids": [event_id], "data": {"ts": 1}}}}
        for room_id, event_id in read.items()
    }
    typing = [{"room_id": room_id, "user_id": room.bob, "typing": True} for room_id in read]
    edus = [{"edu_type": "m.typing", "content": content} for content in typing]
    assert room.send(edus=[*edus, {"edu_type": "m.receipt", "content": receipts}]).status_code == 200
    shown = other.alice.sync()["rooms"]["join"][other.room_id]["ephemeral"]["events"]
    assert {event["type"] for event in shown} == {"m.typing", "m.receipt"}
    assert room.alice.sync()["rooms"]["join"][room.room_id].get("ephemeral", {}).get("events", []) == []


def test_handler_that_hangs_harms_no_other_and_makes_the_transaction_come_again(
    room: PeerRoom, log: Log, monkeypatch: Any
) -> None:
    """What one EDU says is lost only when it took too long several times."""
    from twisted.internet.defer import Deferred

    heard: list[Any] = []
    monkeypatch.setattr("federation.inbound.edus.HANDLER_TIMEOUT_MS", 200)

    async def hear(origin: str, content: dict[str, Any]) -> None:
        if content["kind"] == "hangs":
            never: Deferred[None] = Deferred()
            await never
        heard.append(content["kind"])

    room.hearth.federation.receiving.edus.register("org.example.test", hear)
    log.clear()
    kinds = ["first", "hangs", "last"]
    body = {"edus": [{"edu_type": "org.example.test", "content": {"kind": kind}} for kind in kinds]}
    answers = [put(room, body, "1").status_code for _ in range(3)]
    assert answers == [429, 429, 200]
    assert heard == ["first", "last"] * 3
    assert len(log.lines()) == 1


# -- what a fuzzer thinks of ---------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**60), 2**60),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(max_size=10),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=10), inner, max_size=5)),
    max_leaves=15,
)


def test_no_transaction_makes_an_error(room: PeerRoom, log: Log) -> None:
    about_rooms = st.dictionaries(st.sampled_from([room.room_id, "room_id", "!a:b", "\0"]), JSON, max_size=3)
    edus = st.lists(
        st.one_of(
            JSON,
            st.fixed_dictionaries(
                {"edu_type": st.sampled_from(["m.typing", "m.receipt", "m.presence", "m.x"]), "content": about_rooms}
            ),
        ),
        max_size=20,
    )
    bodies = st.fixed_dictionaries({}, optional={"pdus": st.lists(JSON, max_size=10), "edus": edus, "other": JSON})
    log.clear()

    @settings(max_examples=60)
    @given(st.one_of(JSON, bodies), st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8))
    def send(body: Any, txn_id: str) -> None:
        from urllib.parse import quote

        try:
            answer = put(room, body, quote(txn_id))
        except (ValueError, TypeError):
            return  # the kit can't sign it
        assert answer.status_code in (200, 400), answer.text
        assert log.faults() == []

    send()
