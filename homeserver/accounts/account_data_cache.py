"""All that each user set as account data, in memory: every first response of a sync has it."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from homeserver.accounts.account_data import ACCOUNT_DATA, kind_changed_by
from homeserver.accounts.folded_cache import FoldedCache
from homeserver.matrix.ids import UserId
from homeserver.runtime.db import Database
from homeserver.store.account_data import AccountDataRow, load_account_data_between
from homeserver.store.log import LogRow

MAX_USERS = 2_000
# Of users with more than that none is kept.
MAX_BYTES_OF_USER = 16 * 1024
# What a row takes beside its content.
_BYTES_PER_ROW = 300


@define(eq=False)
class AccountDataCache:
    """Follows the log."""

    database: Database
    _cache: FoldedCache[UserId, Sequence[AccountDataRow]] = field(factory=lambda: FoldedCache(MAX_USERS), init=False)

    def get(self, user_id: UserId) -> Sequence[AccountDataRow] | None:
        """In the order in which it was set; None where that is not in memory."""
        return self._cache.get(user_id)

    async def load(self, user_id: UserId, after: int) -> Sequence[AccountDataRow]:
        """What was last set or removed behind a position."""
        version = self._cache.version
        rows = await self.database.read(load_account_data_between, user_id, after, 2**62)
        if after == 0 and sum(_BYTES_PER_ROW + len(row.content) for row in rows) <= MAX_BYTES_OF_USER:
            self._cache.put(user_id, rows, version)
        return rows

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            # "user": somebody is gone, and their data with them.
            if row.kind == "user" or kind_changed_by(row) == ACCOUNT_DATA:
                self._cache.drop(UserId(row.key))
