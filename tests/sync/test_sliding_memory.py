"""Syncing where memory does not reach back to what the client has."""

from __future__ import annotations

from typing import Any

import pytest

from tests.kit.client import Client
from tests.sync.test_sliding_sync import ask, room_list

ROWS = 100
WITHOUT_RECEIPTS: dict[str, Any] = {"room": {"ephemeral": {"types": []}}}


@pytest.fixture
def hearth(start_local: Any) -> Any:
    """A server that remembers little of the log."""
    return start_local({"caches": {"recent_rows": ROWS}})


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """Alice's room, with bob."""
    room_id: str = alice.create_room(preset="public_chat")
    bob.join(room_id)
    return room_id


def make_forget(client: Client) -> None:
    for n in range(ROWS + 1):
        client.put("/user/{}/account_data/m.x", {"n": n}, at=[client.user_id])


def test_who_read_elsewhere_meanwhile_has_no_unread_messages(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hi")
    lists = {"conn_id": "c", "lists": room_list()["lists"]}
    first = ask(bob, lists)
    since = bob.sync(filter=WITHOUT_RECEIPTS)["next_batch"]
    assert first["rooms"][room]["notification_count"] == 1
    bob.post("/rooms/{}/receipt/m.read/{}", at=(room, event_id))
    make_forget(alice)
    second = ask(bob, lists, first["pos"])
    assert second["rooms"][room]["notification_count"] == 0
    assert ask(bob, lists, second["pos"])["rooms"] == {}
    told = bob.sync(since=since, filter=WITHOUT_RECEIPTS)["rooms"]["join"][room]
    assert told["unread_notifications"]["notification_count"] == 0


def test_a_room_in_which_others_read_is_not_told(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hi")
    lists = {"conn_id": "c", "lists": room_list()["lists"]}
    pos = ask(bob, lists)["pos"]
    alice.post("/rooms/{}/receipt/m.read/{}", at=(room, event_id))
    make_forget(alice)
    assert ask(bob, lists, pos)["rooms"] == {}
