"""kill -9 between any two steps of a claim or a message to a device.

No key is handed out twice, no message comes twice or not at all.

$HEARTH_CRASH_ROUNDS sets how often the server is killed (3 by default).
"""

from __future__ import annotations

import http.client
import os
import random
import threading
from collections.abc import Callable
from itertools import count
from typing import Any

import requests

from tests.e2ee.key_maker import V3, one_time_keys
from tests.kit.client import Client

ROUNDS = int(os.environ.get("HEARTH_CRASH_ROUNDS", "3"))
LOST = (requests.ConnectionError, requests.Timeout, http.client.HTTPException)


class Worker(threading.Thread):
    """Does one thing over and over until it is stopped; what gets no answer is done again."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.progress = threading.Semaphore(0)
        self.stopping = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self._act()
                self.progress.release()
            except LOST:
                self.stopping.wait(0.01)
            except BaseException as error:  # told by the test
                self.error = error
                return

    def wait(self, times: int) -> None:
        for _ in range(times):
            assert self.progress.acquire(timeout=120), self.error


def claimer(owner: Client, claimed: list[str], client: Client) -> Callable[[], None]:
    def claim() -> None:
        wanted = {"one_time_keys": {owner.user_id: {owner.device_id: "signed_curve25519"}}}
        keys = client.post(f"{V3}/keys/claim", wanted)["one_time_keys"]
        claimed.extend(keys.get(owner.user_id, {}).get(owner.device_id, {}))

    return claim


def uploader(client: Client, uploaded: list[str]) -> Callable[[], None]:
    numbers = count()

    def upload() -> None:
        keys = one_time_keys(*(f"k{next(numbers)}" for _ in range(10)))
        while True:  # the same keys, until they are acknowledged
            try:
                client.post(f"{V3}/keys/upload", {"one_time_keys": keys})
                break
            except LOST:
                threading.Event().wait(0.01)
        uploaded.extend(keys)

    return upload


def sender(client: Client, target: Client, sent: list[int]) -> Callable[[], None]:
    numbers = count()
    current = [next(numbers)]

    def send() -> None:
        number = current[0]
        body = {"messages": {target.user_id: {target.device_id: {"n": number}}}}
        client.put(f"{V3}/sendToDevice/m.test/n{number}", body)
        sent.append(number)
        current[0] = next(numbers)

    return send


def receiver(client: Client, received: list[int]) -> Callable[[], None]:
    """A client that keeps a token only with the messages that came with it."""
    token: list[str | None] = [None]

    def receive() -> None:
        answer = client.get(f"{V3}/sync", query={"since": token[0], "timeout": 0})
        received.extend(event["content"]["n"] for event in answer.get("to_device", {}).get("events", []))
        token[0] = answer["next_batch"]

    return receive


def test_kill_9_hands_out_no_key_twice_and_loses_no_message(start_subprocess: Any) -> None:
    server = start_subprocess()
    alice, bob, carol = (server.register(name) for name in ("alice", "bob", "carol"))
    claimed: list[str] = []
    uploaded: list[str] = []
    sent: list[int] = []
    received: list[int] = []
    workers = [
        Worker(uploader(alice, uploaded)),
        Worker(claimer(alice, claimed, bob)),
        Worker(claimer(alice, claimed, carol)),
        Worker(sender(bob.another_device(), carol, sent)),
        Worker(receiver(carol.another_device(), received)),
    ]
    for worker in workers:
        worker.start()
    chance = random.Random(7)
    for _ in range(ROUNDS):
        for worker in workers:
            worker.wait(chance.randint(1, 8))
        server.restart()
    for worker in workers:
        worker.wait(3)
    for worker in workers[:4]:
        worker.stopping.set()
        worker.join(120)
    while len(received) < len(sent):
        workers[4].wait(1)
    workers[4].stopping.set()
    workers[4].join(120)
    assert [worker.error for worker in workers] == [None] * len(workers)
    assert len(set(claimed)) == len(claimed)
    assert received[: len(sent)] == sent
    assert len(set(received)) == len(received)
    left = alice.post(f"{V3}/keys/upload", {})["one_time_key_counts"]["signed_curve25519"]
    # A key whose claim was cut off before the answer is gone; none is there that was handed out.
    assert left + len(claimed) <= len(uploaded)
