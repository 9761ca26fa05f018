"""Events in rooms with a policy server: those that it does not recommend are not shown."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.matrix.versions import room_version
from tests.federation.peer_room import PeerRoom, message
from tests.federation.quiet import Log, log
from tests.kit.federation import Received

__all__ = ["log"]

SIGN = "/_matrix/policy/v1/sign"
KEY = SigningKey("policy_server", bytes(range(7, 39)))
OTHER_KEY = SigningKey("policy_server", bytes(range(8, 40)))


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    """The peer is its policy server, and asks for the events of its own users to be signed."""
    room = PeerRoom.open(start_federated(), start_peer())
    use_policy_server(room)
    return room


def use_policy_server(room: PeerRoom, **changes: Any) -> None:
    key = encode_base64(KEY.verify_key.public_key)
    content = {"via": room.peer.server_name, "public_keys": {"ed25519": key}, **changes}
    room.alice.set_state(room.room_id, "m.room.policy", content)
    room.catch_up()


def signed_by(room: PeerRoom, json: dict[str, Any], key: SigningKey = KEY) -> dict[str, Any]:
    return sign_event(json, room_version("11"), room.peer.server_name, key)


def recommend(room: PeerRoom, key: SigningKey = KEY) -> None:
    def sign(received: Received) -> Any:
        server = room.peer.server_name
        return {server: {key.key_id: signed_by(room, received.json, key)["signatures"][server][key.key_id]}}

    room.peer.answer("POST", SIGN, sign)


def test_event_that_is_recommended_is_shown_and_nobody_asked(room: PeerRoom) -> None:
    json = signed_by(room, room.build("m.room.message", message("good")).json)
    (event_id,) = room.send(json).json()["pdus"]
    room.wait_for_event(event_id)
    assert room.peer.received(SIGN) == []


def test_recommendation_is_asked_for_and_kept_beside_the_senders_signature(room: PeerRoom) -> None:
    recommend(room)
    pdu = room.build("m.room.message", message("good"))
    room.send(pdu)
    room.wait_for_event(pdu.event_id)
    assert canonical_json(room.peer.received(SIGN)[0].json) == canonical_json(pdu.json)
    answer = room.peer.get(room.hearth, f"/_matrix/federation/v1/event/{pdu.event_id}").json()
    signatures = answer["pdus"][0]["signatures"][room.peer.server_name]
    assert set(signatures) == {room.peer.key.key_id, KEY.key_id}


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"peer": {}}, {"localhost:1": {KEY.key_id: "A" * 86}}],
    ids=["empty", "list", "of nobody", "of another"],
)
def test_event_without_recommendation_is_not_shown(room: PeerRoom, log: Log, answer: Any) -> None:
    room.peer.answer("POST", SIGN, answer)
    pdu = room.build("m.room.message", message("spam"))
    room.send(pdu)
    room.wait_until(lambda: room.peer.received(SIGN))
    room.wait_until_idle()
    assert not room.sees(pdu.event_id)
    assert log.faults() == []


def test_refusal_and_wrong_key_recommend_nothing(room: PeerRoom) -> None:
    room.peer.answer("POST", SIGN, {"errcode": "M_FORBIDDEN", "error": "spam"}, status=400)
    refused = room.build("m.room.message", message("spam"), advance=False)
    room.send(refused)
    room.wait_until_idle()
    recommend(room, OTHER_KEY)
    wrong = room.build("m.room.message", message("spam"), advance=False)
    room.send(wrong)
    room.wait_until_idle()
    assert not room.sees(refused.event_id)
    assert not room.sees(wrong.event_id)


@pytest.mark.parametrize(
    "changes",
    [{"via": 5}, {"via": "elsewhere.example"}, {"public_keys": {}}, {"public_keys": "x"}, {"via": None}],
    ids=repr,
)
def test_room_whose_policy_event_is_not_right_uses_none(room: PeerRoom, changes: dict[str, Any]) -> None:
    use_policy_server(room, **changes)
    pdu = room.build("m.room.message", message("hello"))
    room.send(pdu)
    room.wait_for_event(pdu.event_id)
    assert room.peer.received(SIGN) == []


def test_bare_leave_needs_no_recommendation(room: PeerRoom) -> None:
    """Whoever leaves is out; the policy server has a say in what they say by it."""
    refuse = {"errcode": "M_FORBIDDEN", "error": "Stay"}
    room.peer.answer("POST", SIGN, refuse, status=400)
    said = room.build("m.room.member", {"membership": "leave", "reason": "Pills"}, state_key=room.bob, advance=False)
    room.send(said)
    room.wait_until(lambda: room.peer.received(SIGN))
    room.wait_until_idle()
    assert room.head().membership(room.bob) == "join"
    room.send(room.build("m.room.member", {"membership": "leave"}, state_key=room.bob))
    room.wait_for_member(room.bob, "leave")
    assert len(room.peer.received(SIGN)) == 1
