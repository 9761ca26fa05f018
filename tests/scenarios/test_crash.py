"""kill -9 under load: what was acknowledged is there, once, in order, and the server starts again by itself.

$HEARTH_CRASH_ROUNDS sets how often it is killed (3 by default).
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import requests

BROKEN_OFF = requests.exceptions.ChunkedEncodingError  # whatever the encoding
LOST = (requests.ConnectionError, requests.Timeout, BROKEN_OFF)
SENDERS = 4
ROUNDS = int(os.environ.get("HEARTH_CRASH_ROUNDS", "3"))


class Sender(threading.Thread):
    """Sends numbered messages one after another; repeats one, under the same transaction id, until it is acknowledged."""

    def __init__(self, client: Any, room: str) -> None:
        super().__init__(daemon=True)
        self.client = client
        self.room = room
        self.acknowledged: list[str] = []
        self.progress = threading.Semaphore(0)
        self.stopping = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopping.is_set():
            try:
                event_id = self.client.send(self.room, self.body(number), txn_id=f"n{number}")
            except LOST:
                self.stopping.wait(0.01)
                continue
            self.acknowledged.append(event_id)
            self.progress.release()
            number += 1

    def body(self, number: int) -> str:
        return f"{self.client.user_id} {number}"


@pytest.mark.timeout(max(300, 60 * ROUNDS))
def test_acknowledged_events_survive_kill_9_once_and_in_order(start_subprocess: Callable[..., Any]) -> None:
    server = start_subprocess()
    clients = [server.register(f"user{number}") for number in range(SENDERS)]
    room = clients[0].create_room(preset="public_chat")
    for client in clients[1:]:
        client.join(room)
    senders = [Sender(client, room) for client in clients]
    for sender in senders:
        sender.start()
    chance = random.Random(7)
    for _ in range(ROUNDS):
        for sender in senders:  # all of them are at it again
            assert sender.progress.acquire(timeout=120)
        for _ in range(chance.randrange(40)):
            assert senders[0].progress.acquire(timeout=120)
        server.restart()
    for sender in senders:
        assert sender.progress.acquire(timeout=120)
        sender.stopping.set()
        sender.join(120)
    in_room = _all_events(clients[0], room)
    for sender in senders:
        own = [event for event in in_room if event["sender"] == sender.client.user_id]
        assert [event["event_id"] for event in own] == sender.acknowledged
        assert [event["content"]["body"] for event in own] == [sender.body(number) for number in range(len(own))]
    again = clients[0].send(room, "something else", txn_id="n0")
    assert again == senders[0].acknowledged[0]


def _all_events(client: Any, room: str) -> list[Any]:
    found: list[Any] = []
    token = None
    while True:
        page = client.messages(room, "f", limit=500, from_=token)
        found += [event for event in page["chunk"] if event["type"] == "m.room.message"]
        token = page.get("end")
        if token is None:
            return found


def test_sigterm_answers_who_waits_and_exits_with_0(start_subprocess: Callable[..., Any]) -> None:
    server = start_subprocess()
    alice = server.register("alice")
    since = alice.get("/sync", query={"timeout": 0})["next_batch"]
    waiting = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=120)
    headers = {"Authorization": f"Bearer {alice.token}"}
    waiting.request("GET", f"/_matrix/client/v3/sync?timeout=60000&since={since}", headers=headers)
    for _ in range(5):  # behind the poll: the server has accepted its connection and read it by now
        alice.get("/account/whoami")
    assert server.stop() == 0
    answer = waiting.getresponse()
    assert answer.status == 200
    assert "next_batch" in json.load(answer)
