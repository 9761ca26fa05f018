"""What other servers are sent, when they keep up and when they don't."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from homeserver.matrix.ids import EventId, ServerName, UserId
from homeserver.rooms.writer import Draft
from homeserver.store.log_writer import LogItem
from homeserver.store.outbound import load_servers_behind
from homeserver.store.partial_rooms import save_partial_room
from homeserver.store.tables.outbound import outbound_backlogs
from tests.federation.outbox import PEER, Outbox
from tests.kit.reactor import run_in_reactor

OTHER = "other.example"
BOB = UserId(f"@bob:{PEER}")


def numbers(count: int, start: int = 0) -> list[str]:
    return [f"message {n}" for n in range(start, start + count)]


def behind(outbox: Outbox) -> list[str]:
    outbox.flush()
    return run_in_reactor(outbox.server.running.services.core.database.read, load_servers_behind)


def backlog_of(outbox: Outbox) -> list[Any]:
    outbox.flush()

    def load(conn: Any) -> list[Any]:
        return list(conn.execute(select(outbound_backlogs)))

    return run_in_reactor(outbox.server.running.services.core.database.read, load)


def test_events_arrive_in_their_order(outbox: Outbox) -> None:
    outbox.say(*numbers(5))
    outbox.expect(numbers(5))
    assert all(body["origin"] == "test.example" for _, body in outbox.peers.transactions[PEER])
    assert behind(outbox) == []


def test_others_events_are_not_ours_to_send(outbox: Outbox) -> None:
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.say("mine")
    outbox.expect(["mine"])
    assert {pdu["sender"] for pdu in outbox.peers.pdus()} == {outbox.alice.user_id}


def test_relayed_event_goes_to_all_but_its_origin(outbox: Outbox) -> None:
    event_id = outbox.join(UserId(f"@carol:{OTHER}"))
    run_in_reactor(outbox.outbound.relays.relay, outbox.room_id, event_id, OTHER)
    outbox.say("after")
    outbox.expect(["after"])
    outbox.expect(["after"], OTHER)
    assert f"@carol:{OTHER}" in {pdu.get("state_key") for pdu in outbox.peers.pdus()}
    assert len(outbox.peers.pdus(OTHER)) == 1


def test_kicked_user_s_server_gets_the_kick_and_nothing_after(outbox: Outbox) -> None:
    outbox.alice.post("/rooms/{}/kick", {"user_id": BOB}, at=[outbox.room_id])
    outbox.say("behind his back")
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.say("to others")
    outbox.expect(["to others"], OTHER)
    outbox.peers.wait_for(outbox.peers.pdus)
    assert [pdu["content"].get("membership") for pdu in outbox.peers.pdus()] == ["leave"]


def test_while_members_are_unknown_the_servers_count_that_were_told_of(outbox: Outbox) -> None:
    core = outbox.server.running.services.core

    def mark(*servers: str) -> None:
        def save(conn: Any, position: int) -> None:
            save_partial_room(conn, outbox.room_id, EventId("$join"), [ServerName(each) for each in servers], position)

        run_in_reactor(core.log.submit, LogItem("event", outbox.room_id, {}, save))

    mark(OTHER, "test.example")
    outbox.say("in part")
    outbox.expect(["in part"], OTHER)
    mark()
    outbox.say("in full")
    outbox.expect(["in part", "in full"])
    assert outbox.peers.bodies(OTHER) == ["in part"]
    assert set(outbox.peers.transactions) == {PEER, OTHER}


def test_what_waits_goes_in_transactions_of_fifty(outbox: Outbox) -> None:
    outbox.peers.hanging.add(PEER)
    outbox.say(*numbers(121))
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.expect(numbers(121))
    sizes = [len(body["pdus"]) for _, body in outbox.peers.transactions[PEER]]
    assert max(sizes) == 50 and sizes[0] < 50
    ids = [txn_id for txn_id, _ in outbox.peers.transactions[PEER]]
    assert len(set(ids)) == len(ids)


def test_server_that_is_slow_gets_a_burst_in_order(outbox: Outbox) -> None:
    outbox.peers.hanging.add(PEER)
    outbox.say(*numbers(400))
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.expect(numbers(400))
    assert behind(outbox) == []


def test_servers_that_hang_leave_their_turns_to_others(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.outbound.sender.SLOW_MS", 20)
    healthy = outbox.outbound.sender._healthy
    healthy.turns = 1
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.peers.hanging.add(PEER)
    outbox.say("one")
    outbox.expect(["one"], OTHER)
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.expect(["one"])
    outbox.say("two")
    outbox.expect(["one", "two"])
    outbox.expect(["one", "two"], OTHER)
    while run_in_reactor(lambda: healthy.running):
        pass  # an answer is on its way
    assert healthy.hanging == 0


def test_slow_server_does_not_hold_others_up(outbox: Outbox) -> None:
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.peers.hanging.add(PEER)
    outbox.say(*numbers(3))
    outbox.expect(numbers(3), OTHER)
    assert outbox.peers.bodies(PEER) == []
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.expect(numbers(3))


def test_short_outage_loses_nothing_and_keeps_the_order(outbox: Outbox) -> None:
    outbox.say("before")
    outbox.expect(["before"])
    outbox.peers.away.add(PEER)
    outbox.say(*numbers(70))
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    assert behind(outbox) == [PEER]
    outbox.wake()
    outbox.expect(["before", *numbers(70)])
    assert behind(outbox) == []


def test_failed_transaction_is_sent_again_under_its_id(outbox: Outbox) -> None:
    seen: list[str] = []

    def minds(body: dict[str, Any]) -> int | None:
        bodies = [pdu["content"]["body"] for pdu in body["pdus"] if "body" in pdu["content"]]
        seen.extend(bodies)
        return 502 if bodies else None

    outbox.peers.refusing[PEER] = minds
    outbox.say("one")
    outbox.peers.wait_for(lambda: seen)
    del outbox.peers.refusing[PEER]
    outbox.say("two")
    run_in_reactor(outbox.outbound.sender.wake, PEER)
    outbox.expect(["one", "two"])


def test_event_that_a_server_never_takes_holds_up_no_other(outbox: Outbox) -> None:
    def minds(body: dict[str, Any]) -> int | None:
        return 400 if any(pdu["content"].get("body") == "message 3" for pdu in body["pdus"]) else None

    outbox.peers.hanging.add(PEER)
    outbox.peers.refusing[PEER] = minds
    outbox.say(*numbers(10))
    run_in_reactor(outbox.peers.end_hanging, PEER)
    outbox.expect([text for text in numbers(10) if text != "message 3"])


def test_after_a_long_outage_the_newest_of_each_room_comes(outbox: Outbox) -> None:
    rooms = [outbox.room_id, outbox.make_room(), outbox.make_room()]
    outbox.peers.away.add(PEER)
    outbox.say("first")
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.say(*numbers(255), room_id=rooms[0])
    outbox.say("in the second", room_id=rooms[1])
    outbox.say("in the third", room_id=rooms[2])
    assert len(backlog_of(outbox)) == 3
    outbox.wake()
    outbox.expect(["in the third", "in the second", "message 254"])
    outbox.say("live again")
    outbox.expect(["in the third", "in the second", "message 254", "live again"])
    assert backlog_of(outbox) == []


def test_crash_between_commit_and_sending_loses_nothing(outbox: Outbox) -> None:
    outbox.say("before")
    outbox.expect(["before"])
    outbox.flush()
    outbox.peers.hanging.add(PEER)
    outbox.say(*numbers(3))
    outbox.crash()
    outbox.peers.hanging.clear()
    outbox.start()
    outbox.expect(["before", *numbers(3)])


def test_what_was_missed_survives_a_crash(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    outbox.say(*numbers(3))
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.flush()
    outbox.say("unsaved")
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: "unsaved" in outbox.peers.bodies())
    assert behind(outbox) == []


def test_orderly_restart_goes_on_where_it_was(outbox: Outbox) -> None:
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.peers.away.add(PEER)
    outbox.say(*numbers(3))
    outbox.expect(numbers(3), OTHER)
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    outbox.stop()
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: outbox.peers.bodies() == ["message 2"])
    outbox.say("more")
    outbox.expect([*numbers(3), "more"], OTHER)


def test_thousand_servers_are_sent_to_a_bounded_number_at_once(outbox: Outbox) -> None:
    servers = [f"s{n}.example" for n in range(1000)]
    services = outbox.server.running.services.core

    async def join_all() -> None:
        drafts = [
            Draft("m.room.member", UserId(f"@u:{server}"), {"membership": "join"}, f"@u:{server}") for server in servers
        ]
        await services.writer.write(outbox.room_id, lambda _head: drafts)

    run_in_reactor(join_all)
    outbox.say("to all")
    outbox.peers.wait_for(lambda: all(outbox.peers.bodies(server) == ["to all"] for server in servers))
    assert outbox.peers.most_at_once <= 200
    run_in_reactor(lambda: None)
    assert not outbox.outbound.sender._destinations


def test_server_that_we_may_not_talk_to_costs_nothing(outbox: Outbox) -> None:
    outbox.peers.forbidden.add(PEER)
    outbox.say("one")
    outbox.flush()
    assert outbox.peers.attempts == 0
    assert behind(outbox) == []
