"""Unread counts and notifications: own messages, threads, ignored users, what was before a join."""

from __future__ import annotations

from typing import Any

import pytest

RULE = "/pushrules/global/{}/{}"
BY_THREAD = '{"room": {"timeline": {"unread_thread_notifications": true}}}'


def section(client: Any, room: str) -> dict[str, Any]:
    found: dict[str, Any] = client.sync(since=None, filter=BY_THREAD)["rooms"]["join"][room]
    return found


def counts(client: Any, room: str) -> dict[str, int]:
    """Notifications by thread; "main" for those in none. Threads without any are left out."""
    found = section(client, room)
    threads = {root: of["notification_count"] for root, of in found.get("unread_thread_notifications", {}).items()}
    return {"main": found["unread_notifications"]["notification_count"], **threads}


def restart(hearth: Any, *clients: Any) -> None:
    hearth.restart()
    for client in clients:
        client.base_url = hearth.url


def in_thread(root: str, body: str = "in it", **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": body, "m.relates_to": {"rel_type": "m.thread", "event_id": root}, **more}


def related(target: str, rel_type: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": rel_type, "event_id": target}, **more}


def ignore(client: Any, *users: str) -> None:
    content = {"ignored_users": {user: {} for user in users}}
    client.put("/user/{}/account_data/{}", content, at=(client.user_id, "m.ignored_user_list"))


def bodies(client: Any, **query: Any) -> list[tuple[str, bool]]:
    listed = client.get("/notifications", query=query)["notifications"]
    return [(item["event"]["content"]["body"], item["read"]) for item in listed]


# -- one's own events ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("msgtype", ["m.text", "m.notice"])
def test_who_sends_a_message_has_read_what_was_before(
    hearth: Any, alice: Any, bob: Any, room: str, msgtype: str
) -> None:
    root = alice.send(room, "root")
    alice.send(room, in_thread(root))
    assert counts(bob, room) == {"main": 1, root: 1}
    bob.send(room, {"msgtype": msgtype, "body": "answer"})
    assert counts(bob, room) == {"main": 0, root: 1}
    bob.send(room, in_thread(root, "answer"))
    assert counts(bob, room) == {"main": 0}
    alice.send(room, "news")
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 1}


def test_reactions_edits_and_redactions_read_nothing(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    mine = bob.send(room, "mine")
    other = alice.send(room, "one")
    bob.send(room, related(other, "m.annotation", key="x"), "m.reaction")
    bob.send(room, related(mine, "m.replace", **{"m.new_content": {"msgtype": "m.text", "body": "y"}}))
    bob.redact(room, mine)
    bob.put("/profile/{}/displayname", {"displayname": "Bobby"}, at=[bob.user_id])
    assert counts(bob, room) == {"main": 1}
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 1}


def test_own_messages_read_for_users_with_rules_of_their_own(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    bob.put(RULE, {"actions": ["notify"], "pattern": "cake"}, at=("content", "cake"))
    alice.send(room, "before")
    assert counts(bob, room) == {"main": 1}
    bob.send(room, "answer")
    assert counts(bob, room) == {"main": 0}
    alice.send(room, "after")
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 1}


# -- threads ---------------------------------------------------------------------------------------------------------


def test_what_relates_to_a_threaded_event_is_in_its_thread(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    threaded = alice.send(room, in_thread(root))
    second = alice.send(room, related(threaded, "m.reference"))
    third = alice.send(room, related(second, "m.reference"))
    alice.send(room, related(root, "m.reference"))  # what relates to the root is in no thread
    assert counts(bob, room) == {"main": 2, root: 3}
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 2, root: 3}
    bob.post("/rooms/{}/receipt/m.read/{}", {"thread_id": root}, at=(room, third))
    assert counts(bob, room) == {"main": 2}


def test_threaded_receipts_alone_are_counted_by_after_a_restart(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    roots = [alice.send(room, "root") for _ in range(2)]
    replies = [alice.send(room, in_thread(root)) for root in roots]
    alice.send(room, in_thread(roots[1], "unread"))
    for event_id, thread_id in ((roots[1], "main"), *zip(replies, roots, strict=True)):
        bob.post("/rooms/{}/receipt/m.read/{}", {"thread_id": thread_id}, at=(room, event_id))
    assert counts(bob, room) == {"main": 0, roots[1]: 1}
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 0, roots[1]: 1}


# -- receipts --------------------------------------------------------------------------------------------------------


def test_read_markers_are_all_known_before_any_is_set(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "hello")
    markers = {"m.fully_read": event_id, "m.read": event_id, "m.read.private": "$unknown"}
    bob.post("/rooms/{}/read_markers", markers, at=[room], expect="M_NOT_FOUND")
    assert section(bob, room).get("account_data", {"events": []})["events"] == []
    assert counts(bob, room) == {"main": 1}


# -- ignored users ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own_rules", [False, True])
def test_ignored_users_do_not_count(hearth: Any, alice: Any, bob: Any, room: str, own_rules: bool) -> None:
    if own_rules:
        bob.put(RULE, {"actions": ["notify"], "pattern": "cake"}, at=("content", "cake"))
    alice.send(room, "before")
    assert counts(bob, room) == {"main": 1}
    ignore(bob, alice.user_id)
    assert counts(bob, room) == {"main": 0}
    alice.send(room, "while")
    assert counts(bob, room) == {"main": 0}
    restart(hearth, alice, bob)
    assert counts(bob, room) == {"main": 0}
    ignore(bob)
    assert counts(bob, room) == {"main": 2}


def test_ignored_users_are_not_shown(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    ignored, seen = alice.send(room, "ignored"), carol.send(room, "seen")
    ignore(bob, alice.user_id)
    chunk = bob.get("/rooms/{}/messages", at=[room], query={"dir": "b"})["chunk"]
    assert [event["content"]["body"] for event in chunk if event["type"] == "m.room.message"] == ["seen"]
    assert any(event["sender"] == alice.user_id for event in chunk)  # state is told all the same
    context = bob.get("/rooms/{}/context/{}", at=(room, seen))
    assert ignored not in [event["event_id"] for event in context["events_before"]]
    timeline = section(bob, room)["timeline"]["events"]
    assert ignored not in [event["event_id"] for event in timeline]
    assert bodies(bob) == [("seen", False)]


def test_invites_of_ignored_users_are_not_told(alice: Any, bob: Any) -> None:
    ignore(bob, alice.user_id)
    alice.create_room(invite=[bob.user_id])
    assert bob.sync(since=None).get("rooms", {}).get("invite", {}) == {}


def test_invites_are_not_told_to_who_blocks_them_also_those_of_before(hearth: Any, alice: Any, bob: Any) -> None:
    sliding = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    config = "/user/{}/account_data/m.invite_permission_config"
    lists = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}

    def told(since: str | None = None) -> list[set[str]]:
        invites = bob.sync(since=since).get("rooms", {}).get("invite", {})
        listed = bob.post(sliding, lists)
        assert listed["lists"]["all"]["count"] == len(listed["rooms"])
        return [set(invites), set(listed["rooms"]), {room["room_id"] for room in bob.get("/initialSync")["rooms"]}]

    since = bob.sync(since=None)["next_batch"]
    room = alice.create_room(invite=[bob.user_id])
    assert told() == told(since) == [{room}] * 3
    bob.put(config, {"default_action": "block"}, at=[bob.user_id])
    for _ in range(2):
        assert told() == told(since) == [set()] * 3
        hearth.restart()
        alice.base_url = bob.base_url = hearth.url
    bob.put(config, {}, at=[bob.user_id])
    assert told() == [{room}] * 3
    bob.join(room)
    assert room in bob.sync(since=since)["rooms"]["join"]


# -- rules -----------------------------------------------------------------------------------------------------------


def test_a_rule_for_the_name_looks_for_that_of_the_room(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    conditions = [{"kind": "contains_display_name"}]
    actions = ["notify", {"set_tweak": "highlight"}]
    bob.put(RULE, {"actions": actions, "conditions": conditions}, at=("override", "name"))
    bob.set_state(room, "m.room.member", {"membership": "join", "displayname": "Captain"}, bob.user_id)
    assert counts(bob, room) == {"main": 0}
    alice.send(room, "aye captain!")
    alice.send(room, "bob?")
    for _ in range(2):
        assert section(bob, room)["unread_notifications"] == {"notification_count": 2, "highlight_count": 1}
        highlights = bob.get("/notifications", query={"only": "highlight"})["notifications"]
        assert [item["event"]["content"]["body"] for item in highlights] == ["aye captain!"]
        restart(hearth, alice, bob)


def test_rules_for_other_rooms_leave_a_room_as_it_was(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    other = alice.create_room(preset="public_chat")
    bob.join(other)
    condition = {"kind": "event_match", "key": "room_id", "pattern": other}
    bob.put(RULE, {"actions": [], "conditions": [condition]}, at=("override", other))
    for _ in range(2):
        bob.post("/rooms/{}/receipt/m.read/{}", at=(room, alice.send(room, "read")))
        alice.send(room, {"msgtype": "m.text", "body": "bob", "m.mentions": {"user_ids": [bob.user_id]}})
        alice.send(other, "muted")
        assert section(bob, room)["unread_notifications"] == {"notification_count": 1, "highlight_count": 1}
        assert counts(bob, other) == {"main": 0}
        restart(hearth, alice, bob)
        assert section(bob, room)["unread_notifications"] == {"notification_count": 1, "highlight_count": 1}


@pytest.mark.parametrize(
    ("condition", "extra", "matches"),
    [
        ({"kind": "event_property_is", "key": "content.n", "value": 1}, {"n": 1}, True),
        ({"kind": "event_property_is", "key": "content.n", "value": 1}, {"n": True}, False),
        ({"kind": "event_property_contains", "key": "content.list", "value": "a"}, {"list": ["b", "a"]}, True),
        ({"kind": "event_property_contains", "key": "content.list", "value": "a"}, {"list": "a"}, False),
        ({"kind": "room_member_count", "is": "2"}, {}, True),
        ({"kind": "room_member_count", "is": ">2"}, {}, False),
        ({"kind": "sender_notification_permission", "key": "room"}, {}, True),
        ({"kind": "event_match", "key": "content.body", "pattern": "wo*d"}, {}, True),
        ({"kind": "im.unknown"}, {}, False),
    ],
)
def test_every_condition_counts(
    alice: Any, bob: Any, room: str, condition: dict[str, Any], extra: dict[str, Any], matches: bool
) -> None:
    actions = ["notify", {"set_tweak": "highlight"}]
    bob.put(RULE, {"actions": actions, "conditions": [condition]}, at=("override", "own"))
    alice.send(room, {"msgtype": "m.text", "body": "a word", **extra})
    assert section(bob, room)["unread_notifications"]["highlight_count"] == int(matches)


# -- GET /notifications ----------------------------------------------------------------------------------------------


def test_what_was_before_the_join_is_not_listed(hearth: Any, alice: Any, room: str) -> None:
    alice.set_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    alice.send(room, "secret")
    carol = hearth.register("carol")
    carol.join(room)
    alice.send(room, "hello")
    assert bodies(carol) == [("hello", False)]


def test_listed_is_what_counts_and_read_what_does_not(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    alice.send(room, in_thread(root, "threaded"))
    bob.send(room, "answer")
    alice.send(room, "later")
    assert bodies(bob) == [("later", False), ("threaded", False), ("root", True)]
    assert counts(bob, room) == {"main": 1, root: 1}
