"""Receipts, read markers, typing and unread counts, as /sync shows them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest


def _room(client: Any, room: str, since: str | None = None, **query: Any) -> dict[str, Any]:
    answer = client.get("/sync", query={"since": since, "timeout": 0, **query})
    client.next_batch = answer["next_batch"]
    found: dict[str, Any] = answer.get("rooms", {}).get("join", {}).get(room, {})
    return found


def _unread(client: Any, room: str) -> tuple[int, int]:
    counts = _room(client, room)["unread_notifications"]
    return counts["notification_count"], counts["highlight_count"]


def _receipt(client: Any, room: str, event_id: str, kind: str = "m.read", **about: Any) -> None:
    body = about.pop("body", {})
    client.post("/rooms/{}/receipt/{}/{}", body, at=(room, kind, event_id), **about)


def _ephemeral(section: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["content"] for e in section.get("ephemeral", {}).get("events", []) if e["type"] == kind]


def test_receipt_reaches_the_others(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    _room(alice, room)
    _receipt(bob, room, event_id)
    [content] = _ephemeral(_room(alice, room, alice.next_batch), "m.receipt")
    assert list(content[event_id]["m.read"]) == [bob.user_id]


def test_private_receipt_reaches_its_owner_alone(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    _room(alice, room)
    _receipt(bob, room, event_id, "m.read.private")
    assert _ephemeral(_room(alice, room, alice.next_batch), "m.receipt") == []
    [content] = _ephemeral(_room(bob, room), "m.receipt")
    assert list(content[event_id]["m.read.private"]) == [bob.user_id]


def test_receipts_of_ignored_users_are_not_told(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    event_id = alice.send(room, "hello")
    _room(alice, room)
    ignored = {"ignored_users": {bob.user_id: {}}}
    alice.put("/user/{}/account_data/m.ignored_user_list", ignored, at=[alice.user_id])
    _room(alice, room)
    _receipt(bob, room, event_id)
    assert _room(alice, room, alice.next_batch) == {}
    _receipt(carol, room, event_id)
    incremental, initial = _room(alice, room, alice.next_batch), _room(alice, room)
    older = alice.get("/rooms/{}/initialSync", at=[room])["receipts"]
    for content in (*_ephemeral(incremental, "m.receipt"), *_ephemeral(initial, "m.receipt"), older[0]["content"]):
        assert list(content[event_id]["m.read"]) == [carol.user_id]
    assert len(_ephemeral(incremental, "m.receipt")) == len(_ephemeral(initial, "m.receipt")) == 1
    body = {
        "lists": {"l": {"ranges": [[0, 9]], "timeline_limit": 5, "required_state": []}},
        "extensions": {"receipts": {"enabled": True}},
    }
    sliding = alice.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body)
    assert list(sliding["extensions"]["receipts"]["rooms"][room]["content"][event_id]["m.read"]) == [carol.user_id]


def test_receipts_never_move_back(alice: Any, bob: Any, room: str) -> None:
    first, second = alice.send(room, "one"), alice.send(room, "two")
    _receipt(bob, room, second)
    _receipt(bob, room, first)
    [content] = _ephemeral(_room(alice, room), "m.receipt")
    assert list(content) == [second]


@pytest.mark.parametrize(
    ("kind", "event_id", "errcode"),
    [("m.unheard", None, "M_INVALID_PARAM"), ("m.read", "$nothing", "M_NOT_FOUND"), ("m.read", "x", "M_INVALID_PARAM")],
)
def test_bad_receipts(alice: Any, room: str, kind: str, event_id: str | None, errcode: str) -> None:
    _receipt(alice, room, event_id or alice.send(room, "hello"), kind, expect=errcode)


def test_read_marker_is_account_data_of_the_room(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    bob.post("/rooms/{}/read_markers", {"m.fully_read": event_id, "m.read": event_id}, at=[room])
    events = _room(bob, room)["account_data"]["events"]
    assert {"type": "m.fully_read", "content": {"event_id": event_id}} in events
    assert _unread(bob, room) == (0, 0)


def test_messages_of_others_are_unread_until_read(alice: Any, bob: Any, room: str) -> None:
    alice.send(room, "one")
    last = alice.send(room, "two")
    assert _unread(bob, room) == (2, 0)
    assert _unread(alice, room) == (0, 0)
    _receipt(bob, room, last)
    assert _unread(bob, room) == (0, 0)
    alice.send(room, "three")
    assert _unread(bob, room) == (1, 0)


def test_mention_highlights_for_the_mentioned_alone(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    mention = {"msgtype": "m.text", "body": "bob?", "m.mentions": {"user_ids": [bob.user_id]}}
    alice.send(room, mention)
    assert (_unread(bob, room), _unread(carol, room)) == ((1, 1), (1, 0))


def test_unread_counts_survive_a_restart(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    mention = {"msgtype": "m.text", "body": "bob?", "m.mentions": {"user_ids": [bob.user_id]}}
    alice.send(room, mention)
    alice.send(room, "two")
    before = _unread(bob, room)
    hearth.restart()
    bob.base_url = hearth.url
    assert _unread(bob, room) == before == (2, 1)


def test_redacted_message_is_not_unread(alice: Any, bob: Any, room: str) -> None:
    _unread(bob, room)
    event_id = alice.send(room, "one")
    alice.redact(room, event_id)
    assert _unread(bob, room) == (0, 0)


def test_threads_are_counted_and_read_apart(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    relation = {"rel_type": "m.thread", "event_id": root}
    reply = alice.send(room, {"msgtype": "m.text", "body": "in thread", "m.relates_to": relation})
    by_thread = '{"room": {"timeline": {"unread_thread_notifications": true}}}'
    section = _room(bob, room, filter=by_thread)
    assert section["unread_notifications"]["notification_count"] == 1
    assert section["unread_thread_notifications"][root]["notification_count"] == 1
    _receipt(bob, room, reply, body={"thread_id": root})
    section = _room(bob, room, filter=by_thread)
    assert section["unread_notifications"]["notification_count"] == 1
    assert root not in section.get("unread_thread_notifications", {})


def test_typing_is_seen_and_ends(alice: Any, bob: Any, room: str) -> None:
    _room(bob, room)
    at = (room, alice.user_id)
    alice.put("/rooms/{}/typing/{}", {"typing": True, "timeout": 30_000}, at=at)
    [content] = _ephemeral(_room(bob, room, bob.next_batch), "m.typing")
    assert content == {"user_ids": [alice.user_id]}
    alice.put("/rooms/{}/typing/{}", {"typing": False}, at=at)
    [content] = _ephemeral(_room(bob, room, bob.next_batch), "m.typing")
    assert content == {"user_ids": []}


def test_typing_for_others_is_refused(alice: Any, bob: Any, room: str) -> None:
    alice.put("/rooms/{}/typing/{}", {"typing": True}, at=(room, bob.user_id), expect="M_FORBIDDEN")


def test_receipts_of_one_moment_end_at_the_newest(alice: Any, bob: Any, room: str) -> None:
    event_ids = [alice.send(room, str(n)) for n in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda event_id: _receipt(bob.another_device(), room, event_id), event_ids))
    [content] = _ephemeral(_room(alice, room), "m.receipt")
    assert list(content) == [event_ids[-1]]


def test_read_markers_are_all_read_before_any_is_set(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    markers = {"m.fully_read": event_id, "m.read": "not an id"}
    bob.post("/rooms/{}/read_markers", markers, at=[room], expect="M_INVALID_PARAM")
    assert _room(bob, room).get("account_data", {"events": []})["events"] == []


def test_a_receipt_names_the_thread_of_its_event(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    threaded = alice.send(
        room, {"msgtype": "m.text", "body": "in it", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    )
    reaction = alice.send(
        room, {"m.relates_to": {"rel_type": "m.annotation", "event_id": threaded, "key": "x"}}, "m.reaction"
    )
    for event_id in (threaded, reaction):
        _threaded(bob, room, event_id, "main", expect="M_INVALID_PARAM")
        _threaded(bob, room, event_id, root)
    _threaded(bob, room, root, "main")
    _threaded(bob, room, root, threaded, expect="M_INVALID_PARAM")


@pytest.mark.parametrize("unthreaded_first", [True, False])
def test_of_two_receipts_for_one_event_the_unthreaded_one_is_told(
    alice: Any, bob: Any, room: str, unthreaded_first: bool
) -> None:
    root = alice.send(room, "root")
    content = {"msgtype": "m.text", "body": "in it", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    threaded = alice.send(room, content)
    for is_threaded in (False, True) if unthreaded_first else (True, False):
        _receipt(bob, room, threaded, body={"thread_id": root} if is_threaded else {})
    [content] = _ephemeral(_room(alice, room), "m.receipt")
    assert list(content[threaded]["m.read"][bob.user_id]) == ["ts"]


def _threaded(client: Any, room: str, event_id: str, thread_id: str, **about: Any) -> None:
    client.post("/rooms/{}/receipt/m.read/{}", {"thread_id": thread_id}, at=(room, event_id), **about)
