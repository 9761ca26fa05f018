"""Sticky events (MSC4354) between servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select
from twisted.internet.defer import Deferred

from federation.joining.partial_state import StateCompletion
from federation.outbound.sticky_events import StickySource
from homeserver.matrix.ids import UserId
from homeserver.rooms.ingest_history import History
from homeserver.rooms.writer import Draft
from homeserver.store.outbound import STICKY
from homeserver.store.tables.outbound import outbound_backlogs
from tests.federation.outbox import PEER, Outbox
from tests.federation.peer_room import PeerRoom
from tests.kit.client import Client, bodies
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

DURATION = "org.matrix.msc4354.sticky_duration_ms"
OTHER = "other.example"
HOUR_MS = 3_600_000
SMALL = {"room": {"timeline": {"limit": 1}}}


def stick(client: Client, room: str, txn: str, duration_ms: int = HOUR_MS) -> str:
    path = "/rooms/{}/send/{}/{}"
    event_id: str = client.put(path, {"txn": txn}, at=(room, "x.sticky", txn), query={DURATION: duration_ms})[
        "event_id"
    ]
    return event_id


def sticky(client: Client, room: str) -> list[str]:
    """What a client is told that syncs for the first time."""
    joined = client.get("/sync", query={"filter": SMALL})["rooms"]["join"][room]
    events = [*joined.get("msc4354_sticky", {}).get("events", []), *joined["timeline"]["events"]]
    return [event["event_id"] for event in events if event["type"] == "x.sticky"]


def test_a_server_that_joins_gets_what_is_sticky_then(start_federated: Callable[..., Any]) -> None:
    here, there = start_federated("here"), start_federated("there")
    alice, bob, carol = here.register("alice"), there.register("bob"), there.register("carol")
    room = alice.create_room(preset="public_chat", room_alias_name="room")
    stick(alice, room, "short", 1)
    redacted, sent = stick(alice, room, "redacted"), [stick(alice, room, f"{n}") for n in range(12)]
    alice.redact(room, redacted)
    for n in range(5):
        alice.send(room, f"later {n}")
    bob.join(f"#room:{here.server_name}")
    until(bob, lambda: set(sticky(bob, room)) == set(sent))
    own = stick(bob, room, "of there")
    carol.join(f"#room:{here.server_name}")
    until(alice, lambda: set(sticky(alice, room)) == {*sent, own})
    assert set(sticky(carol, room)) == {*sent, own}


def test_who_joins_sees_what_is_sticky_though_the_rest_of_history_is_hidden(
    start_federated: Callable[..., Any],
) -> None:
    here, there = start_federated("here"), start_federated("there")
    alice, bob = here.register("alice"), there.register("bob")
    room = alice.create_room(preset="public_chat", room_alias_name="room")
    alice.set_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    hidden = alice.send(room, "hidden")
    sent = []
    for n in range(3):
        sent.append(stick(alice, room, f"{n}"))
        alice.send(room, f"between {n}")
    bob.join(f"#room:{here.server_name}")
    until(bob, lambda: set(sticky(bob, room)) == set(sent))
    for event_id in sent:
        assert bob.get("/rooms/{}/event/{}", at=(room, event_id))["event_id"] == event_id
    bob.get("/rooms/{}/event/{}", at=(room, hidden), expect="M_NOT_FOUND")


def test_what_another_server_says_of_stickiness_is_bounded(
    start_federated: Callable[..., Any], start_peer: Callable[..., Any]
) -> None:
    room = PeerRoom.open(start_federated(), start_peer())
    durations: list[Any] = [2 * HOUR_MS, HOUR_MS, -1, "5", True, None]
    sent = [room.build("x.sticky", {"n": n}, sticky_ms=duration) for n, duration in enumerate(durations)]
    assert room.send(*sent).json() == {"pdus": {pdu.event_id: {} for pdu in sent}}
    room.wait_for_event(sent[-1].event_id)
    room.alice.send(room.room_id, "later")
    assert sticky(room.alice, room.room_id) == [sent[0].event_id, sent[1].event_id]
    events = [room.wait_for_event(pdu.event_id) for pdu in sent]
    assert [event.get("msc4354_sticky", {}).get("duration_ms") for event in events] == [
        2 * HOUR_MS,
        HOUR_MS,
        *4 * [None],
    ]
    left_ms = [event["unsigned"].get("msc4354_sticky_duration_ttl_ms", 0) for event in events]
    assert HOUR_MS - 120_000 < left_ms[0] <= HOUR_MS
    assert left_ms[2:] == [0, 0, 0, 0]


def test_a_server_whose_kick_is_taken_back_gets_what_it_missed(
    start_federated: Callable[..., Any], start_peer: Callable[..., Any]
) -> None:
    room, other = PeerRoom.open(start_federated(), start_peer()), start_peer()
    path = "/_matrix/federation/v1/send/"
    other.answer("PUT", path, {"pdus": {}})
    dave, carol = f"@dave:{room.peer.server_name}", f"@carol:{other.server_name}"
    of_other = {"sender": carol, "key": other.key, "server_name": other.server_name}
    joins = [
        room.build("m.room.member", {"membership": "join"}, state_key=dave, sender=dave),
        room.build("m.room.member", {"membership": "join"}, state_key=carol, **of_other),
    ]
    room.send(*joins)
    room.wait_for_member(carol, "join")
    levels = room.alice.get_state(room.room_id, "m.room.power_levels")
    users = {**levels["users"], room.bob: 50, dave: 90}
    room.alice.set_state(room.room_id, "m.room.power_levels", {**levels, "users": users})
    room.catch_up()
    kick = room.build("m.room.member", {"membership": "leave"}, state_key=carol, advance=False)
    ban = room.build("m.room.member", {"membership": "ban"}, state_key=room.bob, sender=dave, advance=False)
    room.send(kick)
    room.wait_for_member(carol, "leave")
    missed = stick(room.alice, room.room_id, "missed")
    room.send(ban)
    room.wait_for_member(carol, "join")
    room.wait_until(lambda: "missed" in [each.get("txn") for each in contents(other.received(path))])
    assert missed in {event["event_id"] for event in room.alice.messages(room.room_id)["chunk"]}


def contents(transactions: list[Any]) -> list[Any]:
    return [pdu["content"] for transaction in transactions for pdu in transaction.json["pdus"]]


def test_what_is_sticky_is_news_though_it_comes_as_history(
    start_federated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = start_federated("here"), start_federated("there")
    alice, bob, carol = here.register("alice"), there.register("bob"), here.register("carol")
    room = alice.create_room(preset="public_chat", room_alias_name="room")
    carol.join(room)
    alice.send(room, "before")
    sent = [stick(alice, room, f"{n}") for n in range(2)]
    gone = stick(carol, room, "of one who left")
    carol.leave(room)
    alice.send(room, "behind")
    never: Deferred[None] = Deferred()

    async def hang(_source: StickySource, _row: Any) -> None:
        await never

    monkeypatch.setattr(StickySource, "load_missing", hang)
    bob.join(f"#room:{here.server_name}")
    since = bob.get("/sync")["next_batch"]
    assert sticky(bob, room) == []
    until(bob, lambda: "before" in bodies(bob.messages(room, limit=50)["chunk"]))
    until(bob, lambda: set(sticky(bob, room)) == set(sent))
    told = bob.get("/sync", query={"since": since})["rooms"]["join"][room]["timeline"]["events"]
    assert {event["event_id"] for event in told} >= set(sent)
    history = [event["event_id"] for event in bob.messages(room, limit=50)["chunk"]]
    assert sorted(event_id for event_id in history if event_id in {gone, *sent}) == sorted([gone, *sent])


def test_what_is_sticky_is_news_also_before_the_members_are_known(
    start_federated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = start_federated("here"), start_federated("there")
    alice, bob = here.register("alice"), there.register("bob")
    room = alice.create_room(preset="public_chat", room_alias_name="room")
    sent = stick(alice, room, "sticky")
    alice.send(room, "behind")
    history_comes, never = Deferred[None](), Deferred[None]()
    complete, backfill = StateCompletion._complete, History.backfill

    async def complete_then(completion: StateCompletion, partial: Any) -> None:
        await history_comes
        await complete(completion, partial)

    async def backfill_first(history: History, *about: Any, **more: Any) -> int:
        doing = Deferred.fromCoroutine(backfill(history, *about, **more))
        history_comes.callback(None)
        return await doing

    async def hang(_source: StickySource, _row: Any) -> None:
        await never

    monkeypatch.setattr(StickySource, "load_missing", hang)
    monkeypatch.setattr(StateCompletion, "_complete", complete_then)
    monkeypatch.setattr(History, "backfill", backfill_first)
    bob.join(f"#room:{here.server_name}")
    assert sticky(bob, room) == []
    bob.messages(room, limit=50)
    assert history_comes.called
    until(bob, lambda: sticky(bob, room) == [sent])


def sent_to(outbox: Outbox, server: str) -> list[str]:
    return [pdu["content"]["txn"] for pdu in outbox.peers.pdus(server) if pdu["type"] == "x.sticky"]


def test_a_server_that_was_away_for_long_gets_each_sticky_event_once(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    outbox.say("first")
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    names = [f"{n}" for n in range(25)]
    stick(outbox.alice, outbox.room_id, "short", 1)
    for name in names:
        stick(outbox.alice, outbox.room_id, name)
    outbox.say("last")
    outbox.stop()
    outbox.crash()
    outbox.peers.away.clear()
    outbox.peers.backing_off.clear()
    outbox.start()
    outbox.peers.wait_for(lambda: len(sent_to(outbox, PEER)) >= 25 and outbox.peers.bodies())
    outbox.say("live again")
    outbox.expect(["last", "live again"])
    assert sent_to(outbox, PEER) == names
    assert max(len(body["pdus"]) for _, body in outbox.peers.transactions[PEER]) <= 50


def test_what_waits_for_a_server_that_never_comes_goes_when_it_is_not_sticky_any_more(outbox: Outbox) -> None:
    outbox.peers.away.add(PEER)
    outbox.say("first")
    outbox.peers.wait_for(lambda: PEER in outbox.peers.backing_off)
    for name in ("0", "1"):
        stick(outbox.alice, outbox.room_id, name)
    outbox.settle()
    assert waiting(outbox) == 2
    run_in_reactor(outbox.outbound.upkeep.run)
    assert waiting(outbox) == 2
    stick(outbox.alice, outbox.room_id, "2")
    outbox.settle()
    run_in_reactor(outbox.outbound.upkeep.run)
    assert waiting(outbox) == 1


def waiting(outbox: Outbox) -> int:
    """How many sticky events stand in backlogs."""
    run_in_reactor(lambda: outbox.outbound.sender.get_cursor(0))
    outbox.flush()

    def count(conn: Any) -> int:
        return len(conn.execute(select(outbound_backlogs).where(outbound_backlogs.c.kind == STICKY)).all())

    found: int = run_in_reactor(outbox.server.running.services.core.database.read, count)
    return found


def test_what_is_sticky_is_sent_to_new_servers_only_and_only_by_its_sender_s(outbox: Outbox) -> None:
    outbox.write(Draft("x.sticky", UserId(f"@bob:{PEER}"), {"txn": "bob's"}, sticky_ms=HOUR_MS))
    names = [f"{n}" for n in range(60)]
    for name in names:
        stick(outbox.alice, outbox.room_id, name)
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.say("welcome")
    outbox.peers.wait_for(lambda: len(sent_to(outbox, OTHER)) >= 60 and outbox.peers.bodies(OTHER))
    outbox.join(UserId(f"@dora:{OTHER}"))
    outbox.join(UserId(f"@bob:{PEER}"))
    outbox.say("and again")
    outbox.expect(["welcome", "and again"], OTHER)
    outbox.expect(["welcome", "and again"])
    assert list(dict.fromkeys(sent_to(outbox, OTHER))) == sent_to(outbox, PEER) == names
    assert max(len(body["pdus"]) for _, body in outbox.peers.transactions[OTHER]) <= 50


def test_a_server_that_drops_what_comes_during_its_join_is_sent_it_again(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.outbound.sticky_events.AGAIN_AFTER_MS", 100)
    stick(outbox.alice, outbox.room_id, "one")
    outbox.settle()
    outbox.join(UserId(f"@carol:{OTHER}"))
    outbox.peers.wait_for(lambda: sent_to(outbox, OTHER) == ["one", "one"])


def test_a_crash_behind_a_join_loses_no_sticky_event(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    stick(outbox.alice, outbox.room_id, "one")
    outbox.settle()
    outbox.flush()
    never: Deferred[None] = Deferred()

    async def hang(_source: StickySource, _row: Any) -> None:
        await never

    with monkeypatch.context() as patched:
        patched.setattr(StickySource, "load_missing", hang)
        outbox.join(UserId(f"@carol:{OTHER}"))
        outbox.crash()
    outbox.start()
    outbox.peers.wait_for(lambda: sent_to(outbox, OTHER) == ["one"])
