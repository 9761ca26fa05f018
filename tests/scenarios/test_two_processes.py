"""Two processes on one database: each follows what the other writes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from federation.authentication import ServerRequester
from federation.serverapi.user_keys import UserKeyEndpoints, UserPath
from homeserver.matrix.ids import ServerName
from tests.e2ee.key_maker import Device, fallback_key, one_time_keys
from tests.kit.client import Client, timeline
from tests.kit.reactor import run_in_reactor
from tests.kit.servers import CHECKOUT
from tests.kit.waiting import TIMEOUT_S, until_synced

PASSWORD = "password of the tests"


def at(client: Client, server: Any) -> Client:
    """The same user and device, by another process."""
    other = client.another_device()
    other.base_url = server.url
    return other


def get_messages(client: Client, room: str, count: int) -> list[str]:
    """As many messages as /sync tells of the room, and those that come with them."""
    found: list[str] = []

    def have_come(sync: Any) -> bool:
        found.extend(event["event_id"] for event in timeline(sync, room) if event["type"] == "m.room.message")
        return len(found) >= count

    until_synced(client, have_come, filter={"room": {"timeline": {"limit": 200}}})
    return found


def until_answered(status: int, ask: Callable[[], int]) -> None:
    """Asks again and again: what another process changed, or a signal, is known within a moment of its own."""
    deadline = time.monotonic() + TIMEOUT_S
    while (found := ask()) != status:
        assert time.monotonic() < deadline, f"it stayed at {found}"


def until_refused(client: Client) -> None:
    """Asks until the token is dead."""
    until_answered(401, lambda: client.send_raw("GET", "/_matrix/client/v3/account/whoami").status_code)


def test_events_of_both_processes_reach_clients_of_both(start_local: Any) -> None:
    one, two = start_local(), start_local()
    alice, bob = one.register("alice"), one.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    here, there = at(alice, one), at(bob, two)
    here.sync()
    there.sync()
    sent = []
    with ThreadPoolExecutor(2) as threads:
        for n in range(20):
            pair = [threads.submit(here.send, room, f"a{n}"), threads.submit(there.send, room, f"b{n}")]
            sent += [future.result(120) for future in pair]
    for client in (here, there, at(alice, two), at(bob, one)):
        assert sorted(get_messages(client, room, len(sent))) == sorted(sent)


def test_who_joined_by_one_process_writes_by_the_other_at_once(
    start_local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which has not looked at the log since, but remembers the room as it was."""
    monkeypatch.setattr("homeserver.store.log_tail.INTERVAL_MS", 600_000)
    one, two = start_local(), start_local()
    alice, bob = one.register("alice"), one.register("bob")
    room = alice.create_room(preset="public_chat")
    at(alice, two).send(room, "as it was", txn_id="before")
    bob.join(room)
    assert at(bob, two).send(room, "hello")
    bob.leave(room)
    at(bob, two).send(room, "again", txn_id="again", expect=403)


def test_a_token_that_one_process_revokes_dies_in_the_other(start_local: Any) -> None:
    one, two = start_local(), start_local()
    alice = one.register("alice")
    there = at(alice, two)
    there.get("/account/whoami")
    alice.logout()
    until_refused(there)


