"""Large and dense requests of other servers: few are unfolded at one moment, and the reactor goes on meanwhile."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from federation.inbound.large_bodies import LARGE_BYTES, WAITING_OF_EACH, Line
from federation.inbound.pieces import SLICE_BYTES, canonical_body
from federation.xmatrix import build_header
from homeserver.matrix.canonical import canonical_json
from homeserver.runtime.clock import ManualClock
from tests.federation.peer_room import V1, PeerRoom, message, to_json
from tests.federation.quiet import Log, log
from tests.kit.reactor import run_in_reactor

__all__ = ["log"]

SENT = 8


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def put(room: PeerRoom, txn_id: str, body: Any, encode: Any) -> Any:
    path, peer = f"{V1}/send/{txn_id}", room.peer
    header = build_header(peer.key, "PUT", path, peer.server_name, room.hearth.server_name, body)
    return room.hearth.ask("PUT", path, encode(body), {"Authorization": header})


def as_others_write_it(body: Any) -> bytes:
    return json.dumps({name: body[name] for name in reversed(body)}).encode()


@pytest.mark.parametrize("encode", [canonical_json, as_others_write_it], ids=["as signed", "otherwise"])
def test_server_has_one_large_transaction_dealt_with_at_a_time(
    room: PeerRoom, log: Log, monkeypatch: pytest.MonkeyPatch, encode: Any
) -> None:
    auth, transactions = room.hearth.federation.auth, room.hearth.federation.receiving.transactions
    receive, held, lock = transactions.receive, [], threading.Lock()
    answers: list[int] = []

    async def hold(*args: Any) -> Any:
        turn: Deferred[None] = Deferred()
        held.append(turn)
        await turn
        return await receive(*args)

    monkeypatch.setattr(type(transactions), "receive", staticmethod(hold))
    dense = {"dense": [[]] * 60_000}
    valid = to_json(room.build("m.room.message", message("hello"), advance=False))
    body = {"edus": [], "origin": room.peer.server_name, "pdus": [dense, dense, valid]}
    assert len(canonical_json(body)) > LARGE_BYTES

    def send(number: int) -> None:
        status = put(room, f"dense{number}", body, encode).status_code
        with lock:
            answers.append(status)

    threads = [threading.Thread(target=send, args=[n]) for n in range(SENT)]
    for thread in threads:
        thread.start()
    room.wait_until(lambda: len(answers) == SENT - 1 - WAITING_OF_EACH)
    assert set(answers) == {429}
    assert len(held) == 1, (auth.large, auth._running, answers)
    assert len(auth.large.waiting) == WAITING_OF_EACH
    assert put(room, "small", {"pdus": "x"}, encode).status_code == 400  # small ones don't stand behind them
    for number in range(1 + WAITING_OF_EACH):
        room.wait_until(lambda number=number: len(held) > number)
        run_in_reactor(held[number].callback, None)
    for thread in threads:
        thread.join(60)
    assert Counter(answers) == {200: 1 + WAITING_OF_EACH, 429: SENT - 1 - WAITING_OF_EACH}
    assert auth.large.most_running == 1
    assert not run_in_reactor(lambda: set(auth.large.running))  # behind the end of the last request
    room.wait_for_event(room.tips[0])
    assert log.faults() == []


def test_those_who_are_gone_when_their_turn_comes_let_the_next_one_in() -> None:
    line, entered = Line(at_once=1), []

    async def pass_through(number: int) -> None:
        await line.enter(number)
        entered.append(number)
        if number > 0:
            line.leave(number)

    passing = [Deferred.fromCoroutine(pass_through(number)) for number in range(5)]
    assert [each.called for each in passing] == [True, False, False, False, False]
    line.leave(0)
    assert entered == [0, 1, 2, 3, 4]
    assert not line.running and not line.waiting


def test_event_that_is_too_large_is_dropped_and_others_are_taken(room: PeerRoom, log: Log) -> None:
    valid = room.build("m.room.message", message("hello"))
    huge = {**to_json(valid), "content": {"dense": [[]] * 300_000}}
    answer = room.send(huge, [], valid, edus=[{"edu_type": "x", "content": huge}])
    assert answer.status_code == 200
    assert answer.json() == {"pdus": {valid.event_id: {}}}
    assert log.faults() == []


@pytest.mark.parametrize("encode", [canonical_json, as_others_write_it], ids=["as signed", "otherwise"])
@pytest.mark.parametrize("pdus", ["x" * 400_000, {"x": ["y"] * 200_000}, [1] * 200_000], ids=["text", "object", "many"])
def test_large_body_of_another_shape_is_refused(room: PeerRoom, log: Log, pdus: Any, encode: Any) -> None:
    answer = put(room, "1", {"origin": room.peer.server_name, "pdus": pdus}, encode)
    assert (answer.status_code, "pdus" in answer.json()["error"]) == (400, True)
    assert log.faults() == []


def test_large_body_with_a_wrong_signature_is_refused(room: PeerRoom, log: Log) -> None:
    body = {"pdus": [message("x" * 1_000)] * 500}
    other = {"pdus": [message("y" * 1_000)] * 500}
    for encode in (canonical_json, as_others_write_it):
        answer = put(room, "1", body, lambda _, encode=encode: encode(other))
        assert (answer.status_code, answer.json()["errcode"]) == (401, "M_UNAUTHORIZED")
    for broken in (b"{" * 300_000, b'{"a":[' + b"1," * 200_000, b"[" * 300_000):
        answer = put(room, "1", body, lambda _, broken=broken: broken)
        assert (answer.status_code, answer.json()["errcode"] in ("M_NOT_JSON", "M_BAD_JSON")) == (400, True)
    assert log.faults() == []


class Turns(ManualClock):
    """Counts how often others had their turn."""

    count = 0

    async def sleep(self, duration_ms: int) -> None:
        self.count += 1


def test_large_body_is_read_in_slices() -> None:
    body = {"b": [{"z": 1, "a": "\u00e9" * 100}] * 3_000, "a": {"1": 2}, "c": "x"}
    clock = Turns()
    sent = as_others_write_it(body)
    assert run_in_reactor(canonical_body, sent, clock) == canonical_json(body)
    assert clock.count == len(sent) // SLICE_BYTES > 1
