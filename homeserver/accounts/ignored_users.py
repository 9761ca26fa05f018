"""Whom each user ignores.

Spec: client-server-api#ignoring-users
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.matrix.ids import UserId
from homeserver.runtime.db import Database
from homeserver.store.account_data import GLOBAL, load_account_data
from homeserver.store.log import LogRow

IGNORED_TYPE: Final = "m.ignored_user_list"
MAX_IGNORED_LISTS: Final = 50_000
NOBODY: Final[frozenset[str]] = frozenset()


@define(eq=False)
class IgnoredUsers:
    """Whom each user ignores, in memory; followed on the log."""

    database: Database
    _cache: FoldedCache[UserId, frozenset[str]] = field(factory=lambda: FoldedCache(MAX_IGNORED_LISTS), init=False)

    def get(self, user_id: UserId) -> frozenset[str] | None:
        return self._cache.get(user_id)

    async def load(self, user_id: UserId) -> frozenset[str]:
        known = self._cache.get(user_id)
        if known is not None:
            return known
        version = self._cache.version
        ignored = await self.database.read(load_ignored, user_id)
        self._cache.put(user_id, ignored, version)
        return ignored

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if is_new_list(row):
                self._cache.drop(UserId(row.key))


def is_new_list(row: LogRow) -> bool:
    """The row's user ignores others from now on."""
    return row.kind == "account_data" and row.data["type"] == IGNORED_TYPE


def load_ignored(conn: Connection, user_id: UserId) -> frozenset[str]:
    """Spec: client-server-api#mignored_user_list"""
    content = load_account_data(conn, user_id, GLOBAL, IGNORED_TYPE)
    parsed = orjson.loads(content) if content is not None else None
    users = parsed.get("ignored_users") if isinstance(parsed, dict) else None
    return frozenset(users) - {user_id} if isinstance(users, dict) else NOBODY