@pytest.fixture
def far_apart(start_local: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Two processes, neither of which looks for what the other wrote."""
    monkeypatch.setattr("homeserver.store.log_tail.INTERVAL_MS", 600_000)
    return start_local(), start_local()


def test_a_device_that_one_process_deletes_gets_no_keys_by_the_other(far_apart: tuple[Any, Any]) -> None:
    one, two = far_apart
    alice, bob = one.register("alice"), one.register("bob")
    there, keys = at(alice, two), Device(alice.user_id, alice.device_id).keys()
    there.get("/account/whoami")
    alice.logout()
    upload = {"device_keys": keys, "one_time_keys": one_time_keys("A"), "fallback_keys": fallback_key("F")}
    assert there.post("/keys/upload", upload, expect=401)["errcode"] == "M_UNKNOWN_TOKEN"
    assert bob.post("/keys/query", {"device_keys": {alice.user_id: []}})["device_keys"] == {alice.user_id: {}}
    wanted = {alice.user_id: {keys["device_id"]: "signed_curve25519"}}
    assert bob.post("/keys/claim", {"one_time_keys": wanted})["one_time_keys"] == {}


def test_no_list_of_devices_is_older_than_its_number(far_apart: tuple[Any, Any]) -> None:
    """Another server keeps it for as long as no update of a higher number comes."""
    one, two = far_apart
    alice, here = one.register("alice"), two.running.services
    new = Device(alice.user_id, alice.device_id).keys()
    at(alice, two).post("/keys/query", {"device_keys": {alice.user_id: []}})
    alice.post("/keys/upload", {"device_keys": new})
    database, encryption = here.core.database, here.encryption
    endpoints = UserKeyEndpoints(here.core.server_name, database, encryption.queries, encryption.claims)
    requester = ServerRequester(ServerName("peer.example"))
    answer = run_in_reactor(endpoints.get_devices, requester, UserPath(alice.user_id))
    assert answer["stream_id"] > 0
    assert [device["keys"] for device in answer["devices"]] == [new]


def to_device(sender: Client, to: Client, txn_id: str, device_id: str | None = None) -> None:
    messages = {to.user_id: {device_id or to.device_id: {"txn": txn_id}}}
    sender.put("/sendToDevice/m.test/{}", {"messages": messages}, at=[txn_id])


def told(client: Client) -> list[str]:
    return [event["content"]["txn"] for event in client.sync().get("to_device", {}).get("events", ())]


def test_a_device_that_logs_in_by_one_process_gets_messages_by_the_other(far_apart: tuple[Any, Any]) -> None:
    one, two = far_apart
    alice, bob = one.register("alice"), one.register("bob")
    sender = at(bob, two)
    to_device(sender, alice, "before")
    to_device(sender, alice, "remembered")
    new = one.client()
    new.login("alice", PASSWORD)
    to_device(sender, new, "by its id")
    to_device(sender, new, "once more")
    newest = one.client()
    newest.login("alice", PASSWORD)
    to_device(sender, alice, "to all", "*")
    assert (told(at(new, two)), told(at(newest, two))) == (["by its id", "once more", "to all"], ["to all"])
    assert told(at(alice, two)) == ["before", "remembered", "to all"]


def test_no_message_waits_for_a_device_that_one_process_deleted(far_apart: tuple[Any, Any]) -> None:
    one, two = far_apart
    alice, bob = one.register("alice"), one.register("bob")
    sender = at(bob, two)
    to_device(sender, alice, "before")
    alice.logout()
    to_device(sender, alice, "after")
    again = one.client()
    again.login("alice", PASSWORD, device_id=alice.device_id)
    to_device(sender, again, "again")
    assert told(at(again, two)) == ["again"]


def test_a_command_beside_a_running_server_is_followed(start_subprocess: Any) -> None:
    server = start_subprocess()
    alice = server.register("alice")
    room = alice.create_room()
    command = [
        sys.executable,
        "-m",
        "homeserver.main",
        "user",
        "deactivate",
        "alice",
        "--config",
        str(server.config_file),
    ]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    until_refused(alice)
    bob = server.register("bob")
    assert bob.join(room, expect=403)["errcode"] == "M_FORBIDDEN"


def test_a_hangup_rereads_the_configuration(start_subprocess: Any) -> None:
    server = start_subprocess()
    alice = server.register("alice")
    path: Path = server.config_file
    path.write_text(path.read_text().replace("enabled = false", "enabled = true", 1))
    assert "[rate_limits]\nenabled = true" in path.read_text()
    os.kill(server.pid, signal.SIGHUP)
    search = "/_matrix/client/v3/user_directory/search"
    until_answered(429, lambda: alice.send_raw("POST", search, {"search_term": "x"}).status_code)
