"""Invites that users block or ignore, by who invites (MSC4155). The other side, from other servers: test_serving_invites."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.invite_policy import MAX_NAMES

FILTER = "org.matrix.msc4155.invite_permission_config"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
LISTS = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}


def set_filter(client: Any, expect: int | str | None = None, **content: Any) -> None:
    client.put("/user/{}/account_data/{}", content, at=(client.user_id, FILTER), expect=expect)


def invited(client: Any) -> list[set[str]]:
    """To which rooms, as each form of sync tells it to a client that begins."""
    sliding = client.post(SLIDING, LISTS)
    assert sliding["lists"]["all"]["count"] == len(sliding["rooms"])
    return [
        set(client.sync(since=None).get("rooms", {}).get("invite", {})),
        set(sliding["rooms"]),
        {room["room_id"] for room in client.get("/initialSync")["rooms"]},
    ]


def test_the_feature_is_named(alice: Any) -> None:
    assert alice.get("/_matrix/client/versions")["unstable_features"]["org.matrix.msc4155"] is True


@pytest.mark.parametrize("blocked", [{"blocked_users": ["@alice:*"]}, {"blocked_servers": ["*"]}])
def test_who_is_blocked_is_refused_however_they_invite(hearth: Any, alice: Any, bob: Any, blocked: Any) -> None:
    carol = hearth.register("carol")
    set_filter(bob, allowed_users=[carol.user_id], **blocked)
    room = alice.create_room()
    alice.invite(room, bob.user_id, expect="M_INVITE_BLOCKED")
    member = {"membership": "invite"}
    alice.set_state(room, "m.room.member", member, bob.user_id, expect="M_INVITE_BLOCKED")
    refused = alice.post("/createRoom", {"invite": [carol.user_id, bob.user_id]}, expect=403)
    assert refused["errcode"] == "M_INVITE_BLOCKED"
    alice.get("/rooms/{}/state/m.room.member/{}", at=[room, bob.user_id], expect=404)
    assert invited(bob) == [set()] * 3
    other = carol.create_room(invite=[bob.user_id])
    assert invited(bob) == [{other}] * 3
    set_filter(bob, enabled=False, **blocked)
    alice.invite(room, bob.user_id)
    assert invited(bob) == [{other, room}] * 3


@pytest.mark.parametrize("ignored", [{"ignored_users": ["@alice:*"]}, {"ignored_servers": ["*"]}])
def test_who_is_ignored_invites_and_nothing_is_told(hearth: Any, alice: Any, bob: Any, ignored: Any) -> None:
    set_filter(bob, blocked_servers=["*"], **ignored)
    since, pos = bob.sync(since=None)["next_batch"], bob.post(SLIDING, LISTS)["pos"]
    by_creation, by_invite = alice.create_room(invite=[bob.user_id]), alice.create_room()
    for _ in range(2):
        alice.invite(by_invite, bob.user_id)
    assert alice.get_state(by_invite, "m.room.member", bob.user_id)["membership"] == "invite"
    for _ in range(2):
        assert invited(bob) == [set()] * 3
        assert "invite" not in bob.sync(since=since).get("rooms", {})
        hearth.restart()
        alice.base_url = bob.base_url = hearth.url
    bob.post(SLIDING, LISTS, query={"pos": pos}, expect="M_UNKNOWN_POS")
    pos = bob.post(SLIDING, LISTS)["pos"]
    set_filter(bob)
    assert set(bob.post(SLIDING, LISTS, query={"pos": pos})["rooms"]) == {by_creation, by_invite}
    assert invited(bob) == [{by_creation, by_invite}] * 3
    bob.join(by_invite)


def test_an_invite_that_is_ignored_is_not_told_when_it_ends(alice: Any, bob: Any) -> None:
    set_filter(bob, ignored_users=[alice.user_id])
    pos = bob.post(SLIDING, LISTS)["pos"]
    room = alice.create_room(invite=[bob.user_id])
    alice.kick(room, bob.user_id)
    for told in (bob.post(SLIDING, LISTS, query={"pos": pos}), bob.post(SLIDING, LISTS)):
        assert told["rooms"] == {}


@pytest.mark.parametrize("kind", ["blocked", "ignored"])
def test_invites_from_before_are_not_told_any_more(alice: Any, bob: Any, kind: str) -> None:
    room = alice.create_room(invite=[bob.user_id])
    assert invited(bob) == [{room}] * 3
    set_filter(bob, **{f"{kind}_users": [alice.user_id]})
    assert invited(bob) == [set()] * 3
    set_filter(bob)
    assert invited(bob) == [{room}] * 3


def test_what_is_malformed_is_kept_and_not_heeded(alice: Any, bob: Any) -> None:
    set_filter(bob, blocked_users=["*"], allowed_servers=None)
    room = alice.create_room(invite=[bob.user_id])
    assert invited(bob) == [{room}] * 3
    kept = bob.get("/user/{}/account_data/{}", at=(bob.user_id, FILTER))
    assert kept == {"blocked_users": ["*"], "allowed_servers": None}


def test_more_than_is_heeded_is_refused(alice: Any, bob: Any) -> None:
    set_filter(bob, blocked_users=[alice.user_id])
    set_filter(bob, expect="M_INVALID_PARAM", blocked_users=[f"@u{n}:evil.example" for n in range(MAX_NAMES + 1)])
    set_filter(bob, expect="M_INVALID_PARAM", blocked_users=["*" * 5_000])
    alice.invite(alice.create_room(), bob.user_id, expect="M_INVITE_BLOCKED")
    elsewhere = {"blocked_users": ["*" * 5_000]}
    bob.put("/user/{}/rooms/{}/account_data/{}", elsewhere, at=(bob.user_id, bob.create_room(), FILTER))
