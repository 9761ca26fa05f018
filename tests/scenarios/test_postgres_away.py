"""PostgreSQL ends connections, or is away for a moment, as when it is restarted: nothing is lost or done twice, and clients see
no more of it than a longer wait.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from homeserver.runtime import db
from tests.kit.client import bodies
from tests.kit.databases import PostgresCluster, PostgresMissing
from tests.kit.servers import LocalServer

SENDERS = 4
MESSAGES = 15
REQUESTS_BETWEEN_KILLS = 3

on_postgres = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


class Killer(threading.Thread):
    """Ends all connections of the server to its database, once for some requests that were answered."""

    def __init__(self, database_url: str) -> None:
        super().__init__(daemon=True)
        self.answered = threading.Semaphore(0)
        self.killed = 0
        self._url = database_url
        self._stopping = threading.Event()

    def run(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._stopping.is_set():
                for _ in range(REQUESTS_BETWEEN_KILLS):
                    self.answered.acquire()
                self.killed += _end_other_connections(connection)

    def stop(self) -> None:
        self._stopping.set()
        self.answered.release(REQUESTS_BETWEEN_KILLS)
        self.join()


def _end_other_connections(connection: psycopg.Connection[Any]) -> int:
    """How many it were."""
    ended = connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid != pg_backend_pid()"
    )
    return ended.rowcount


@on_postgres
def test_ended_connections_are_not_seen_by_clients(hearth: Any, database_url: str) -> None:
    users = [hearth.register(f"user{number}") for number in range(SENDERS)]
    room = users[0].create_room(preset="public_chat")
    for user in users[1:]:
        user.join(room)
    said = [f"{user.user_id} {number}" for user in users for number in range(MESSAGES)]
    device_id = users[0].get("/account/whoami")["device_id"]
    killer = Killer(database_url)

    def talk(user: Any) -> None:
        for number in range(MESSAGES):
            body = f"{user.user_id} {number}"
            user.send(room, body, txn_id=f"n{number}")
            killer.answered.release()
            user.put(f"/sendToDevice/m.test/n{number}", {"messages": {users[0].user_id: {device_id: {"body": body}}}})
            killer.answered.release()
            assert body in bodies(user.messages(room, limit=4 * SENDERS)["chunk"])
            killer.answered.release()

    killer.start()
    try:
        with ThreadPoolExecutor(SENDERS) as pool:
            list(pool.map(talk, users))
    finally:
        killer.stop()
    assert killer.killed > MESSAGES
    assert Counter(bodies(users[0].messages(room, limit=1_000)["chunk"])) == Counter(said)
    told = users[0].sync()["to_device"]["events"]
    assert Counter(event["content"]["body"] for event in told) == Counter(said)


@pytest.fixture
def cluster() -> Iterator[PostgresCluster]:
    """One that may be stopped."""
    cluster = PostgresCluster()
    try:
        cluster.start()
    except PostgresMissing:
        pytest.skip("PostgreSQL's binaries are absent")
    yield cluster
    cluster.stop()


@pytest.fixture
def server(cluster: PostgresCluster, tmp_path: Path) -> Iterator[LocalServer]:
    server = LocalServer(cluster.create_database(), tmp_path)
    yield server
    server.stop()


def test_requests_wait_while_the_database_is_restarted(server: LocalServer, cluster: PostgresCluster) -> None:
    alice = server.register("alice")
    room = alice.create_room()
    cluster.pause()
    with ThreadPoolExecutor() as pool:
        requests: list[Callable[[], Any]] = [lambda: alice.send(room, "while it is away"), lambda: alice.messages(room)]
        waiting = [pool.submit(request) for request in requests]
        cluster.resume()
        for each in waiting:
            each.result(timeout=120)
    assert bodies(alice.messages(room)["chunk"]) == ["while it is away"]


def test_without_a_database_requests_are_answered_503_and_go_on_when_it_is_back(
    server: LocalServer, cluster: PostgresCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = server.register("alice")
    room = alice.create_room()
    path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/1"
    with monkeypatch.context() as patches:
        patches.setattr(db, "RECONNECT_FOR_S", 0)
        cluster.pause()
        refused = alice.send_raw("PUT", path, {"msgtype": "m.text", "body": "once"})
        assert (refused.status_code, refused.json()["errcode"]) == (503, "M_UNKNOWN")
        assert alice.send_raw("GET", f"/_matrix/client/v3/rooms/{room}/messages", query={"dir": "b"}).status_code == 503
        cluster.resume()
    assert alice.send_raw("PUT", path, {"msgtype": "m.text", "body": "once"}).status_code == 200
    assert bodies(alice.messages(room)["chunk"]) == ["once"]
