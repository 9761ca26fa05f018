"""A check that takes long holds up the room that it is about, and nothing else; what was accepted meanwhile is not lost."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred

from federation.inbound.acl import ServerAcls
from homeserver.matrix.ids import UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from tests.federation.peer_room import V1, PeerRoom, message, to_json
from tests.kit.federation import KEY_PATH, Received, ScriptedPeer
from tests.kit.reactor import run_in_reactor

LONG_MS = 600_000


@define(eq=False)
class SlowSigner:
    """A server that gives its keys when `gate` is set."""

    peer: ScriptedPeer
    gate: threading.Event = field(factory=threading.Event)

    @classmethod
    def start(cls, peer: ScriptedPeer) -> SlowSigner:
        signer = cls(peer)
        peer.answer("GET", KEY_PATH, signer._keys)
        return signer

    @property
    def carol(self) -> UserId:
        return UserId(f"@carol:{self.peer.server_name}")

    def join(self, room: PeerRoom, key: SigningKey | None = None) -> Pdu:
        about: dict[str, Any] = {"server_name": self.peer.server_name, "key": key or self.peer.key}
        content = {"membership": "join"}
        return room.build("m.room.member", content, sender=self.carol, state_key=self.carol, **about)

    def _keys(self, received: Received) -> Any:
        while not self.gate.wait(0.05) and not self.peer.stopping.is_set():
            pass
        return self.peer.key_document()


@pytest.fixture
def signer(start_peer: Any, monkeypatch: Any) -> Any:
    monkeypatch.setattr("federation.keys.key_ring.FETCH_TIMEOUT_MS", LONG_MS)
    monkeypatch.setattr("federation.inbound.room_parts.CHECKS_MOMENT_MS", 200)
    signer = SlowSigner.start(start_peer())
    yield signer
    signer.gate.set()


@pytest.fixture
def rooms(start_federated: Any, start_peer: Any) -> tuple[PeerRoom, PeerRoom]:
    hearth, peer = start_federated(), start_peer()
    return PeerRoom.open(hearth, peer), PeerRoom.open(hearth, peer)


def test_room_whose_check_hangs_holds_up_no_other_and_keeps_its_order(
    rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner
) -> None:
    slow, quick = rooms
    join, first = signer.join(slow), quick.build("m.room.message", message("first"))
    assert slow.send(join, first).json() == {"pdus": {join.event_id: {}, first.event_id: {}}}
    quick.wait_for_event(first.event_id)
    after, second = slow.build("m.room.message", message("after")), quick.build("m.room.message", message("second"))
    assert slow.send(after, second).json() == {"pdus": {after.event_id: {}, second.event_id: {}}}
    quick.wait_for_event(second.event_id)
    assert not slow.sees(after.event_id)
    signer.gate.set()
    slow.wait_for_event(after.event_id)
    assert slow.head().membership(signer.carol) == "join"
    assert slow.peer.received(f"{V1}/get_missing_events/") == []
    queues = slow.hearth.federation.receiving.queues
    slow.wait_until(lambda: not queues._rooms and not queues._staged_bytes)


def test_events_go_on_before_the_answer(rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner, monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.inbound.room_parts.CHECKS_MOMENT_MS", LONG_MS)
    slow, quick = rooms
    join, first = signer.join(slow), quick.build("m.room.message", message("first"))
    sending = threading.Thread(target=slow.send, args=[join, first])
    sending.start()
    quick.wait_for_event(first.event_id)
    assert sending.is_alive()
    signer.gate.set()
    sending.join()
    slow.wait_for_member(signer.carol, "join")


def test_room_whose_server_acl_is_not_known_yet_holds_up_no_other(
    rooms: tuple[PeerRoom, PeerRoom], monkeypatch: Any
) -> None:
    slow, quick = rooms
    monkeypatch.setattr("federation.inbound.room_parts.CHECKS_MOMENT_MS", 200)
    known, gate, is_allowed = threading.Event(), Deferred[None](), ServerAcls.is_allowed_by

    async def is_allowed_by(acls: ServerAcls, head: Any, server: Any) -> bool:
        if head.room_id == slow.room_id and not known.is_set():
            await gate
        return await is_allowed(acls, head, server)

    monkeypatch.setattr(ServerAcls, "is_allowed_by", is_allowed_by)
    late, first = slow.build("m.room.message", message("late")), quick.build("m.room.message", message("first"))
    assert slow.send(late, first).json() == {"pdus": {late.event_id: {}, first.event_id: {}}}
    quick.wait_for_event(first.event_id)
    assert not slow.sees(late.event_id)
    known.set()
    run_in_reactor(_fire, gate)
    slow.wait_for_event(late.event_id)


async def _fire(gate: Deferred[None]) -> None:
    gate.callback(None)


def test_event_that_was_accepted_before_its_check_survives_a_restart(
    rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner
) -> None:
    room, _ = rooms
    join = signer.join(room)
    after = room.build("m.room.message", message("after"))
    assert room.send(join, after).json() == {"pdus": {join.event_id: {}, after.event_id: {}}}
    room.hearth.stop()
    signer.gate.set()
    room.hearth.start()
    room.alice.base_url = room.hearth.url
    room.wait_for_event(after.event_id)
    assert room.head().membership(signer.carol) == "join"


def test_event_of_a_server_that_was_shut_out_meanwhile_is_not_read_from_the_table(
    rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner
) -> None:
    room, _ = rooms
    join = signer.join(room)
    assert room.send(join).json() == {"pdus": {join.event_id: {}}}
    room.alice.set_state(room.room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["localhost"]})
    room.hearth.stop()
    signer.gate.set()
    room.hearth.start()
    queues = room.hearth.federation.receiving.queues
    room.wait_until(lambda: not queues._rooms and not queues._staged_bytes)
    assert room.head().membership(signer.carol) != "join"


def test_event_whose_late_check_fails_does_not_reach_the_room(
    rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner
) -> None:
    room, _ = rooms
    forged = signer.join(room, SigningKey("peer", bytes(32)))
    room.catch_up()
    after = room.build("m.room.message", message("after"))
    room.send(forged, after)
    signer.gate.set()
    room.wait_for_event(after.event_id)
    assert room.head().membership(signer.carol) != "join"
    queues = room.hearth.federation.receiving.queues
    room.wait_until(lambda: not queues._rooms and not queues._staged_bytes)


def test_answer_waits_where_too_much_is_late(
    rooms: tuple[PeerRoom, PeerRoom], signer: SlowSigner, monkeypatch: Any
) -> None:
    monkeypatch.setattr("federation.inbound.room_parts.MAX_LATE_OF_ORIGIN", 0)
    room, _ = rooms
    forged = signer.join(room, SigningKey("peer", bytes(32)))
    answers: list[Any] = []
    sending = threading.Thread(target=lambda: answers.append(room.send(forged).json()))
    sending.start()
    room.wait_until(lambda: signer.peer.received(KEY_PATH))
    signer.gate.set()
    sending.join()
    assert "wrong" in answers[0]["pdus"][forged.event_id]["error"]


def test_event_that_is_queued_twice_is_dealt_with_once(rooms: tuple[PeerRoom, PeerRoom]) -> None:
    """One from a check that took long, one that came again meanwhile, while the room's queue is at work."""
    room, _ = rooms
    first, pdu = room.build("m.room.message", message("first")), room.build("m.room.message", message("twice"))
    queues, origin = room.hearth.federation.receiving.queues, room.peer.server_name

    async def queue_twice() -> list[bool]:
        (held,) = queues.hold([(pdu, to_json(pdu))], origin)
        queues.add([(first, to_json(first))], origin)
        (again,) = queues.add([(pdu, to_json(pdu))], origin)
        queues.release(held, pdu)
        await held.wait()
        await again.wait()
        return [held.error is None, again.error is None]

    assert run_in_reactor(queue_twice) == [True, True]
    assert room.sees(pdu.event_id)
    room.wait_until(lambda: not queues._rooms and not queues._queued)
