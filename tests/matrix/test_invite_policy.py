"""Whose invites are allowed, ignored or blocked: which list decides, and what is heeded of the account data."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.invite_policy import (
    IGNORED_USERS,
    INVITE_FILTER,
    INVITE_PERMISSION,
    MAX_JUDGED,
    MAX_NAMES,
    MAX_PATTERN_LENGTH,
    check_invite_filter,
    parse_invite_policy,
)

BOB = "@bob:good.example"


def judge(content: Any, sender: str = BOB, **others: Any) -> str:
    return parse_invite_policy("@alice:here.example", {INVITE_FILTER: content, **others}).judge(sender).value


@pytest.mark.parametrize(
    ("content", "action"),
    [
        ({}, "allow"),
        ({"blocked_users": [BOB]}, "block"),
        ({"ignored_users": [BOB]}, "ignore"),
        ({"blocked_servers": ["good.example"]}, "block"),
        ({"ignored_servers": ["good.example"]}, "ignore"),
        ({"blocked_users": ["@eve:good.example"], "blocked_servers": ["evil.example"]}, "allow"),
        # The first list that matches decides, those of users before those of servers.
        ({"allowed_users": [BOB], "ignored_users": [BOB], "blocked_users": [BOB]}, "allow"),
        ({"ignored_users": [BOB], "blocked_users": [BOB]}, "ignore"),
        ({"blocked_users": [BOB], "allowed_servers": ["*"]}, "block"),
        ({"allowed_servers": ["good.example"], "ignored_servers": ["*"], "blocked_servers": ["*"]}, "allow"),
        ({"ignored_servers": ["good.example"], "blocked_servers": ["*"]}, "ignore"),
        # Patterns
        ({"blocked_users": ["*"]}, "block"),
        ({"blocked_users": ["@b?b:*"]}, "block"),
        ({"blocked_users": ["@bo"]}, "allow"),
        ({"blocked_users": ["@bo?"]}, "allow"),
        ({"blocked_servers": ["*.example"]}, "block"),
        ({"blocked_servers": ["?ood.exam*"]}, "block"),
        ({"blocked_servers": [BOB]}, "allow"),
        # Servers are compared without case, users with it.
        ({"blocked_servers": ["GOOD.Example"]}, "block"),
        ({"blocked_users": ["@BOB:good.example"]}, "allow"),
        # Off
        ({"enabled": True, "blocked_users": [BOB]}, "block"),
        ({"enabled": False, "blocked_users": [BOB]}, "allow"),
    ],
)
def test_the_first_list_that_matches_decides(content: Any, action: str) -> None:
    assert judge(content) == action


@pytest.mark.parametrize(
    ("sender", "entry"),
    [
        ("@bob:good.example:8448", "good.example"),
        ("@bob:[2001:db8::1]:8448", "[2001:db8::1]"),
        ("@bob:1.2.3.4:80", "1.2.3.?"),
        ("@bob:Good.Example", "good.example"),
    ],
)
def test_a_servers_port_does_not_matter(sender: str, entry: str) -> None:
    assert judge({"blocked_servers": [entry]}, sender) == "block"
    assert judge({"blocked_servers": [f"x{entry}"]}, sender) == "allow"


@pytest.mark.parametrize(
    "malformed",
    [
        {"allowed_users": None},
        {"ignored_servers": "x"},
        {"allowed_servers": ["x", 1]},
        {"ignored_users": {BOB: {}}},
        {"enabled": "no"},
        {"enabled": None},
        {"blocked_servers": [f"{n}.example" for n in range(MAX_NAMES + 1)]},
        {"blocked_servers": ["?" * (MAX_PATTERN_LENGTH + 1)]},
    ],
)
def test_what_is_malformed_or_too_much_counts_for_nothing(malformed: Any) -> None:
    assert judge({"blocked_users": [BOB]}) == "block"
    assert judge({"blocked_users": [BOB], **malformed}) == "allow"


@pytest.mark.parametrize("content", [None, [], "x", 1])
def test_what_is_no_object_counts_for_nothing(content: Any) -> None:
    assert judge(content, **{INVITE_PERMISSION: content, IGNORED_USERS: content}) == "allow"


def test_who_takes_no_invites_at_all_takes_none_of_those_allowed_either() -> None:
    block = {INVITE_PERMISSION: {"default_action": "block"}}
    assert judge({"allowed_users": [BOB], "ignored_users": [BOB]}, **block) == "block"
    assert judge({}, **{INVITE_PERMISSION: {"default_action": "other"}}) == "allow"


def test_who_is_ignored_altogether_does_not_learn_that_they_are_blocked() -> None:
    ignored = {IGNORED_USERS: {"ignored_users": {BOB: {}}}}
    assert judge({"allowed_users": [BOB], "blocked_users": [BOB]}, **ignored) == "ignore"
    assert judge({"blocked_users": ["*"]}, "@eve:evil.example", **ignored) == "block"


def test_the_bounds_are_told_to_whom_sets_more() -> None:
    names = [f"{n}.example" for n in range(MAX_NAMES)]
    patterns = ["*" + "a" * (MAX_PATTERN_LENGTH - 2), "?"]
    check_invite_filter({"blocked_servers": names, "allowed_users": patterns})
    assert judge({"blocked_servers": names, "allowed_users": patterns}, "@eve:7.example") == "block"
    with pytest.raises(InvalidParam):
        check_invite_filter({"blocked_servers": names, "ignored_servers": ["other.example"]})
    with pytest.raises(InvalidParam):
        check_invite_filter({"blocked_servers": patterns, "ignored_servers": ["*"]})
    check_invite_filter({"blocked_servers": None, "ignored_servers": names * 2})  # malformed: nothing is heeded


def test_names_that_nobody_can_have_are_passed_over() -> None:
    content = {"blocked_users": [f"@{'x' * 300}{n}:evil.example" for n in range(MAX_NAMES)] + [BOB]}
    check_invite_filter(content)
    assert judge(content) == "block"


def test_more_inviters_than_are_remembered_are_judged_alike() -> None:
    policy = parse_invite_policy("@alice:here.example", {INVITE_FILTER: {"blocked_users": ["@*0:*"]}})
    senders = [f"@user{n}:good.example" for n in range(2 * MAX_JUDGED)]
    for _ in range(2):
        assert [sender for sender in senders if policy.judge(sender).value == "block"] == senders[::10]
