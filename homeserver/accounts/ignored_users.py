"""Whom each user ignores, and whose invites they are not told of.

Spec: client-server-api#ignoring-users
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.matrix.ids import UserId
from homeserver.matrix.invite_policy import (
    IGNORED_USERS,
    INVITE_POLICY_TYPES,
    InviteAction,
    InvitePolicy,
    parse_ignored_users,
)
from homeserver.runtime.db import Database
from homeserver.store.account_data import GLOBAL, load_account_data
from homeserver.store.invite_policies import load_invite_policy
from homeserver.store.log import LogRow

MAX_IGNORED_LISTS: Final = 50_000
NOBODY: Final[frozenset[str]] = frozenset()


@frozen
class Unwanted:
    """Whom a user ignores, and whose invites they don't want."""

    policy: InvitePolicy

    @property
    def users(self) -> frozenset[str]:
        return self.policy.ignored_users

    def is_invite_of(self, sender: str) -> bool:
        """An invite of that sender is not for the user.

        Spec: client-server-api#invite-permission
        """
        return self.policy.judge(sender) is not InviteAction.ALLOW


@define(eq=False)
class IgnoredUsers:
    """Whom each user ignores, in memory; followed on the log."""

    database: Database
    _cache: FoldedCache[UserId, Unwanted] = field(factory=lambda: FoldedCache(MAX_IGNORED_LISTS), init=False)

    def get_unwanted(self, user_id: UserId) -> Unwanted | None:
        return self._cache.get(user_id)

    async def load_unwanted(self, user_id: UserId) -> Unwanted:
        known = self._cache.get(user_id)
        if known is not None:
            return known
        version = self._cache.version
        unwanted = await self.database.read(_load_unwanted, user_id)
        self._cache.put(user_id, unwanted, version)
        return unwanted

    async def load(self, user_id: UserId) -> frozenset[str]:
        return (await self.load_unwanted(user_id)).users

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == "account_data" and row.data["type"] in INVITE_POLICY_TYPES:
                self._cache.drop(UserId(row.key))


def is_new_list(row: LogRow) -> bool:
    """The row's user ignores others from now on."""
    return row.kind == "account_data" and row.data["type"] == IGNORED_USERS


def _load_unwanted(conn: Connection, user_id: UserId) -> Unwanted:
    return Unwanted(load_invite_policy(conn, user_id))


def load_ignored(conn: Connection, user_id: UserId) -> frozenset[str]:
    content = load_account_data(conn, user_id, GLOBAL, IGNORED_USERS)
    return parse_ignored_users(user_id, orjson.loads(content)) if content is not None else NOBODY
