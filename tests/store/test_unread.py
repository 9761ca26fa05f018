"""Unread events in the database: what reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.db import engine_url, make_engine
from homeserver.store.receipts import ReceiptRow, save_receipt
from homeserver.store.tables.rooms import events
from homeserver.store.unread import MENTIONS, NOTIFIES, READS, Floors, load_notifying, select_in_threads

ROOM, ALICE, BOB = RoomId("!room:here"), UserId("@alice:here"), UserId("@bob:here")
ROOT = EventId("$1")


@pytest.fixture
def engine(database_url: str) -> Any:
    engine = make_engine(engine_url(database_url, Path("/")))
    yield engine
    engine.dispose()


def stored(order: int, sender: UserId = ALICE, **more: Any) -> dict[str, Any]:
    row = {
        "room_id": ROOM,
        "nid": order,
        "timeline_order": order,
        "event_id": f"${order}",
        "type": "m.room.message",
        "state_key": None,
        "sender": sender,
        "depth": order,
        "origin_server_ts": order,
        "json": b"{}",
        "rejected": None,
        "soft_failed": False,
        "redacted_by": None,
        "push_outcome": NOTIFIES | READS,
        "thread_root": None,
    }
    return {**row, **more}


def loaded(engine: Engine, rows: list[dict[str, Any]], floors: Floors, *receipts: ReceiptRow) -> list[int]:
    with engine.connect() as connection, connection.begin():
        connection.execute(events.insert(), rows)
        for receipt in receipts:
            save_receipt(connection, receipt, 1)
        return [row.order for row in load_notifying(connection, {ROOM: floors}, BOB)[ROOM]]


def test_what_never_was_in_the_timeline_for_clients_is_not_unread(engine: Engine) -> None:
    rows = [
        stored(1),
        stored(2, rejected="not allowed"),
        stored(3, soft_failed=True),
        stored(4, redacted_by="$9"),
        stored(5, timeline_order=None),
        stored(6, push_outcome=READS),
        stored(7, push_outcome=MENTIONS),
    ]
    assert loaded(engine, rows, Floors(0, 0)) == [1, 7]


def test_own_messages_are_loaded_for_what_they_read_even_redacted(engine: Engine) -> None:
    rows = [stored(1, BOB, push_outcome=READS), stored(2, BOB, redacted_by="$9"), stored(3, BOB, push_outcome=0)]
    assert loaded(engine, rows, Floors(0, 0)) == [1, 2]


def test_threads_have_floors_of_their_own(engine: Engine) -> None:
    rows = [stored(1), *(stored(n, thread_root=ROOT) for n in (2, 3, 4)), stored(5), stored(6, thread_root="$5")]
    receipt = ReceiptRow(ROOM, BOB, "m.read.private", ROOT, EventId("$3"), 3, 0)
    assert loaded(engine, rows, Floors(5, 1), receipt) == [4, 6]


def test_threads_are_found_by_their_index(engine: Engine) -> None:
    statement = select_in_threads().params(floors=f'{{"{ROOM}": 1}}', user_id=BOB)
    compiled = statement.compile(engine, compile_kwargs={"literal_binds": True, "render_postcompile": True})
    with engine.connect() as connection, connection.begin():
        connection.execute(events.insert(), [*(stored(n) for n in range(1, 5_000)), stored(5_000, thread_root=ROOT)])
        if engine.dialect.name == "postgresql":  # which otherwise looks at everything where there is little
            connection.exec_driver_sql("ANALYZE events")
            plan = connection.exec_driver_sql(f"EXPLAIN {compiled}".replace("%", "%%")).all()
        else:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {compiled}").all()
    assert "events_threads" in str(plan)
