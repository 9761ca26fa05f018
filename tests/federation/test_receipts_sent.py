"""What our users have read reaches other servers, whatever happens in between; and once is enough."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from homeserver.matrix.ids import RoomId, UserId
from homeserver.store.tables.outbound import outbound_backlogs
from tests.federation.outbox import PEER, Outbox
from tests.kit.reactor import run_in_reactor

OTHER = "other.example"


@pytest.fixture
def outbox_config() -> dict[str, Any]:
    return {"rate_limits": {"enabled": False}}


def reads(outbox: Outbox, event_id: str, *, room_id: str = "", private: bool = False, thread_id: str = "") -> None:
    kind = "m.read.private" if private else "m.read"
    body = {"thread_id": thread_id} if thread_id else {}
    outbox.alice.post(f"/rooms/{{}}/receipt/{kind}/{{}}", body, at=(room_id or outbox.room_id, event_id))


def told(outbox: Outbox, server: str = PEER) -> list[str]:
    """The events that receipts named."""
    return [
        receipt["event_ids"][0]
        for content in outbox.peers.contents("m.receipt", server)
        for kinds in content.values()
        for receipt in kinds["m.read"].values()
    ]


def cut_off(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    outbox.say("into the void")
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)


def come_back(outbox: Outbox) -> None:
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()


def restart(outbox: Outbox, *, in_order: bool) -> None:
    """The peer is there again only afterwards."""
    if in_order:
        outbox.stop()
    outbox.crash()
    come_back(outbox)


def owed(outbox: Outbox) -> list[tuple[str, str]]:
    """Servers, and the rooms of which they lack receipts."""

    def load(conn: Any) -> list[tuple[str, str]]:
        rows = select(outbound_backlogs.c.server, outbound_backlogs.c.key).where(outbound_backlogs.c.kind == "receipt")
        return [tuple(row) for row in conn.execute(rows)]

    outbox.flush()
    return run_in_reactor(outbox.server.running.services.core.database.read, load)


@pytest.fixture
def said(outbox: Outbox) -> list[str]:
    ids = [outbox.alice.send(outbox.room_id, text) for text in ("one", "two", "three")]
    outbox.expect(["one", "two", "three"])
    outbox.flush()
    return ids


@pytest.mark.parametrize("in_order", [True, False], ids=["stopped", "crashed"])
def test_receipt_outlasts_an_outage_and_a_restart(outbox: Outbox, said: list[str], in_order: bool) -> None:
    cut_off(outbox)
    reads(outbox, said[0])
    reads(outbox, said[1])
    reads(outbox, said[1], thread_id="main")
    reads(outbox, said[2], private=True)
    restart(outbox, in_order=in_order)
    outbox.peers.wait_for(lambda: len(told(outbox)) == 2)
    assert told(outbox) == [said[1], said[1]]
    assert owed(outbox) == []


def test_receipt_that_waits_for_others_outlasts_a_crash(outbox: Outbox, said: list[str]) -> None:
    outbox.peers.hanging.add(PEER)
    reads(outbox, said[0])
    outbox.flush()
    outbox.crash()
    outbox.peers.hanging.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: told(outbox) == [said[0]])


def test_receipt_that_arrived_is_not_told_again(outbox: Outbox, said: list[str]) -> None:
    reads(outbox, said[0])
    outbox.peers.wait_for(lambda: told(outbox) == [said[0]])
    cut_off(outbox)
    reads(outbox, said[1])
    restart(outbox, in_order=True)
    outbox.peers.wait_for(lambda: said[1] in told(outbox))
    outbox.stop()
    outbox.crash()
    outbox.start()
    outbox.say("end")
    outbox.peers.wait_for(lambda: "end" in outbox.peers.bodies())
    assert told(outbox) == [said[0], said[1]]


def test_receipt_comes_when_the_server_calls_us(outbox: Outbox, said: list[str]) -> None:
    cut_off(outbox)
    reads(outbox, said[0])
    outbox.wake()
    outbox.peers.wait_for(lambda: told(outbox) == [said[0]])
    assert owed(outbox) == []
    reads(outbox, said[1])
    outbox.peers.wait_for(lambda: told(outbox) == [said[0], said[1]])
    assert owed(outbox) == []


def test_receipts_of_many_rooms_and_threads_come_in_pages(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.edus.receipts.MAX_EDUS", 4)
    monkeypatch.setattr("federation.edus.receipts.ROOMS_AT_ONCE", 2)
    rooms = [outbox.room_id, *(outbox.make_room() for _ in range(4))]
    ids = {room_id: [outbox.alice.send(room_id, f"{n}") for n in range(3)] for room_id in rooms}
    outbox.peers.wait_for(lambda: len(outbox.peers.bodies()) == 15)
    cut_off(outbox)
    for room_id, events in ids.items():
        for event_id in events:
            reads(outbox, event_id, room_id=room_id, thread_id=event_id)
    assert len(owed(outbox)) == 5
    restart(outbox, in_order=True)
    outbox.peers.wait_for(lambda: len(told(outbox)) == 15)
    assert set(told(outbox)) == {event_id for events in ids.values() for event_id in events}
    assert owed(outbox) == []


def test_more_receipts_than_memory_holds_are_told_all_the_same(
    outbox: Outbox, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.outbound.sender.MAX_RECEIPTS", 1)
    outbox.peers.hanging.add(PEER)
    outbox.say("hangs")
    for event_id in said:
        reads(outbox, event_id, thread_id=event_id)
    outbox.settle()
    assert [room_id for _, room_id in owed(outbox)] == [outbox.room_id]
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.peers.wait_for(lambda: set(told(outbox)) == set(said))


def test_server_that_left_is_told_of_no_receipt(outbox: Outbox, said: list[str]) -> None:
    other_room = outbox.make_room()
    event_id = outbox.alice.send(other_room, "elsewhere")
    cut_off(outbox)
    reads(outbox, said[0])
    reads(outbox, event_id, room_id=other_room)
    outbox.join(UserId(f"@bob:{PEER}"), RoomId(outbox.room_id), "leave")
    restart(outbox, in_order=True)
    outbox.peers.wait_for(lambda: told(outbox) == [event_id])
    assert owed(outbox) == []


def test_receipt_that_comes_with_what_a_server_refuses_is_told(outbox: Outbox, said: list[str]) -> None:
    outbox.peers.hanging.add(PEER)
    outbox.peers.refusing[PEER] = lambda body: 400 if body["pdus"] else None
    outbox.say("first")
    outbox.say("second")
    reads(outbox, said[0])
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.peers.wait_for(lambda: told(outbox) == [said[0]])


def test_many_receipts_cost_a_server_that_is_away_one_row_for_each_room(outbox: Outbox, said: list[str]) -> None:
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.settle()
    cut_off(outbox)
    for event_id in said:
        reads(outbox, event_id)
        outbox.settle()
        assert owed(outbox) == [(PEER, outbox.room_id)]
    outbox.peers.wait_for(lambda: said[2] in told(outbox, OTHER))
