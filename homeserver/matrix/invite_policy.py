"""Whose invites a user takes: three kinds of their account data, and one answer.

`m.invite_permission_config` can say that the user takes none at all. `org.matrix.msc4155.invite_permission_config` names users
and servers, also by patterns, whose invites are allowed, ignored or blocked (MSC4155). Those whom the user ignores
altogether are ignored here, too.

The patterns are the user's, and are matched against names that others choose; so there is a bound to them all together.
What says more than the bounds allow is not taken as account data; where it is there all the same, it counts for nothing, as
what is malformed does.

Spec: client-server-api#invite-permission
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final

from attrs import field, frozen

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import domain_of
from homeserver.matrix.patterns import TextTest, compile_glob, fold
from homeserver.matrix.server_acl import without_port

IGNORED_USERS: Final = "m.ignored_user_list"
INVITE_PERMISSION: Final = "m.invite_permission_config"
INVITE_FILTER: Final = "org.matrix.msc4155.invite_permission_config"
INVITE_POLICY_TYPES: Final = frozenset({IGNORED_USERS, INVITE_PERMISSION, INVITE_FILTER})

MAX_NAMES: Final = 1_000
# The characters of all patterns. PERF: the worst take 30 ms to compile and 0.5 ms to match, 60 usual ones 2 ms and 0.04 ms.
MAX_PATTERN_LENGTH: Final = 1_000
MAX_ID_LENGTH: Final = 255
MAX_JUDGED: Final = 1_000


class InviteAction(Enum):
    """ignore: the user is not told, and the inviter does not learn of it. block: the inviter is refused."""

    ALLOW = "allow"
    IGNORE = "ignore"
    BLOCK = "block"


@frozen
class _Rule:
    """Servers' names are compared without case and port, as in server ACLs; users' ids as they are."""

    action: InviteAction
    of_servers: bool
    names: frozenset[str]
    patterns: tuple[TextTest, ...]

    def matches(self, user_id: str, server: str) -> bool:
        text = server if self.of_servers else user_id
        return text in self.names or any(test(text) for test in self.patterns)


# In the order in which they are asked: the first that matches decides.
_LISTS: Final = tuple(
    (f"{action}_{kind}", InviteAction(verb), kind == "servers")
    for kind in ("users", "servers")
    for action, verb in (("allowed", "allow"), ("ignored", "ignore"), ("blocked", "block"))
)


@frozen(eq=False)
class InvitePolicy:
    """One user's. What was judged is remembered: a user may have many invites, and every sync asks of each."""

    ignored_users: frozenset[str] = frozenset()
    blocks_all: bool = False
    _rules: tuple[_Rule, ...] = ()
    _judged: dict[str, InviteAction] = field(factory=dict, init=False)

    def judge(self, sender: str) -> InviteAction:
        """What becomes of an invite of that user."""
        if self.blocks_all:
            return InviteAction.BLOCK
        if sender in self.ignored_users:
            return InviteAction.IGNORE
        if not self._rules:
            return InviteAction.ALLOW
        action = self._judged.get(sender)
        if action is None:
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            action = self._judged[sender] = self._judge(sender)
        return action

    def _judge(self, sender: str) -> InviteAction:
        server = without_port(fold(domain_of(sender)))
        matching = (rule.action for rule in self._rules if rule.matches(sender, server))
        return next(matching, InviteAction.ALLOW)


ANY_INVITE: Final = InvitePolicy()


def parse_invite_policy(user_id: str, contents: Mapping[str, object]) -> InvitePolicy:
    """The user's policy. contents: by type, what there is of INVITE_POLICY_TYPES, decoded."""
    permission = contents.get(INVITE_PERMISSION)
    ignored = parse_ignored_users(user_id, contents.get(IGNORED_USERS))
    blocks_all = isinstance(permission, dict) and permission.get("default_action") == "block"
    rules = _parse_rules(contents.get(INVITE_FILTER))
    return InvitePolicy(ignored, blocks_all, rules) if ignored or blocks_all or rules else ANY_INVITE


def parse_ignored_users(user_id: str, content: object) -> frozenset[str]:
    """Spec: client-server-api#mignored_user_list"""
    users = content.get("ignored_users") if isinstance(content, dict) else None
    return frozenset(users) - {user_id} if isinstance(users, dict) else frozenset()


def check_invite_filter(content: Mapping[str, Any]) -> None:
    """Raises: InvalidParam for one with more in it than is heeded."""
    lists = _parse_lists(content)
    if lists is None:
        return
    names, patterns = _sizes(lists)
    if names > MAX_NAMES:
        raise InvalidParam("content", f"more than {MAX_NAMES} users and servers")
    if patterns > MAX_PATTERN_LENGTH:
        raise InvalidParam("content", f"more than {MAX_PATTERN_LENGTH} characters of patterns")


def _parse_rules(content: object) -> tuple[_Rule, ...]:
    lists = _parse_lists(content) if isinstance(content, dict) and content.get("enabled", True) is True else None
    if lists is None:
        return ()
    names, patterns = _sizes(lists)
    if names > MAX_NAMES or patterns > MAX_PATTERN_LENGTH:
        return ()
    return tuple(
        _parse_rule(action, of_servers, entries)
        for (_, action, of_servers), entries in zip(_LISTS, lists, strict=True)
        if entries
    )


def _parse_rule(action: InviteAction, of_servers: bool, entries: frozenset[str]) -> _Rule:
    as_compared: Callable[[str], str] = fold if of_servers else str
    names = frozenset(as_compared(entry) for entry in entries if not _is_pattern(entry))
    patterns = tuple(compile_glob(as_compared(entry)) for entry in entries if _is_pattern(entry))
    return _Rule(action, of_servers, names, patterns)


def _parse_lists(content: Mapping[str, Any]) -> list[frozenset[str]] | None:
    """As _LISTS, without names that are too long to be anybody's; None where the whole is malformed."""
    lists = [content.get(name, []) for name, _, _ in _LISTS]
    if not all(isinstance(entries, list) and all(isinstance(entry, str) for entry in entries) for entries in lists):
        return None
    return [
        frozenset(entry for entry in entries if len(entry) <= MAX_ID_LENGTH or _is_pattern(entry)) for entries in lists
    ]


def _sizes(lists: list[frozenset[str]]) -> tuple[int, int]:
    """How many names there are, and the length of all patterns."""
    entries = [entry for one in lists for entry in one]
    patterns = [entry for entry in entries if _is_pattern(entry)]
    return len(entries) - len(patterns), sum(map(len, patterns))


def _is_pattern(entry: str) -> bool:
    return "*" in entry or "?" in entry
