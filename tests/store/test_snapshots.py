"""State snapshots: whatever the history, the state that is read is the state that was laid down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, delete, func, insert, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.runtime.db import engine_url, make_engine
from homeserver.store.snapshots import (
    Snapshot,
    empty_snapshot,
    load_state,
    load_state_nids,
    load_steps,
    save_snapshots,
)
from homeserver.store.tables.rooms import events, state_snapshots

ROOM = RoomId("!room:test.example")

# A step: which earlier snapshot it grows from (counted from the newest), which key it changes, and whether it removes it.
STEPS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.booleans()), min_size=1, max_size=60)


@pytest.fixture
def connection(database_url: str) -> Any:
    engine = make_engine(engine_url(database_url, Path("/")))
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def _save_event(connection: Connection, nid: int, key: str) -> EventId:
    event_id = EventId(f"${nid}")
    row = {"room_id": ROOM, "nid": nid, "timeline_order": nid, "event_id": event_id, "type": "t", "state_key": key}
    row |= {"sender": "@a:b", "depth": 1, "origin_server_ts": 1, "json": b"{}", "soft_failed": False, "push_outcome": 0}
    connection.execute(insert(events), [row])
    return event_id


@settings(max_examples=40)
@given(steps=STEPS, reload=st.booleans())
def test_every_snapshot_reads_as_it_was_laid(
    connection: Connection, steps: list[tuple[int, int, bool]], reload: bool
) -> None:
    transaction = connection.begin()
    try:
        laid: list[tuple[Snapshot, dict[str, int]]] = [(empty_snapshot(ROOM), {})]
        for nid, (back, key_number, removes) in enumerate(steps, 1):
            parent, state = laid[-1 - min(back, len(laid) - 1)]
            if reload and parent.snapshot_id:
                parent = Snapshot(ROOM, snapshot_id=parent.snapshot_id)
            key = f"key{key_number}"
            _save_event(connection, nid, key)
            removed = removes and key in state
            snapshot = Snapshot(ROOM, parent=parent, changes=[-state[key] if removed else nid])
            save_snapshots(connection, [(snapshot, 2 * nid + 1)])
            snapshot.settle()
            after = {k: v for k, v in state.items() if k != key} if removed else {**state, key: nid}
            laid.append((snapshot, after))
        for snapshot, state in laid:
            expected = {("t", key): f"${nid}" for key, nid in state.items()}
            assert load_state(connection, ROOM, snapshot.snapshot_id) == expected
        loaded = load_steps(connection, ROOM, [snapshot.snapshot_id for snapshot, _ in laid])
        for snapshot, _ in laid:
            told, step = [], loaded.get(snapshot.snapshot_id)
            while step is not None:
                told, step = [*step.nids, *told], loaded.get(step.base_id or 0)
            assert told == load_state_nids(connection, ROOM, snapshot.snapshot_id)
    finally:
        transaction.rollback()


def test_a_change_costs_log_n_entries_on_average_and_reading_log_n_rows(connection: Connection) -> None:
    count = 1024
    with connection.begin():
        connection.execute(delete(state_snapshots))
        parent = empty_snapshot(ROOM)
        for nid in range(1, count + 1):
            snapshot = Snapshot(ROOM, parent=parent, changes=[nid])
            save_snapshots(connection, [(snapshot, nid)])
            snapshot.settle()
            parent = snapshot
        stored = connection.execute(select(func.sum(func.length(state_snapshots.c.delta)))).scalar_one()
        assert stored <= 8 * count * (count.bit_length() - 1)
        assert load_state_nids(connection, ROOM, count - 1) == list(range(1, count))
    hops, node = 0, Snapshot(ROOM, snapshot_id=count - 1)
    rows = {
        row.snapshot_id: row.base_id
        for row in connection.execute(select(state_snapshots.c.snapshot_id, state_snapshots.c.base_id))
    }
    position: int | None = node.snapshot_id
    while position is not None:
        hops, position = hops + 1, rows[position]
    assert hops <= count.bit_length()
