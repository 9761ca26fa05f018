"""Events of one room that are received together: each as if those before it were on the disk, with fewer commits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix.pdu import Pdu
from homeserver.rooms import ingest as ingest_module
from homeserver.rooms.ingest import Receipt
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.rooms.writer import Draft
from tests.rooms.harness import ALICE
from tests.rooms.test_ingest import YAN, ZOE, IngestServer, fork_events, open_room, reset, server

__all__ = ["server"]


def receive(server: IngestServer, pdus: Sequence[Pdu]) -> list[Any]:
    outcomes: list[Any] = server.wait(server.ingest.receive_many(pdus))
    return outcomes


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_forks_that_come_together_resolve_as_one_by_one(database_url: str, tmp_path: Path, version: str) -> None:
    room = open_room(version)
    room.join("@eve:evil.example")
    server = IngestServer(database_url, tmp_path)
    join = server.enter(room)
    pdus = fork_events(room)
    outcomes = [server.receive(pdu) for pdu in pdus]
    state, extremities = dict(server.head(room).state), server.head(room).extremities
    server.close()
    server = reset(database_url, tmp_path, room, join)
    assert receive(server, pdus) == outcomes
    for _ in range(2):
        assert dict(server.head(room).state) == state
        assert server.head(room).extremities == extremities
        server.forget()
    assert receive(server, pdus) == [Receipt.KNOWN] * len(pdus)
    server.close()


def test_chain_shares_a_commit(server: IngestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    server.enter(room)
    pdus = [room.say(ZOE, str(number)) for number in range(40)]
    commits: list[int] = []
    transact = server.log._transact

    async def count(items: list[Any]) -> Any:
        commits.append(len(items))
        return await transact(items)

    monkeypatch.setattr(type(server.log), "_transact", lambda _, items: count(items))
    assert receive(server, pdus) == [Receipt.ACCEPTED] * 40
    assert len(commits) <= 2
    assert server.seen(room)[-40:] == [pdu.event_id for pdu in pdus]
    assert server.head(room).extremities == (pdus[-1].event_id,)


def test_redactions_find_what_comes_with_them(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    early, late = room.say(YAN, "oh dear", after=base), room.say(YAN, "oh no", after=base)
    of_late = room.send("m.room.redaction", ZOE, {"redacts": late.event_id}, after=base)
    of_early = room.send("m.room.redaction", ZOE, {"redacts": early.event_id}, after=[early])
    assert receive(server, [early, of_early, of_late, late]) == [Receipt.ACCEPTED] * 4
    for _ in range(2):
        assert server.event(early).redacted_by == of_early.event_id
        assert server.event(late).redacted_by == of_late.event_id
        server.forget()


def test_what_an_event_forbids_holds_for_those_that_come_with_it(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    ban = room.member(ZOE, YAN, "ban", after=base)
    evasion = room.say(YAN, "still here", after=base)
    room.forget_tip(evasion)
    grab = room.send("m.room.power_levels", YAN, {"users": {YAN: 100}}, "", after=[ban], auth=base)
    room.forget_tip(grab)
    after = room.say(ZOE, "gone", after=[ban])
    outcomes = receive(server, [ban, evasion, grab, after])
    assert outcomes == [Receipt.ACCEPTED, Receipt.SOFT_FAILED, Receipt.REJECTED, Receipt.ACCEPTED]
    assert evasion.event_id not in server.seen(room)
    assert server.head(room).extremities == (after.event_id,)


def test_missing_event_leaves_out_only_what_builds_on_it(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    missing = room.say(ZOE, "lost", after=base)
    child = room.say(ZOE, "child", after=[missing])
    grandchild = room.say(ZOE, "grandchild", after=[child])
    other = room.say(YAN, "other", after=base)
    lost, lost_too, received = receive(server, [child, grandchild, other])
    assert isinstance(lost, MissingEvents) and isinstance(lost_too, MissingEvents)
    assert received is Receipt.ACCEPTED


def test_failed_write_is_one_events_failure(server: IngestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    first, bad = room.say(ZOE, "first", after=base), room.say(ZOE, "bad", after=base)
    child = room.say(ZOE, "child", after=[bad])
    topic = room.send("m.room.topic", YAN, {"topic": "still"}, "", after=[first])
    save_gaps = ingest_module.save_gaps

    def fail(conn: Any, room_id: Any, event_id: Any, missing: Any) -> None:
        if event_id == bad.event_id:
            raise RuntimeError("the disk is full")
        save_gaps(conn, room_id, event_id, missing)

    with monkeypatch.context() as broken:
        broken.setattr(ingest_module, "save_gaps", fail)
        outcomes = receive(server, [first, bad, child, topic])
    assert [outcomes[0], outcomes[3]] == [Receipt.ACCEPTED] * 2
    assert str(outcomes[1]) == "the disk is full"
    assert isinstance(outcomes[2], MissingEvents)
    assert server.head(room).state["m.room.topic", ""] == topic.event_id
    server.forget()
    assert receive(server, [bad, child]) == [Receipt.ACCEPTED] * 2
    assert server.head(room).state["m.room.topic", ""] == topic.event_id


def test_local_events_are_sent_while_others_come(server: IngestServer) -> None:
    room = open_room()
    join = server.enter(room)
    pdus = [room.join(f"@late{number}:s.example") for number in range(20)]
    writes = [server.log_write(join.room_id, Draft("m.room.message", ALICE, {"body": str(n)})) for n in range(5)]
    assert receive(server, pdus) == [Receipt.ACCEPTED] * 20
    sent = [server.wait(write)[0] for write in writes]
    assert {event.event_id for event in sent} | {pdu.event_id for pdu in pdus} <= set(server.seen(room))
    state = dict(server.head(room).state)
    server.forget()
    assert dict(server.head(room).state) == state
