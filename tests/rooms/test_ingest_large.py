"""Large rooms and broken commits: nothing that an event costs grows with the room, and nothing is half there."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Connection, func, select

from homeserver.matrix.ids import UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms import ingest as ingest_module
from homeserver.rooms import state_nodes
from homeserver.rooms.ingest import Receipt
from homeserver.rooms.state_nodes import StateNode
from homeserver.rooms.writer import Draft
from homeserver.store.tables.rooms import current_state, memberships, state_deltas, state_snapshots
from tests.rooms.harness import ALICE
from tests.rooms.remote_room import RemoteRoom
from tests.rooms.test_ingest import YAN, ZOE, IngestServer, open_room, server

__all__ = ["server"]
MEMBERS = 400
FORKS = 20


@pytest.fixture
def whole_comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many states were compared key by key."""
    counted: list[int] = []
    keys_between = state_nodes._keys_between

    def count(one: StateNode, other: StateNode) -> Any:
        keys = keys_between(one, other)
        if keys is None:
            counted.append(len(one.state))
        return keys

    monkeypatch.setattr(state_nodes, "_keys_between", count)
    return counted


def large_room() -> RemoteRoom:
    room = open_room()
    for number in range(MEMBERS):
        room.join(f"@m{number}:s{number % 50}.example")
    return room


def _state_bytes(conn: Connection) -> int:
    """What states take, with what their rows and index entries weigh (room id, key, event ids twice)."""
    text = sum(
        conn.execute(select(func.sum(sum((func.length(column) for column in columns), 60)))).scalar_one() or 0
        for columns in (
            (current_state.c.room_id, current_state.c.type, current_state.c.state_key, current_state.c.event_id),
            (memberships.c.user_id, memberships.c.room_id, memberships.c.event_id, memberships.c.sender),
            (
                state_deltas.c.room_id,
                state_deltas.c.type,
                state_deltas.c.state_key,
                state_deltas.c.event_id,
                func.coalesce(state_deltas.c.prev_event_id, ""),
            ),
        )
    )
    snapshots = conn.execute(select(func.sum(func.length(state_snapshots.c.delta) + 80))).scalar_one()
    return int(text + snapshots)


def test_forks_in_a_large_room_cost_what_changed_in_them(server: IngestServer, whole_comparisons: list[int]) -> None:
    room = large_room()
    server.enter(room)
    before = server.wait(server.database.read(_state_bytes))
    whole_comparisons.clear()
    changes = 0
    for number in range(FORKS):
        base = [room.events[tip] for tip in room.tips]
        sides = [base, base]
        for step in range(3):
            sides = [[room.join(f"@f{number}{step}{side}:late.example", after=ends)] for side, ends in enumerate(sides)]
            for [joined] in sides:
                assert server.receive(joined) is Receipt.ACCEPTED
                changes += 1
        assert server.receive(room.say(ZOE, after=[*sides[0], *sides[1]])) is Receipt.ACCEPTED
    assert dict(server.head(room).state) == room.current
    assert whole_comparisons == []
    grown = server.wait(server.database.read(_state_bytes)) - before
    assert grown / changes < 1000


def test_join_of_a_large_room_is_copied_into_few_later_snapshots(server: IngestServer) -> None:
    room = large_room()
    server.enter(room)
    for number in range(MEMBERS // 4):
        assert server.receive(room.join(f"@late{number}:s.example")) is Receipt.ACCEPTED
    read = select(func.max(func.length(state_snapshots.c.delta)), func.sum(func.length(state_snapshots.c.delta)))
    largest, total = server.wait(server.database.read(lambda conn: conn.execute(read).one()))
    assert largest <= 8 * (MEMBERS + 10)
    assert total <= 3 * largest


def test_failed_write_leaves_nothing_and_the_event_can_come_again(
    server: IngestServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    sides = [room.send("m.room.topic", user, {"topic": user}, "", after=base) for user in (ZOE, YAN)]
    assert server.receive(sides[0]) is Receipt.ACCEPTED
    head = dict(server.head(room).state)

    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(ingest_module, "save_gaps", fail)
        with pytest.raises(RuntimeError, match="disk is full"):
            server.receive(sides[1])
    server.forget()
    assert dict(server.head(room).state) == head
    assert server.event(sides[1]) is None
    assert server.receive(sides[1]) is Receipt.ACCEPTED
    assert dict(server.head(room).state) == room.current


def test_local_and_remote_events_at_once(server: IngestServer) -> None:
    room = open_room()
    join = server.enter(room)
    remote: list[Pdu] = []
    last = [join]
    for number in range(20):
        last = [room.send("m.room.topic", ZOE, {"topic": f"{number}"}, "", after=last)]
        remote += last
    waiting = []
    for number, pdu in enumerate(remote):
        draft = Draft("m.room.message", ALICE, {"body": f"{number}"})
        waiting.append(server.log_write(join.room_id, draft))
        assert server.receive(pdu) is Receipt.ACCEPTED
    sent = [server.wait(write)[0] for write in waiting]
    head = server.head(room)
    assert head.state["m.room.topic", ""] == remote[-1].event_id
    seen = server.seen(room)
    assert {event.event_id for event in sent} | {pdu.event_id for pdu in remote} <= set(seen)
    assert len(head.extremities) <= 2
    server.forget()
    assert dict(server.head(room).state) == dict(head.state)
    assert server.head(room).members[UserId(ALICE)] == "join"
