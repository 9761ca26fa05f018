"""Receipts in the database: only forward, whoever writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import Engine

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.db import engine_url, make_engine
from homeserver.store.receipts import UNTHREADED, ReceiptRow, load_newest, load_read_orders, save_receipt

ROOM, BOB = RoomId("!room:here"), UserId("@bob:here")


@pytest.fixture
def engine(database_url: str) -> Any:
    engine = make_engine(engine_url(database_url, Path("/")))
    yield engine
    engine.dispose()


def test_an_older_receipt_changes_nothing_and_the_newest_is_told(engine: Engine) -> None:
    newer = ReceiptRow(ROOM, BOB, "m.read", UNTHREADED, EventId("$newer"), 7, 2)
    older = evolve(newer, event_id=EventId("$older"), event_order=5, ts_ms=3)
    with engine.connect() as connection, connection.begin():
        save_receipt(connection, newer, 10)
        save_receipt(connection, older, 11)
        assert load_newest(connection, older) == newer
        assert load_read_orders(connection, BOB, [ROOM]) == {(ROOM, "m.read", UNTHREADED): 7}
