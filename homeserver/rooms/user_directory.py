"""Finding users, of this server and of others, by words of the rooms' members that follow what is written.

Spec: client-server-api#user-directory
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.folds.reread import Reread
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.rooms.head import MEMBER
from homeserver.rooms.search_index import PAUSE_MS, SearchIndex
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.user_directory import OPENING, FoundUser, has_wordless, load_matching_users, load_open_rooms

WAITS: Final = 20


@define(eq=False)
class OpenRooms:
    """The rooms whose members everybody may know of, in memory from the first search on. Follows the log.

    Rejected: a column of the rooms, which every write to a room would have to keep.
    """

    server_name: ServerName
    database: Database
    _rooms: Reread[None, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._rooms = Reread(self._read, lambda rooms: orjson.dumps([*rooms]).decode())

    async def load(self) -> str:
        """Their ids as a JSON list, true at the time of the call."""
        return await self._rooms.load()

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        if self._rooms.known is not None:
            self._rooms.note_changed({RoomId(row.key) for row in rows if self._concerns(row)})

    def _concerns(self, row: LogRow) -> bool:
        change = row.membership
        if change is not None and domain_of(change.user_id) == self.server_name:
            return True
        return any(delta.key[0] in OPENING for delta in row.deltas)

    async def _read(self, among: Collection[RoomId] | None) -> Mapping[RoomId, None]:
        return dict.fromkeys(await self.database.read(load_open_rooms, among))


@define(eq=False)
class UserDirectory:
    database: Database
    index: SearchIndex
    open_rooms: OpenRooms

    async def search(self, searcher: UserId, words: list[str], limit: int) -> Sequence[FoundUser]:
        """At most `limit` + 1; see load_matching_users."""
        open_rooms = await self.open_rooms.load()
        found, is_whole = await self.database.read(_search, searcher, words, limit, open_rooms)
        if is_whole:
            return found
        await self._wait_whole()
        return (await self.database.read(_search, searcher, words, limit, open_rooms))[0]

    async def _wait_whole(self) -> None:
        """Until all members have words, or for a moment: others may be at the last of them, or there are very many."""
        await self.index.catch_up()
        for _ in range(WAITS):
            if not await self.database.read(has_wordless):
                return
            await self.index.clock.sleep(PAUSE_MS)


def _search(
    conn: Connection, searcher: UserId, words: list[str], limit: int, open_rooms: str
) -> tuple[Sequence[FoundUser], bool]:
    """And whether all members were looked at."""
    is_whole = not has_wordless(conn)
    return load_matching_users(conn, searcher, words, limit, open_rooms), is_whole


def concerns_members(row: LogRow) -> bool:
    """Who is in a room changed, or by what name."""
    return row.membership is not None or any(delta.key[0] == MEMBER for delta in row.deltas)
