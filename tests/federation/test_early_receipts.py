"""Receipts that come before the event that they name: they wait for it, over restarts, and no server fills anything with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from homeserver.rooms.receipts import Receipts
from homeserver.store.early_receipts import EarlyReceipt, load_early_receipts, save_early_receipts
from tests.federation.peer_room import V1, PeerRoom, message
from tests.federation.quiet import Log, log
from tests.federation.test_receiving_crash import SameServer
from tests.federation.test_receiving_faults import Fault
from tests.federation.visitor import Visitor
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until_synced

__all__ = ["log"]

LIMITS = "federation.edus.early_receipts"


@pytest.fixture
def room(start_federated: Callable[..., Any], start_peer: Callable[..., Any]) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def read(room: PeerRoom, event_id: str, user_id: str | None = None, ts: int = 1_234, **about: Any) -> Any:
    """An EDU: the user, if no other bob, has read up to the event."""
    receipt = {"event_ids": [event_id], "data": {"ts": ts, **about}}
    return {"edu_type": "m.receipt", "content": {room.room_id: {"m.read": {user_id or room.bob: receipt}}}}


def tell(room: PeerRoom, *edus: Any) -> None:
    assert room.send(edus=edus).status_code == 200


def waiting(room: PeerRoom) -> list[EarlyReceipt]:
    """The rows of the table."""
    database = room.hearth.running.services.core.database
    rows: list[EarlyReceipt] = run_in_reactor(lambda: database.read(load_early_receipts))
    return rows


def in_memory(room: PeerRoom) -> list[EarlyReceipt]:
    early = room.hearth.running.services.outbound.receipts.early
    return list(run_in_reactor(lambda: list(early._receipts.values())))


def tidy(room: PeerRoom) -> None:
    """What is done once an hour."""
    run_in_reactor(room.hearth.running.services.outbound.upkeep.run)


def start_again(room: PeerRoom) -> None:
    room.hearth.start()
    room.alice.base_url = room.hearth.url


def shown(room: PeerRoom) -> dict[str, Any]:
    """Up to where who has read, as alice is told: user -> (event, about the receipt)."""
    joined = room.alice.sync(since=None)["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    receipts = next((event["content"] for event in joined if event["type"] == "m.receipt"), {})
    return {
        user_id: (event_id, about)
        for event_id, types in receipts.items()
        for user_id, about in types.get("m.read", {}).items()
    }


def wait_until_shown(room: PeerRoom, event_id: str, user_id: str | None = None) -> None:
    user = user_id or room.bob
    until_synced(room.alice, lambda _: shown(room).get(user, ("",))[0] == event_id)


def test_receipt_is_taken_when_its_event_comes(room: PeerRoom) -> None:
    first, second = (room.build("m.room.message", message(text)) for text in ("first", "second"))
    tell(room, read(room, second.event_id, thread_id="main"))
    assert [each.event_id for each in waiting(room)] == [second.event_id]
    room.send(first)
    room.wait_for_event(first.event_id)
    assert shown(room) == {}
    room.send(second)
    wait_until_shown(room, second.event_id)
    assert shown(room) == {room.bob: (second.event_id, {"ts": 1_234, "thread_id": "main"})}
    room.wait_until(lambda: waiting(room) == in_memory(room) == [])


def test_receipt_that_was_accepted_survives_a_crash(room: PeerRoom) -> None:
    pdu = room.build("m.room.message", message("late"))
    room.hearth.stop()
    process = SameServer(room.hearth)
    tell(room, read(room, pdu.event_id))
    process.kill()
    start_again(room)
    assert shown(room) == {}
    room.send(pdu)
    wait_until_shown(room, pdu.event_id)
    room.wait_until(lambda: waiting(room) == in_memory(room) == [])


def test_receipt_that_can_not_be_written_down_is_not_accepted(room: PeerRoom, monkeypatch: Any) -> None:
    pdu = room.build("m.room.message", message("late"))
    fault = Fault(monkeypatch, "save_early_receipts")
    assert room.send(edus=[read(room, pdu.event_id)], txn_id="same").status_code == 503
    fault.mend()
    assert room.send(edus=[read(room, pdu.event_id)], txn_id="same").status_code == 200
    room.hearth.stop()
    start_again(room)
    room.send(pdu)
    wait_until_shown(room, pdu.event_id)


@pytest.mark.parametrize("then", ["restart", "upkeep"])
def test_receipt_whose_event_came_while_it_could_not_be_taken_is_taken_later(
    room: PeerRoom, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    pdu = room.build("m.room.message", message("late"))
    tell(room, read(room, pdu.event_id))

    async def fail(*_: Any) -> None:
        raise OperationalError("COMMIT", {}, Exception("no space left on device"))

    with monkeypatch.context() as broken:
        broken.setattr(Receipts, "set_receipt", fail)
        room.send(pdu)
        room.wait_for_event(pdu.event_id)
    if then == "upkeep":
        tidy(room)
    else:
        room.hearth.stop()
        start_again(room)
    assert shown(room) == {room.bob: (pdu.event_id, {"ts": 1_234})}
    assert waiting(room) == in_memory(room) == []


def test_receipt_that_another_process_stored_is_taken(room: PeerRoom) -> None:
    pdu = room.build("m.room.message", message("late"))
    now_ms = room.hearth.running.services.core.clock.time_ms()
    receipt = EarlyReceipt(room.room_id, room.bob, "", pdu.event_id, 1_234, now_ms)
    run_in_reactor(room.hearth.running.services.core.database.run, save_early_receipts, [receipt], [])
    tidy(room)
    assert waiting(room) == in_memory(room) == [receipt]
    room.send(pdu)
    wait_until_shown(room, pdu.event_id)


def test_newer_receipt_takes_the_place_of_the_one_that_waits(room: PeerRoom) -> None:
    here, first, second = (room.build("m.room.message", message(text)) for text in ("here", "first", "second"))
    tell(room, read(room, first.event_id), read(room, first.event_id, thread_id="main"))
    tell(room, read(room, second.event_id))
    assert {(each.thread_id, each.event_id) for each in waiting(room)} == {
        ("", second.event_id),
        ("main", first.event_id),
    }
    room.send(here)
    room.wait_for_event(here.event_id)
    tell(room, read(room, here.event_id))
    assert [each.thread_id for each in waiting(room)] == ["main"]
    room.send(first, second)
    room.wait_until(lambda: waiting(room) == in_memory(room) == [])
    told = room.alice.sync(since=None)["rooms"]["join"][room.room_id]["ephemeral"]["events"]
    receipts = next(event["content"] for event in told if event["type"] == "m.receipt")
    assert second.event_id not in receipts
    assert receipts[here.event_id] == {"m.read": {room.bob: {"ts": 1_234}}}


def test_nothing_waits_for_who_is_not_in_the_room_or_is_not_the_origins(room: PeerRoom) -> None:
    stranger = f"@stranger:{room.peer.server_name}"
    elsewhere = read(room, "$never")
    elsewhere["content"] = {f"!none:{room.peer.server_name}": elsewhere["content"][room.room_id]}
    tell(room, read(room, "$never", stranger), read(room, "$never", room.alice.user_id), elsewhere)
    assert waiting(room) == in_memory(room) == []


@pytest.mark.parametrize("limit", ["MAX_IN_ROOM", "MAX_OF_SERVER", "MAX_IN_ALL"])
def test_server_that_tells_of_events_that_never_come_fills_nothing_and_pushes_nobody_out(
    room: PeerRoom, start_peer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, log: Log, limit: str
) -> None:
    monkeypatch.setattr(f"{LIMITS}.{limit}", 6)
    pdu = room.build("m.room.message", message("late"))
    tell(room, read(room, pdu.event_id))
    hostile = start_peer()
    mallory = Visitor(hostile, room.hearth).user("mallory")
    Visitor(hostile, room.hearth).join(room.room_id, mallory)
    room.wait_for_member(mallory, "join")
    for number in range(2):
        edus = [read(room, f"$never{number}-{each}", mallory, thread_id="t" * each) for each in range(1, 20)]
        assert hostile.put(room.hearth, f"{V1}/send/{number}", {"edus": edus}).status_code == 200
    rows = waiting(room)
    assert {*rows} == {*in_memory(room)}
    of_mallory = [each.event_id for each in rows if each.user_id == mallory]
    assert 5 <= len(of_mallory) <= 6
    assert of_mallory[-1] == "$never1-19"
    assert [each.event_id for each in rows if each.user_id == room.bob] == [pdu.event_id]
    room.hearth.stop()
    start_again(room)
    assert in_memory(room) == rows
    room.send(pdu)
    wait_until_shown(room, pdu.event_id)
    assert log.faults() == []


def test_one_edu_with_more_than_may_wait_leaves_the_newest(room: PeerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{LIMITS}.MAX_OF_SERVER", 6)
    users = [f"@u{number}:{room.peer.server_name}" for number in range(20)]
    joins = [room.build("m.room.member", {"membership": "join"}, sender=each, state_key=each) for each in users]
    room.send(*joins)
    room.wait_for_member(users[-1], "join")
    receipt = {"event_ids": ["$never"], "data": {"ts": 1}}
    content = {room.room_id: {"m.read": dict.fromkeys(users, receipt)}}
    tell(room, {"edu_type": "m.receipt", "content": content})
    assert sorted(each.user_id for each in waiting(room)) == sorted(users[-6:])
    assert [each.user_id for each in in_memory(room)] == users[-6:]


def test_receipt_whose_event_does_not_come_is_dropped(room: PeerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    tell(room, read(room, "$never"))
    tidy(room)
    assert len(waiting(room)) == len(in_memory(room)) == 1
    monkeypatch.setattr(f"{LIMITS}.MAX_AGE_MS", -60_000)
    tidy(room)
    assert waiting(room) == in_memory(room) == []
    early = room.hearth.running.services.outbound.receipts.early
    assert run_in_reactor(lambda: [early._of_server, early._in_room, early._of_event]) == [{}, {}, {}]
