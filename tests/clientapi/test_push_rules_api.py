"""Changing push rules, and what counts and notifications make of them."""

from __future__ import annotations

from typing import Any

import pytest

RULE = "/pushrules/global/{}/{}"
RELATED = "im.nheko.msc3664.related_event_match"
MENTION = {"msgtype": "m.text", "body": "look"}


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    room_id: str = alice.create_room(preset="public_chat")
    bob.join(room_id)
    bob.sync()
    return room_id


def counts(client: Any, room: str) -> tuple[int, int]:
    unread = client.sync(since=None)["rooms"]["join"][room]["unread_notifications"]
    return unread["notification_count"], unread["highlight_count"]


def rules_of(answer: Any, kind: str) -> list[str]:
    [rules] = [event["content"] for event in answer["account_data"]["events"] if event["type"] == "m.push_rules"]
    return [rule["rule_id"] for rule in rules["global"][kind]]


def test_rules_are_added_in_order_read_changed_and_deleted(bob: Any) -> None:
    since = bob.sync()["next_batch"]
    for rule_id in ("one", "two"):
        bob.put(RULE, {"actions": ["notify"], "pattern": rule_id}, at=("content", rule_id))
    bob.put(RULE, {"actions": [], "pattern": "x"}, at=("content", "three"), query={"after": "one"})
    bob.put(RULE, {"actions": [], "pattern": "x"}, at=("content", "four"), query={"before": "one"})
    assert rules_of(bob.sync(since=since), "content") == ["two", "four", "one", "three"]
    bob.put(RULE + "/actions", {"actions": ["notify", {"set_tweak": "highlight"}]}, at=("content", "one"))
    bob.put(RULE + "/enabled", {"enabled": False}, at=("content", "one"))
    rule = bob.get(RULE, at=("content", "one"))
    assert (rule["actions"], rule["enabled"]) == (["notify", {"set_tweak": "highlight"}], False)
    assert bob.get(RULE + "/enabled", at=("content", "one")) == {"enabled": False}
    bob.delete(RULE, at=("content", "one"))
    assert bob.get(RULE, at=("content", "one"), expect=404)["errcode"] == "M_NOT_FOUND"


def test_rules_are_read_as_account_data_too(bob: Any) -> None:
    bob.put("/pushrules/global/sender/{}", {"actions": []}, at=["@carol:test.example"])
    path, told = "/user/{}/account_data/m.push_rules", bob.get("/pushrules/")
    assert bob.get(path, at=[bob.user_id]) == told
    assert [rule["rule_id"] for rule in told["global"]["sender"]] == ["@carol:test.example"]


def test_rules_outlive_a_restart(hearth: Any, bob: Any) -> None:
    bob.put(RULE + "/enabled", {"enabled": True}, at=("override", ".m.rule.master"))
    hearth.restart()
    bob.base_url = hearth.url
    assert bob.get(RULE + "/enabled", at=("override", ".m.rule.master")) == {"enabled": True}


@pytest.mark.parametrize(
    ("method", "kind", "rule_id", "body", "errcode"),
    [
        ("PUT", "wrong", "x", {"actions": []}, "M_INVALID_PARAM"),
        ("PUT", "room", ".m.own", {"actions": []}, "M_INVALID_PARAM"),
        ("PUT", "content", "x", {"actions": []}, "M_MISSING_PARAM"),
        ("PUT", "override", "x", {"actions": "notify"}, "M_BAD_JSON"),
        (
            "PUT",
            "override",
            "x",
            {"actions": [], "conditions": [{"kind": "room_member_count", "is": "many"}]},
            "M_BAD_JSON",
        ),
        (
            "PUT",
            "override",
            "x",
            {"actions": [], "conditions": [{"kind": RELATED, "rel_type": "m.thread", "key": "sender"}]},
            "M_BAD_JSON",
        ),
        ("PUT", "override", "x", {"actions": [], "conditions": [{"kind": RELATED}]}, "M_BAD_JSON"),
        ("DELETE", "room", "x", None, "M_NOT_FOUND"),
        ("DELETE", "override", ".m.rule.master", None, "M_INVALID_PARAM"),
    ],
)
def test_what_is_no_rule_is_refused(bob: Any, method: str, kind: str, rule_id: str, body: Any, errcode: str) -> None:
    bob.request(method, RULE, body, at=(kind, rule_id), expect=errcode)


