"""What other servers send enters the room, or does not, and survives crashes and being sent twice."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import UserId, domain_of
from tests.federation.peer_room import V1, PeerRoom, message


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def test_message_of_another_server_reaches_the_room(room: PeerRoom) -> None:
    pdu = room.build("m.room.message", message("hello"))
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    assert room.wait_for_event(pdu.event_id)["content"] == message("hello")


@pytest.mark.parametrize("version", ["1", "5", "12"])
def test_every_event_format_is_received(start_federated: Any, start_peer: Any, version: str) -> None:
    room = PeerRoom.open(start_federated(), start_peer(), version)
    pdu = room.build("m.room.message", message("hello"))
    room.send(pdu)
    assert room.wait_for_event(pdu.event_id)["content"] == message("hello")


def test_transaction_sent_twice_gets_the_same_answer_and_counts_once(room: PeerRoom) -> None:
    heard: list[Any] = []

    async def hear(origin: str, content: dict[str, Any]) -> None:
        heard.append((origin, content))

    room.hearth.federation.receiving.edus.register("org.example.test", hear)
    bad = room.build("m.room.message", message("forged"), advance=False).json
    bad["content"]["body"] = "other"
    bad["signatures"][room.peer.server_name] = {room.peer.key.key_id: "AAAA"}
    edu = {"edu_type": "org.example.test", "content": {"a": 1}}
    first = room.send(bad, edus=[edu], txn_id="one").json()
    assert "wrong" in next(iter(first["pdus"].values()))["error"]
    assert room.send(edus=[edu], txn_id="one").json() == first
    assert heard == [(room.peer.server_name, {"a": 1})]


def test_event_that_comes_before_its_prev_event_waits_for_it(room: PeerRoom, monkeypatch: Any) -> None:
    """As it happens where the one is sent by a server that is slower: nobody is asked for it."""
    monkeypatch.setattr("federation.inbound.room_queue.LINGER_MS", 600_000)
    first = room.build("m.room.message", message("first"))
    second = room.build("m.room.message", message("second"))
    third = room.build("m.room.message", message("third"))
    for pdu in (third, second, first):
        room.send(pdu)
    room.wait_for_event(third.event_id)
    assert room.sees(first.event_id)
    assert room.sees(second.event_id)
    assert room.peer.received(f"{V1}/get_missing_events/") == []


def test_transaction_is_known_after_a_restart(room: PeerRoom) -> None:
    bad = room.build("m.room.message", message("forged"), advance=False).json
    bad["signatures"][room.peer.server_name] = {room.peer.key.key_id: "AAAA"}
    first = room.send(bad, txn_id="one").json()
    assert first["pdus"]
    room.hearth.restart()
    assert room.send(txn_id="one").json() == first
    assert room.send(txn_id="two").json() == {"pdus": {}}


@pytest.mark.parametrize("version", ["3", "11"])
def test_redaction_without_the_power_to_is_not_shown(start_federated: Any, start_peer: Any, version: str) -> None:
    """Clients hide what a redaction names without asking who sent it."""
    room = PeerRoom.open(start_federated(), start_peer(), version)
    said = room.alice.send(room.room_id, "hello")
    room.catch_up()
    redaction = room.build("m.room.redaction", {}, redacts=said)
    after = room.build("m.room.message", message("after"))
    assert room.send(redaction, after).json()["pdus"].keys() == {redaction.event_id, after.event_id}
    assert room.wait_for_event(after.event_id)["content"] == message("after")
    assert not room.sees(redaction.event_id)
    assert "redacted_because" not in room.wait_for_event(said)["unsigned"]


def test_wrong_hash_redacts_the_event(room: PeerRoom) -> None:
    json = room.build("m.room.message", message("secret")).json
    json["content"]["body"] = "another"
    (event_id,) = room.send(json).json()["pdus"]
    assert room.wait_for_event(event_id)["content"] == {}


def test_server_acl_shuts_a_server_out_whatever_its_case_and_port(room: PeerRoom) -> None:
    room.alice.set_state(room.room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["LOCAL*"]})
    room.catch_up()
    pdu = room.build("m.room.message", message("hello"))
    assert "banned" in room.send(pdu).json()["pdus"][pdu.event_id]["error"]
    room.wait_until_idle()
    assert not room.sees(pdu.event_id)


def test_events_of_a_room_that_this_server_left_are_refused(room: PeerRoom) -> None:
    room.alice.leave(room.room_id)
    pdu = room.build("m.room.message", message("hello"))
    answer = room.send(pdu).json()
    assert "not in" in next(iter(answer["pdus"].values()))["error"]


def test_missing_events_are_fetched_and_stand_in_order(room: PeerRoom) -> None:
    room.serve()
    pdus = [room.build("m.room.message", message(str(number))) for number in range(30)]
    room.send(pdus[-1])
    room.wait_for_event(pdus[-1].event_id)
    chunk = room.alice.messages(room.room_id, limit=40)["chunk"]
    assert [each["content"]["body"] for each in chunk[:30]] == [str(number) for number in reversed(range(30))]


def test_events_in_the_wrong_order_need_nothing_fetched(room: PeerRoom) -> None:
    pdus = [room.build("m.room.message", message(str(number))) for number in range(10)]
    room.send(*reversed(pdus))
    room.wait_for_event(pdus[-1].event_id)
    assert all(room.sees(pdu.event_id) for pdu in pdus)
    assert room.peer.received(f"{V1}/get_missing_events") == []


def test_servers_of_a_room_are_counted_as_its_members_change(start_federated: Any, start_peer: Any) -> None:
    """What says whom an event concerns costs no look at all the members."""
    room = PeerRoom.open(start_federated(), start_peer())
    own, dora = room.hearth.server_name, UserId(f"@dora:{room.peer.server_name}")
    alone, both = {own: 1}, {own: 1, room.peer.server_name: 1}

    def change(user: UserId, membership: str) -> dict[str, int]:
        room.send(room.build("m.room.member", {"membership": membership}, sender=user, state_key=user))
        room.wait_for_member(user, membership)
        head = room.head()
        assert head.joined_servers() == {domain_of(each) for each in head.joined_users()}
        return dict(head.servers)

    assert dict(room.head().servers) == both
    assert change(dora, "join") == {**both, room.peer.server_name: 2}
    assert change(dora, "join") == {**both, room.peer.server_name: 2}
    assert change(room.bob, "leave") == both
    assert change(dora, "leave") == alone
    assert change(dora, "join") == both
    room.hearth.restart()
    assert dict(room.head().servers) == both
