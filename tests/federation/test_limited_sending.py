"""A peer that takes no more for now: it is asked again when it said, and not much later, whatever it said."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.federation.peer_room import V1, PeerRoom
from tests.federation.quiet import Log, log
from tests.kit.federation import Answer, Received

__all__ = ["log"]

SENDER = "federation.outbound.sender"
LIMITED = {"errcode": "M_LIMIT_EXCEEDED", "error": "Slowly"}


@pytest.fixture
def room(start_federated: Callable[..., Any], start_peer: Callable[..., Any]) -> PeerRoom:
    peer = start_peer()
    peer.answer("PUT", f"{V1}/send/", {"pdus": {}})
    return PeerRoom.open(start_federated(), peer)


def limit_once(room: PeerRoom, answer: Answer) -> list[tuple[float, Any]]:
    """The transactions that come from now on, and when; the first gets this answer."""
    came: list[tuple[float, Any]] = []

    def reply(received: Received) -> Any:
        came.append((time.monotonic(), received.json))
        return answer if len(came) == 1 else {"pdus": {}}

    room.peer.answer("PUT", f"{V1}/send/", reply)
    return came


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ({"Retry-After": "1"}, LIMITED),
        ({"Retry-After": "1"}, b"Too many requests"),
        ({}, {**LIMITED, "retry_after_ms": 1_000}),
        ({"Retry-After": "1"}, {**LIMITED, "retry_after_ms": 5}),
        ({"Retry-After": "soon"}, {**LIMITED, "retry_after_ms": 1_000}),
    ],
)
def test_transaction_comes_again_when_the_peer_said(
    room: PeerRoom, monkeypatch: pytest.MonkeyPatch, log: Log, head: dict[str, str], body: Any
) -> None:
    monkeypatch.setattr(f"{SENDER}.FIRST_RETRY_MS", 1)
    came = limit_once(room, Answer(body, 429, head))
    for text in ("first", "second"):
        room.alice.send(room.room_id, text)
    room.wait_until(lambda: any(pdu["content"].get("body") == "second" for _, sent in came[1:] for pdu in sent["pdus"]))
    (first_s, first), (again_s, again), *_ = came
    assert again_s - first_s >= 1
    assert again["pdus"] == first["pdus"]
    assert log.faults() == []


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ({"Retry-After": "99999999"}, LIMITED),
        ({"Retry-After": "9" * 5_000}, LIMITED),
        ({"Retry-After": "-1"}, {**LIMITED, "retry_after_ms": -1}),
        ({"Retry-After": "Fri, 31 Dec 2100 23:59:59 GMT"}, {**LIMITED, "retry_after_ms": "soon"}),
        ({}, {**LIMITED, "retry_after_ms": 10**30}),
        ({}, {**LIMITED, "retry_after_ms": True}),
        ({}, [LIMITED]),
    ],
)
def test_peer_that_says_something_else_is_asked_again_before_long(
    room: PeerRoom, monkeypatch: pytest.MonkeyPatch, log: Log, head: dict[str, str], body: Any
) -> None:
    monkeypatch.setattr(f"{SENDER}.MAX_RETRY_MS", 200)
    came = limit_once(room, Answer(body, 429, head))
    room.alice.send(room.room_id, "first")
    room.wait_until(lambda: len(came) > 1)
    assert came[1][1]["pdus"] == came[0][1]["pdus"]
    assert log.faults() == []