def test_a_rule_too_many_is_refused(bob: Any) -> None:
    body = {"actions": [{"set_tweak": "sound", "value": "x" * 140_000}]}
    bob.put(RULE, body, at=("room", "!a:b"), expect="M_TOO_LARGE")


def test_own_rules_are_counted_by(alice: Any, bob: Any, room: str) -> None:
    assert counts(bob, room) == (0, 0)
    alice.send(room, "before")
    assert counts(bob, room) == (1, 0)
    bob.put(RULE, {"actions": []}, at=("room", room))  # a muted room
    assert counts(bob, room) == (0, 0)
    bob.put(RULE, {"actions": ["notify", {"set_tweak": "highlight"}], "pattern": "cake"}, at=("content", "cake"))
    alice.send(room, "no pie")
    alice.send(room, "there is Cake!")
    assert counts(bob, room) == (1, 1)
    bob.delete(RULE, at=("room", room))
    assert counts(bob, room) == (3, 1)


def test_own_rules_count_after_a_restart_as_before(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    condition = {"kind": "event_property_is", "key": "content.urgent", "value": True}
    body = {"actions": ["notify", {"set_tweak": "highlight"}], "conditions": [condition]}
    bob.put(RULE, body, at=("override", "urgent"))
    assert counts(bob, room) == (0, 0)
    alice.send(room, {"msgtype": "m.text", "body": "x", "urgent": True})
    alice.send(room, "calm")
    assert counts(bob, room) == (2, 1)
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    assert counts(bob, room) == (2, 1)


def test_replies_to_ones_own_messages_highlight(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    assert bob.get("/capabilities")["capabilities"][RELATED] == {"enabled": True}
    condition = {"kind": RELATED, "rel_type": "m.in_reply_to", "key": "sender", "pattern": bob.user_id}
    body = {"actions": ["notify", {"set_tweak": "highlight"}], "conditions": [condition]}
    bob.put(RULE, body, at=("override", "reply"))
    ours, theirs = bob.send(room, "ours"), alice.send(room, "theirs")
    elsewhere = bob.send(bob.create_room(), "elsewhere")
    restart(hearth, alice, bob)  # none of them is in memory any more
    assert counts(bob, room) == (1, 0)
    for target in (ours, theirs, elsewhere, "$unknown"):
        alice.send(room, reply(target))
    alice.send(room, reply(ours, rel_type="m.thread", event_id=theirs, is_falling_back=True))
    alice.send(room, reply(ours, rel_type="m.thread", event_id=theirs, is_falling_back=False))
    highlights = [
        item["event"]["content"] for item in bob.get("/notifications", query={"only": "highlight"})["notifications"]
    ]
    assert [content["m.relates_to"].get("is_falling_back") for content in highlights] == [False, None]
    for _ in range(2):
        assert counts(bob, room) == (7, 2)
        restart(hearth, alice, bob)


def test_replies_are_seen_beside_what_is_in_memory(alice: Any, bob: Any, room: str) -> None:
    condition = {"kind": RELATED, "rel_type": "m.in_reply_to", "include_fallbacks": True, "key": "sender"}
    body = {"actions": [], "conditions": [{**condition, "pattern": alice.user_id}]}
    bob.put(RULE, body, at=("override", "quiet"))
    ours, theirs = bob.send(room, "ours"), alice.send(room, "theirs")
    assert counts(bob, room) == (1, 0)
    alice.send(room, reply(ours))
    alice.send(room, reply(theirs, is_falling_back=True))
    assert counts(bob, room) == (2, 0)


def test_relations_of_a_kind_can_be_silent(alice: Any, bob: Any, room: str) -> None:
    body = {"actions": [], "conditions": [{"kind": RELATED, "rel_type": "m.reference"}]}
    bob.put(RULE, body, at=("override", "quiet"))
    root = alice.send(room, "root")
    for rel_type in ("m.reference", "m.thread"):
        relates_to = {"rel_type": rel_type, "event_id": root}
        alice.send(room, {"msgtype": "m.text", "body": "x", "m.relates_to": relates_to})
    assert counts(bob, room) == (2, 0)


def test_what_a_related_event_says_is_not_found_out_by_rules(alice: Any, bob: Any, room: str) -> None:
    condition = {"kind": RELATED, "rel_type": "m.in_reply_to", "key": "content.body", "pattern": "secret"}
    bob.put(RULE, {"actions": [], "conditions": [condition]}, at=("override", "curious"))
    alice.send(room, reply(alice.send(room, "secret")))
    assert counts(bob, room) == (2, 0)


def reply(target: str, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": target}, **more}}


def restart(hearth: Any, *clients: Any) -> None:
    hearth.restart()
    for client in clients:
        client.base_url = hearth.url


def test_a_notice_that_mentions_does_not_highlight(alice: Any, bob: Any, room: str) -> None:
    mentions = {"m.mentions": {"user_ids": [bob.user_id]}}
    alice.send(room, {"msgtype": "m.notice", "body": "bot says", **mentions})
    assert counts(bob, room) == (0, 0)
    alice.send(room, {"msgtype": "m.text", "body": "to nobody", "m.mentions": {"user_ids": ["", "@", 7]}})
    assert counts(bob, room) == (1, 0)


def test_counts_begin_at_the_join(hearth: Any, alice: Any, room: str) -> None:
    alice.send(room, "before")
    carol = hearth.register("carol")
    carol.sync()
    carol.join(room)
    assert counts(carol, room) == (0, 0)
    alice.send(room, "after")
    assert counts(carol, room) == (1, 0)


def test_what_notified_is_listed(alice: Any, bob: Any, room: str) -> None:
    first = alice.send(room, "one")
    bob.post("/rooms/{}/receipt/m.read/{}", at=(room, first))
    bob.send(room, "own")
    alice.send(room, {**MENTION, "m.mentions": {"user_ids": [bob.user_id]}})
    alice.send(room, "three")
    listed = bob.get("/notifications")["notifications"]
    assert [(item["event"]["content"]["body"], item["read"]) for item in listed] == [
        ("three", False),
        ("look", False),
        ("one", True),
    ]
    assert {item["room_id"] for item in listed} == {room}
    page = bob.get("/notifications", query={"limit": 2})
    assert len(page["notifications"]) == 2
    rest = bob.get("/notifications", query={"from": page["next_token"]})
    assert [item["event"]["content"]["body"] for item in rest["notifications"]] == ["one"]
    only = bob.get("/notifications", query={"only": "highlight"})["notifications"]
    assert [item["event"]["content"]["body"] for item in only] == ["look"]
    assert bob.get("/notifications", query={"from": "x"}, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_a_muted_room_stays_muted_when_it_is_replaced(alice: Any, bob: Any, room: str) -> None:
    condition = {"kind": "event_match", "key": "room_id", "pattern": room}
    bob.put(RULE, {"actions": [], "conditions": [condition]}, at=("override", room))
    bob.put(RULE, {"actions": ["notify"]}, at=("room", room))
    bob.put(RULE + "/enabled", {"enabled": False}, at=("room", room))
    new = alice.post("/rooms/{}/upgrade", {"new_version": "11"}, at=[room])["replacement_room"]
    bob.join(new)
    assert bob.get(RULE, at=("override", new))["conditions"] == [{**condition, "pattern": new}]
    assert bob.get(RULE + "/enabled", at=("room", new)) == {"enabled": False}
    alice.send(new, "hush")
    assert counts(bob, new) == (0, 0)
