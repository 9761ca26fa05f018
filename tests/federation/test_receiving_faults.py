"""The database fails while another server's events come in: none that was accepted is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy.exc import OperationalError

from homeserver.runtime.db import Database
from tests.federation.peer_room import PeerRoom, message


class Fault:
    """Transactions of these functions fail, as those of a full disk do, until they are mended: those named, or all."""

    def __init__(self, monkeypatch: Any, *names: str) -> None:
        self.seen = 0
        self._names: Sequence[str] = names
        self._whole: Callable[..., Any] = Database.run
        monkeypatch.setattr(Database, "run", self._make_run())

    def mend(self, *names: str) -> None:
        self._names = [each for each in self._names if names and each not in names]

    def _make_run(self) -> Callable[..., Any]:
        def run(database: Database, fn: Callable[..., Any], *args: Any) -> Any:
            if fn.__name__ not in self._names:
                return self._whole(database, fn, *args)
            self.seen += 1
            return self._whole(database, _fail)

        return run


def _fail(_conn: Any) -> None:
    raise OperationalError("COMMIT", {}, Exception("no space left on device"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.inbound.room_queue.RETRY_AFTER_MS", (100,))


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def test_accepted_event_waits_for_the_database(room: PeerRoom, monkeypatch: Any) -> None:
    fault = Fault(monkeypatch, "write_batch")
    pdu = room.build("m.room.message", message("late"))
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    room.wait_until(lambda: fault.seen > 3)
    assert not room.sees(pdu.event_id)
    fault.mend()
    room.wait_for_event(pdu.event_id)
    room.wait_until_idle()
    assert room.sees(pdu.event_id)


def test_event_that_can_not_be_written_down_is_not_accepted(room: PeerRoom, monkeypatch: Any) -> None:
    fault = Fault(monkeypatch, "write_batch", "save_staged_pdus")
    pdu = room.build("m.room.message", message("again"))
    assert room.send(pdu).status_code == 503
    assert room.send(pdu).status_code == 503
    fault.mend()
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    room.wait_for_event(pdu.event_id)
    room.hearth.restart()
    room.alice.base_url = room.hearth.url
    assert room.sees(pdu.event_id)


def test_message_to_a_device_that_can_not_be_written_down_is_not_accepted(room: PeerRoom, monkeypatch: Any) -> None:
    since = room.alice.sync()["next_batch"]
    messages = {room.alice.user_id: {room.alice.device_id: {"n": 1}}}
    content = {"sender": room.bob, "type": "org.example.key", "message_id": "1", "messages": messages}
    edu = {"edu_type": "m.direct_to_device", "content": content}
    fault = Fault(monkeypatch, "write_batch")
    assert room.send(edus=[edu], txn_id="same").status_code == 503
    fault.mend()
    assert room.send(edus=[edu], txn_id="same").json() == {"pdus": {}}
    told = room.alice.sync(since=since)["to_device"]["events"]
    assert [event["content"] for event in told] == [{"n": 1}]


def test_what_could_not_be_deleted_is_deleted_later(room: PeerRoom, monkeypatch: Any) -> None:
    queues = room.hearth.federation.receiving.queues
    fault = Fault(monkeypatch, "write_batch", "delete_staged_pdus")
    pdu = room.build("m.room.message", message("done"))
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    fault.mend("write_batch")
    room.wait_for_event(pdu.event_id)
    deletions = fault.seen
    room.wait_until(lambda: fault.seen > deletions + 3)
    assert queues._staged_bytes
    fault.mend()
    room.wait_until(lambda: not queues._rooms and not queues._staged_bytes)
