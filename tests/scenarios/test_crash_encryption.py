"""kill -9 between any two steps of a claim, a message to a device, or an upload of keys.

No key is handed out twice, no message comes twice or not at all, no upload is there in part.

$HEARTH_CRASH_ROUNDS sets how often the server is killed (3 by default).
"""

from __future__ import annotations

import http.client
import os
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
import requests

from tests.e2ee.key_maker import V3, Device, SigningKeys, one_time_keys
from tests.kit.client import Client

ROUNDS = int(os.environ.get("HEARTH_CRASH_ROUNDS", "3"))
PASSWORD = "password of the tests"
DEHYDRATED = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
BROKEN_OFF = requests.exceptions.ChunkedEncodingError  # whatever the encoding
LOST = (requests.ConnectionError, requests.Timeout, BROKEN_OFF, http.client.HTTPException)


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


# -- uploads of what belongs together: numbered; what was acknowledged is there, or the next that was tried, whole ------


class Uploads(ABC):
    """check() is what is there, at any time: the number of the upload that made it, 0 for nothing."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.acknowledged = 0

    def __call__(self) -> None:
        found = self.check()
        assert found in (self.acknowledged, self.acknowledged + 1)
        self.acknowledged = found
        self.upload(found + 1)
        self.acknowledged = found + 1
        assert self.check() == self.acknowledged

    @abstractmethod
    def check(self) -> int: ...

    @abstractmethod
    def upload(self, number: int) -> None: ...

    def query(self) -> Any:
        return self.client.post(f"{V3}/keys/query", {"device_keys": {self.client.user_id: []}})


class DeviceUploads(Uploads):
    """Each changes the device's keys and brings a one-time key."""

    def check(self) -> int:
        keys = self.query()["device_keys"][self.client.user_id].get(self.client.device_id, {"n": 0})
        counts = self.client.post(f"{V3}/keys/upload", {})["one_time_key_counts"]
        assert counts["signed_curve25519"] == keys["n"]
        number: int = keys["n"]
        return number

    def upload(self, number: int) -> None:
        keys = Device(self.client.user_id, self.client.device_id).keys(n=number)
        self.client.post(f"{V3}/keys/upload", {"device_keys": keys, "one_time_keys": one_time_keys(f"n{number}")})


class SigningUploads(Uploads):
    """Each replaces all three keys."""

    def __init__(self, client: Client) -> None:
        super().__init__(client)
        self.made: list[dict[str, Any]] = [{}]

    def check(self) -> int:
        answer, me = self.query(), self.client.user_id
        found = {
            f"{usage}_key": answer[f"{usage}_keys"][me]
            for usage in ("master", "self_signing", "user_signing")
            if me in answer.get(f"{usage}_keys", {})
        }
        return self.made.index(found)

    def upload(self, number: int) -> None:
        keys = SigningKeys(self.client.user_id).upload()
        self.made[number:] = [keys]
        identifier = {"type": "m.id.user", "user": self.client.user_id}
        auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
        self.client.post(f"{V3}/keys/device_signing/upload", {**keys, "auth": auth})


class DehydratedUploads(Uploads):
    """Each replaces the dehydrated device, and brings its keys."""

    def check(self) -> int:
        devices = [device["device_id"] for device in self.client.get("/devices")["devices"]]
        boxes = [device for device in devices if device != self.client.device_id]
        if not boxes:
            return 0
        assert boxes == [self.client.get(DEHYDRATED)["device_id"]]
        number = int(boxes[0])
        assert self.query()["device_keys"][self.client.user_id][boxes[0]]["n"] == number
        return number

    def upload(self, number: int) -> None:
        keys = Device(self.client.user_id, str(number)).keys(n=number)
        data = {"algorithm": "m.dehydration.v2"}
        self.client.put(DEHYDRATED, {"device_id": str(number), "device_data": data, "device_keys": keys})


@pytest.mark.timeout(max(300, 60 * ROUNDS))
def test_kill_9_hands_out_no_key_twice_loses_no_message_and_leaves_no_upload_in_part(start_subprocess: Any) -> None:
    server = start_subprocess()
    alice, bob, carol = (server.register(name) for name in ("alice", "bob", "carol"))
    claimed: list[str] = []
    uploaded: list[str] = []
    sent: list[int] = []
    received: list[int] = []
    receiving = Worker(receiver(carol.another_device(), received))
    uploads = [
        kind(server.register(kind.__name__.lower())) for kind in (DeviceUploads, SigningUploads, DehydratedUploads)
    ]
    workers = [
        receiving,
        Worker(uploader(alice, uploaded)),
        Worker(claimer(alice, claimed, bob)),
        Worker(claimer(alice, claimed, carol)),
        Worker(sender(bob.another_device(), carol, sent)),
        *(Worker(upload) for upload in uploads),
    ]
    for worker in workers:
        worker.start()
    chance = random.Random(7)
    for _ in range(ROUNDS):
        for worker in workers:
            worker.wait(chance.randint(1, 8 if worker in workers[:5] else 2))
        server.restart()
    for worker in workers:
        worker.wait(3 if worker in workers[:5] else 1)
    for worker in workers[1:]:
        worker.stopping.set()
        worker.join(120)
    while len(received) < len(sent):
        receiving.wait(1)
    receiving.stopping.set()
    receiving.join(120)
    assert [worker.error for worker in workers] == [None] * len(workers)
    assert len(set(claimed)) == len(claimed)
    assert received[: len(sent)] == sent
    assert len(set(received)) == len(received)
    left = alice.post(f"{V3}/keys/upload", {})["one_time_key_counts"]["signed_curve25519"]
    # A key whose claim was cut off before the answer is gone; none is there that was handed out.
    assert left + len(claimed) <= len(uploaded)
    assert [upload.check() for upload in uploads] == [upload.acknowledged for upload in uploads]
