"""Finding users, of this server and of others, by words of the rooms' members that follow what is written.

Spec: client-server-api#user-directory
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define
from sqlalchemy import Connection

from homeserver.matrix.ids import UserId
from homeserver.rooms.head import MEMBER
from homeserver.rooms.search_index import PAUSE_MS, SearchIndex
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.user_directory import FoundUser, has_wordless, load_matching_users

WAITS: Final = 20


@define(eq=False)
class UserDirectory:
    database: Database
    index: SearchIndex

    async def search(self, searcher: UserId, words: list[str], limit: int) -> Sequence[FoundUser]:
        """At most `limit` + 1; see load_matching_users."""
        found, is_whole = await self.database.read(_search, searcher, words, limit)
        if is_whole:
            return found
        await self._wait_whole()
        return (await self.database.read(_search, searcher, words, limit))[0]

    async def _wait_whole(self) -> None:
        """Until all members have words, or for a moment: others may be at the last of them, or there are very many."""
        await self.index.catch_up()
        for _ in range(WAITS):
            if not await self.database.read(has_wordless):
                return
            await self.index.clock.sleep(PAUSE_MS)


def _search(conn: Connection, searcher: UserId, words: list[str], limit: int) -> tuple[Sequence[FoundUser], bool]:
    """And whether all members were looked at."""
    is_whole = not has_wordless(conn)
    return load_matching_users(conn, searcher, words, limit), is_whole


def concerns_members(row: LogRow) -> bool:
    """Who is in a room changed, or by what name."""
    return row.membership is not None or any(delta.key[0] == MEMBER for delta in row.deltas)
