"""What notifies where subscriptions to threads count (MSC4306)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.clientapi.test_thread_subscriptions import PATH, reply

RULES = "/pushrules/global/postcontent/{}"
UNSUBSCRIBED, SUBSCRIBED = (f".io.element.msc4306.rule.{name}_thread" for name in ("unsubscribed", "subscribed"))
OWN_RULE = "/pushrules/global/content/keyword"
BY_THREAD = '{"room": {"timeline": {"unread_thread_notifications": true}}}'


@pytest.fixture
def server(start_local: Any) -> Any:
    return start_local({"rooms": {"thread_subscriptions": True}})


class Reader:
    """A user in a room in which somebody else talks."""

    def __init__(self, server: Any) -> None:
        self.client, self.talker = server.register("alice"), server.register("bob")
        self.room = self.talker.create_room(preset="public_chat")
        self.client.join(self.room)
        self.root = self.talker.send(self.room, "root")

    @property
    def at(self) -> tuple[str, str]:
        return self.room, self.root

    def say(self, **content: Any) -> str:
        """In the thread."""
        relation = {"rel_type": "m.thread", "event_id": self.root}
        content = {"msgtype": "m.text", "body": "in the thread", "m.relates_to": relation, **content}
        event_id: str = self.talker.send(self.room, content)
        return event_id

    def counts(self) -> tuple[int, int, int]:
        """Unread outside of the thread, in it, and highlights in it, as an initial sync has them."""
        section = self.client.another_device().sync(filter=BY_THREAD)["rooms"]["join"][self.room]
        thread = section.get("unread_thread_notifications", {}).get(self.root, {})
        outside = section["unread_notifications"]["notification_count"]
        return outside, thread.get("notification_count", 0), thread.get("highlight_count", 0)


@pytest.mark.parametrize("has_rules_of_its_own", [False, True])
def test_threads_count_for_those_who_are_subscribed_or_mentioned(server: Any, has_rules_of_its_own: bool) -> None:
    reader = Reader(server)
    alice = reader.client
    if has_rules_of_its_own:
        alice.put(OWN_RULE, {"pattern": "keyword", "actions": ["notify"]})
    assert reader.counts() == (1, 0, 0)
    reader.say()
    assert reader.counts() == (1, 0, 0)
    reader.say(**{"m.mentions": {"user_ids": [alice.user_id]}})
    assert reader.counts() == (1, 1, 1)
    alice.put(PATH, {}, at=reader.at)
    assert reader.counts() == (1, 2, 1)
    last = reader.say()
    assert reader.counts() == (1, 3, 1)
    reader.say(msgtype="m.notice")
    assert reader.counts() == (1, 3, 1)
    told = alice.get("/notifications")["notifications"]
    assert [entry["actions"][1]["set_tweak"] for entry in told if entry["event"]["event_id"] == last] == ["sound"]
    server.restart()
    alice.base_url = reader.talker.base_url = server.url
    assert reader.counts() == (1, 3, 1)
    alice.delete(PATH, at=reader.at)
    assert reader.counts() == (1, 1, 1)
    assert last not in [entry["event"]["event_id"] for entry in alice.get("/notifications")["notifications"]]


def test_a_read_thread_stays_read_when_it_is_subscribed_to(server: Any) -> None:
    reader = Reader(server)
    last = reader.say()
    reader.client.post("/rooms/{}/receipt/m.read/{}", {"thread_id": reader.root}, at=(reader.room, last))
    reader.client.put(PATH, {}, at=reader.at)
    assert reader.counts() == (1, 0, 0)
    reader.say()
    assert reader.counts() == (1, 1, 0)


def test_the_rules_are_there_and_can_be_switched_off(server: Any) -> None:
    reader = Reader(server)
    alice = reader.client
    assert alice.get("/_matrix/client/versions")["unstable_features"]["org.matrix.msc4306"] is True
    kinds = alice.get("/pushrules/")["global"]
    assert list(kinds) == ["override", "content", "postcontent", "room", "sender", "underride"]
    assert [rule["rule_id"] for rule in kinds["postcontent"]] == [UNSUBSCRIBED, SUBSCRIBED]
    [told] = [e for e in alice.sync()["account_data"]["events"] if e["type"] == "m.push_rules"]
    assert told["content"]["global"] == kinds
    alice.put(RULES, {"actions": ["notify"], "conditions": []}, at=["mine"], expect="M_INVALID_PARAM")
    alice.put(RULES + "/enabled", {"enabled": False}, at=[UNSUBSCRIBED])
    assert alice.get(RULES, at=[UNSUBSCRIBED])["enabled"] is False
    reader.say()
    assert reader.counts() == (1, 1, 0)


def test_elsewhere_there_are_no_such_rules(hearth: Any) -> None:
    reader = Reader(hearth)
    alice = reader.client
    assert "org.matrix.msc4306" not in alice.get("/_matrix/client/versions")["unstable_features"]
    assert "postcontent" not in alice.get("/pushrules/")["global"]
    alice.get(RULES, at=[UNSUBSCRIBED], expect="M_NOT_FOUND")
    alice.put(RULES + "/enabled", {"enabled": False}, at=[UNSUBSCRIBED], expect="M_NOT_FOUND")
    alice.put(RULES, {"actions": ["notify"], "conditions": []}, at=["mine"], expect="M_INVALID_PARAM")
    reply(reader.talker, reader.room, reader.root)
    assert reader.counts() == (1, 1, 0)
