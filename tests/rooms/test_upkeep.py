"""Rooms that nobody here is in are deleted after a while, with everything that hung on them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import func, select, text
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from homeserver.main.sections import SECTIONS
from homeserver.main.server import build_services
from homeserver.matrix.ids import RoomId
from homeserver.rooms import purges
from homeserver.rooms.purges import RoomInUse
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.config import load_config
from homeserver.runtime.db import Database
from homeserver.store.room_upkeep import purged_tables
from homeserver.store.search import index_events
from homeserver.store.tables import metadata
from tests.kit.client import Client
from tests.kit.reactor import get_reactor, run_in_reactor
from tests.kit.servers import LocalServer

DAY_MS = 24 * 3600 * 1000

# Tables with a column room_id whose rows outlive the room. Whoever adds a table decides which it is.
KEPT = {"account_data", "key_backup_sessions", "reports", "empty_rooms", "room_purges"}


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def hearth(start_local: Any, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> LocalServer:
    monkeypatch.setattr(purges, "BATCH_ROWS", 7)
    monkeypatch.setattr(purges, "PAUSE_MS", 0)
    monkeypatch.setattr("homeserver.rooms.upkeep.PAUSE_MS", 0)
    started: LocalServer = start_local(clock=clock)
    run_in_reactor(lambda: upkeep(started)._timer.cancel())  # rounds are for the tests to run
    return started


def upkeep(hearth: LocalServer) -> Any:
    return hearth.running.services.rooms.upkeep


def run_upkeep(hearth: LocalServer, clock: ManualClock) -> list[RoomId]:
    """A round of upkeep, in which time passes as it asks for it."""

    def run() -> Any:
        ticking: Any = LoopingCall(clock.advance, 1)
        ticking.clock = get_reactor()
        ticking.start(0.001)
        running = Deferred.fromCoroutine(upkeep(hearth).run())
        return running.addBoth(lambda result: (ticking.stop(), result)[1])

    rooms: list[RoomId] = run_in_reactor(run)
    return rooms


def rows_left(hearth: LocalServer, room_id: str) -> dict[str, int]:
    """How many rows of the room each table has, but for those that are kept."""
    database = hearth.running.services.core.database

    def count(conn: Any) -> dict[str, int]:
        statements = {
            table.name: select(func.count()).select_from(table).where(table.c.room_id == room_id)
            for table in metadata.sorted_tables
            if "room_id" in table.c
        }
        return {name: conn.execute(statement).scalar_one() for name, statement in statements.items()}

    found: dict[str, int] = run_in_reactor(lambda: database.read(count))
    return {name: number for name, number in found.items() if number}


def busy_room(hearth: LocalServer) -> tuple[Client, Client, str]:
    """A room with something in each table."""
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room_id = alice.create_room(preset="public_chat", room_alias_name="busy", visibility="public")
    bob.join(room_id)
    for number in range(30):
        event_id = alice.send(room_id, f"message number {number}")
    bob.post(f"/_matrix/client/v3/rooms/{room_id}/receipt/m.read/{event_id}", {})
    bob.put(
        f"/_matrix/client/v3/rooms/{room_id}/send/m.reaction/t1",
        {"m.relates_to": {"rel_type": "m.annotation", "event_id": event_id, "key": "x"}},
    )
    bob.put(f"/_matrix/client/v3/user/{bob.user_id}/rooms/{room_id}/tags/u.work", {"order": 0.5})
    bob.post(f"/_matrix/client/v3/rooms/{room_id}/report", {"reason": "a test"})
    return alice, bob, room_id


def leave(*clients: Client, room_id: str) -> None:
    for client in clients:
        client.post(f"/_matrix/client/v3/rooms/{room_id}/leave", {})


def test_every_table_says_whether_its_rows_go() -> None:
    with_room = {table.name for table in metadata.sorted_tables if "room_id" in table.c}
    assert {table.name for table in purged_tables()} == with_room - KEPT


def test_room_that_all_left_goes_after_the_grace_time(hearth: LocalServer, clock: ManualClock) -> None:
    alice, bob, room_id = busy_room(hearth)
    other = alice.create_room()
    alice.send(other, "something else")
    leave(alice, bob, room_id=room_id)
    assert run_upkeep(hearth, clock) == []
    run_in_reactor(lambda: clock.advance(29 * DAY_MS))
    assert run_upkeep(hearth, clock) == []
    assert rows_left(hearth, room_id)["events"] > 30
    run_in_reactor(hearth.running.services.search.index.catch_up)  # it is filled in the background
    kept = rows_left(hearth, other)
    run_in_reactor(lambda: clock.advance(2 * DAY_MS))
    assert run_upkeep(hearth, clock) == [room_id]
    assert set(rows_left(hearth, room_id)) <= {"account_data", "reports"}
    assert rows_left(hearth, other) == kept
    alice.request("GET", f"/rooms/{room_id}/messages", query={"dir": "b"}, expect="M_FORBIDDEN")
    alice.request("GET", "/directory/room/{}", at=[f"#busy:{hearth_name(hearth)}"], expect=404)
    assert room_id not in str(alice.sync())
    assert alice.get("/_matrix/client/v3/publicRooms")["chunk"] == []
    alice.send(other, "goes on")
    assert run_upkeep(hearth, clock) == []


def hearth_name(hearth: LocalServer) -> str:
    return str(hearth.running.services.core.server_name)


def test_room_with_somebody_in_it_or_invited_stays(hearth: LocalServer, clock: ManualClock) -> None:
    alice, bob, room_id = busy_room(hearth)
    invited = alice.create_room(invite=[bob.user_id])
    leave(alice, room_id=room_id)
    leave(alice, room_id=invited)
    for _ in range(2):
        assert run_upkeep(hearth, clock) == []
        run_in_reactor(lambda: clock.advance(40 * DAY_MS))
    bob.send(room_id, "still here")


def test_grace_time_begins_anew_when_somebody_comes_back(hearth: LocalServer, clock: ManualClock) -> None:
    alice, bob, room_id = busy_room(hearth)
    leave(bob, room_id=room_id)
    alice.put(f"/_matrix/client/v3/rooms/{room_id}/state/m.room.join_rules", {"join_rule": "public"})
    leave(alice, room_id=room_id)
    assert run_upkeep(hearth, clock) == []
    run_in_reactor(lambda: clock.advance(20 * DAY_MS))
    leave_again = invite_back(hearth, alice, room_id)
    assert run_upkeep(hearth, clock) == []
    leave_again()
    run_in_reactor(lambda: clock.advance(20 * DAY_MS))
    assert run_upkeep(hearth, clock) == []
    assert rows_left(hearth, room_id)["events"] > 30


def invite_back(hearth: LocalServer, client: Client, room_id: str) -> Any:
    """As if somebody of another server, who is in the room, let the user in."""
    database = hearth.running.services.core.database

    def set_membership(conn: Any, membership: str) -> None:
        conn.execute(
            text("UPDATE memberships SET membership = :m WHERE room_id = :r AND user_id = :u"),
            {"m": membership, "r": room_id, "u": client.user_id},
        )

    run_in_reactor(lambda: database.run(set_membership, "join"))
    return lambda: run_in_reactor(lambda: database.run(set_membership, "leave"))


def test_nothing_is_deleted_where_the_admin_wants_that(start_local: Any, clock: ManualClock) -> None:
    hearth = start_local({"rooms": {"empty_room_grace_days": 0}}, clock=clock)
    run_in_reactor(lambda: upkeep(hearth)._timer.cancel())
    alice = hearth.register("alice")
    room_id = alice.create_room()
    leave(alice, room_id=room_id)
    for _ in range(2):
        assert run_upkeep(hearth, clock) == []
        run_in_reactor(lambda: clock.advance(1000 * DAY_MS))
    assert rows_left(hearth, room_id)["events"] > 0


def test_room_in_use_is_purged_by_force_only(start_local: Any) -> None:
    hearth = start_local()
    alice, _, room_id = busy_room(hearth)
    with pytest.raises(RoomInUse):
        run_in_reactor(lambda: hearth.running.services.core.purges.purge(room_id))
    alice.send(room_id, "the room is as it was")
    run_in_reactor(lambda: hearth.running.services.core.purges.purge(room_id, force=True))
    assert set(rows_left(hearth, room_id)) <= {"account_data", "reports"}
    alice.request("PUT", f"/rooms/{room_id}/send/m.room.message/1", {}, expect="M_FORBIDDEN")
    assert alice.get("/_matrix/client/v3/joined_rooms")["joined_rooms"] == []
    assert room_id not in alice.sync().get("rooms", {}).get("join", {})


def test_what_is_being_indexed_while_its_room_goes_goes_with_it(start_local: Any) -> None:
    hearth = start_local()
    _, _, room_id = busy_room(hearth)
    core, index = hearth.running.services.core, hearth.running.services.search.index
    run_in_reactor(index.stop)
    with ThreadPoolExecutor(1) as threads, core.database.engine.connect() as connection:
        with connection.begin():
            index_events(connection)
            purging = threads.submit(run_in_reactor, lambda: core.purges.purge(room_id, force=True))
            until_it_waits(core.database, purging)
        purging.result()
    assert set(rows_left(hearth, room_id)) <= {"account_data", "reports"}


def until_it_waits(database: Database, purging: Future[None]) -> None:
    """Until the purge waits for somebody's locks, or is done. (On SQLite all that writes waits.)"""
    if database.is_sqlite:
        return
    waits = text("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as watcher:
        while not purging.done() and watcher.execute(waits).first() is None:
            pass


def test_purge_goes_on_after_a_crash(start_local: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    hearth = start_local()
    _, _, room_id = busy_room(hearth)
    core = hearth.running.services.core
    monkeypatch.setattr(purges, "BATCH_ROWS", 5)
    asked = []

    def break_off(*args: Any) -> Any:
        asked.append(args)
        if len(asked) == 4:
            raise RuntimeError("pulled the plug")
        return purge_rows(*args)

    purge_rows = purges.purge_rows
    monkeypatch.setattr(purges, "purge_rows", break_off)
    with pytest.raises(RuntimeError):
        run_in_reactor(lambda: core.purges.purge(room_id, force=True))
    left = rows_left(hearth, room_id)
    assert left["room_purges"] == 1
    assert left["events"] > 0
    monkeypatch.setattr(purges, "purge_rows", purge_rows)
    hearth.restart()
    waiting = run_in_reactor(_wait_in_background, hearth, room_id)
    assert waiting == []
    assert run_in_reactor(lambda: upkeep(hearth).run()) == []
    assert waiting == ["free"]
    assert set(rows_left(hearth, room_id)) <= {"account_data", "reports"}


def _wait_in_background(hearth: LocalServer, room_id: RoomId) -> list[str]:
    """What becomes of somebody who wants to enter the room anew."""
    told: list[str] = []

    async def enter() -> None:
        async with hearth.running.services.core.purges.entering(room_id):
            told.append("free")

    Deferred.fromCoroutine(enter())
    return told


def test_room_is_not_purged_while_somebody_enters_it(start_local: Any) -> None:
    hearth = start_local()
    alice = hearth.register("alice")
    room_id = RoomId(alice.create_room())
    leave(alice, room_id=room_id)
    rooms = hearth.running.services.core.purges

    async def enter() -> None:
        async with rooms.entering(room_id):
            with pytest.raises(RoomInUse):
                await rooms.purge(room_id)

    run_in_reactor(enter)
    assert rows_left(hearth, room_id)["events"] > 0
    run_in_reactor(lambda: rooms.purge(room_id))
    assert "events" not in rows_left(hearth, room_id)


def test_purge_of_another_process_is_noticed(start_local: Any) -> None:
    hearth = start_local()
    alice, _, room_id = busy_room(hearth)
    alice.sync()
    config = load_config(hearth._config_file, SECTIONS, {})

    async def purge() -> None:
        services = await build_services(config, get_reactor())
        try:
            await services.core.purges.purge(room_id, force=True)
        finally:
            await services.stop()

    run_in_reactor(purge)
    run_in_reactor(lambda: hearth.running.services.core.log.catch_up())
    alice.create_room()  # a commit behind what the other process wrote
    assert run_in_reactor(lambda: hearth.running.services.core.heads.get(room_id)) is None
    alice.request("GET", f"/rooms/{room_id}/state", expect="M_FORBIDDEN")
