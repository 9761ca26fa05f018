"""The folds under /sync: what memory holds equals what would be read anew."""

from __future__ import annotations

from homeserver.folds.recent_log import RecentLog
from homeserver.folds.room_tails import RoomTails
from homeserver.matrix.ids import RoomId
from homeserver.store.log import LogRow
from homeserver.store.sync import TAIL_EVENTS, load_tails
from tests.sync.world import World

ALICE, BOB = "@alice:test", "@bob:test"


def _told(rows: object) -> list[tuple[object, ...]]:
    return [
        (row.position, row.event and row.event.event_id, row.event and row.event.redacted_by, list(row.deltas))
        for row in rows  # type: ignore[attr-defined]
    ]


def test_tail_with_rows_applied_equals_a_tail_read_later(world: World) -> None:
    room_id = world.create(ALICE)
    world.run(world.tails.load_many([room_id]))
    for number in range(3 * TAIL_EVENTS):
        event_id = world.send(ALICE, room_id, str(number))
        world.state(ALICE, room_id, "m.room.topic", {"topic": str(number)})
        if number % 7 == 0:
            world.redact(ALICE, room_id, event_id)
        kept = world.tails.get(room_id)
        assert kept is not None
        read, rows = world.wait(world.database.read(load_tails, [room_id]))[room_id]
        floor = max(kept.floor, read)
        assert sum(row.position > floor for row in kept.rows) >= min(TAIL_EVENTS, number)
        assert _told(row for row in kept.rows if row.position > floor) == _told(
            row for row in rows if row.position > floor
        )


def test_tails_of_many_rooms_are_read_together(world: World) -> None:
    room_ids = [world.create(ALICE) for _ in range(3)]
    tails = world.run(RoomTails(world.database).load_many([*room_ids, RoomId("!unknown:test")]))
    assert [len(tails[room_id].rows) for room_id in room_ids] == [5, 5, 5]
    assert tails[RoomId("!unknown:test")].rows == ()


def test_recent_log_holds_every_row_behind_its_floor() -> None:
    log = RecentLog(10, max_rows=5)
    rows = [LogRow(position, "receipt", f"!{position % 2}:test", {}) for position in range(11, 21)]
    for row in rows:
        log.on_rows([row])
    assert (log.floor, log.position) == (15, 20)
    assert log.all_after(17) == rows[7:]
    assert log.rows_after("!0:test", 15) == [rows[5], rows[7], rows[9]]
    assert (log.last_position("!1:test"), log.last_position("!other:test")) == (19, 15)


def test_what_is_in_memory_is_redacted_with_the_event(world: World) -> None:
    room_id = world.create(ALICE)
    event_id = world.send(ALICE, room_id, "secret")
    world.redact(ALICE, room_id, event_id)
    events = [row.event for row in world.recent.rows_after(room_id, 0) if row.event is not None]
    assert [event.pdu.content for event in events if event.event_id == event_id] == [{}]
