"""The list of published rooms, in memory from the first time it is asked for.

The idea: a listing is a slice of a sorted list, so it costs the same with ten rooms and with ten thousand. The log says
which rooms may have changed; before the next listing those, and only those, are read again (folds/reread.py), in two
statements.

Rejected: a table of summaries (each topic is then written twice, and each join to a big room rewrites a row), and
summarising the page from the current state (a search reads the state of every published room).

Spec: client-server-api#get_matrixclientv3publicrooms
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import orjson
from attrs import define, field, frozen

from homeserver.folds.reread import Reread
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import RoomId
from homeserver.rooms.directory import DIRECTORY
from homeserver.rooms.head import MEMBER
from homeserver.rooms.summary import SUMMARISED_TYPES, published_room
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.public_rooms import PublicRoomRow, load_public_rooms

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 500
_CREATE = ("m.room.create", "")

# Rooms with many members first; the id makes the order one.
_Order = tuple[int, str]


@frozen
class Search:
    """What to list. room_types: those wanted, None among them for rooms without a type; None itself: all."""

    term: str | None = None
    room_types: Collection[str | None] | None = None
    network: str | None = None


@frozen
class Listing:
    chunk: Sequence[dict[str, Any]]
    total: int
    next_batch: str | None
    prev_batch: str | None


@frozen
class _Entry:
    order: _Order
    public: dict[str, Any]
    text: str

    def matches(self, search: Search, words: str) -> bool:
        if search.room_types is not None and self.public.get("room_type") not in search.room_types:
            return False
        return words in self.text


@define(eq=False)
class PublicRooms:
    """Lists published rooms. Follows the log."""

    database: Database
    _entries: Reread[_Entry, list[_Entry]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._entries = Reread(self._read, _sorted)

    async def load_page(self, search: Search, limit: int | None, since: str | None) -> Listing:
        """One page. Raises: InvalidParam for a limit below 0 or a token that is none of ours."""
        if limit is not None and limit < 0:
            raise InvalidParam("limit", "must not be negative")
        place = _parse_token(since) if since else None
        if search.network:  # no third-party network publishes rooms here
            return Listing((), 0, None, None)
        entries = await self._entries.load()
        if search.term or search.room_types is not None:
            words = (search.term or "").casefold()
            entries = [entry for entry in entries if entry.matches(search, words)]
        return _page(entries, min(limit or DEFAULT_LIMIT, MAX_LIMIT), place)

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        known = self._entries.known
        if known is not None:
            self._entries.note_changed({RoomId(row.key) for row in rows if _concerns(row, row.key in known)})

    async def _read(self, among: Collection[RoomId] | None) -> Mapping[RoomId, _Entry]:
        rows = await self.database.read(load_public_rooms, SUMMARISED_TYPES, among)
        return {row.room_id: _entry(row) for row in rows.values()}


def _concerns(row: LogRow, is_known: bool) -> bool:
    """What is listed of the row's room may be another one. is_known: it was listed before."""
    if row.kind == DIRECTORY:
        return True
    if row.kind != "event":
        return False
    if not is_known:
        return any(delta.key == _CREATE for delta in row.deltas)
    return "redacts" in row.data or any(
        delta.key[0] in SUMMARISED_TYPES or delta.key[0] == MEMBER for delta in row.deltas
    )


def _sorted(entries: Mapping[RoomId, _Entry]) -> list[_Entry]:
    listed = (entry for entry in entries.values() if entry.order[0])  # rooms with members
    return sorted(listed, key=lambda entry: entry.order)


def _entry(row: PublicRoomRow) -> _Entry:
    public = published_room(row.room_id, row.joined, row.contents)
    texts = (public.get(name, "") for name in ("name", "topic", "canonical_alias"))
    return _Entry((-row.joined, row.room_id), public, "\n".join(texts).casefold())


def _page(entries: list[_Entry], limit: int, place: tuple[_Order, bool] | None) -> Listing:
    start = 0
    if place is not None:
        order, backwards = place
        if backwards:
            start = max(0, bisect_left(entries, order, key=lambda entry: entry.order) - limit)
        else:
            start = bisect_right(entries, order, key=lambda entry: entry.order)
    page = entries[start : start + limit]
    more = start + limit < len(entries)
    return Listing(
        [entry.public for entry in page],
        len(entries),
        _token(page[-1].order, backwards=False) if page and more else None,
        _token(page[0].order, backwards=True) if page and start > 0 else None,
    )


def _token(order: _Order, *, backwards: bool) -> str:
    return urlsafe_b64encode(orjson.dumps([order[0], order[1], backwards])).decode().rstrip("=")


def _parse_token(token: str) -> tuple[_Order, bool]:
    try:
        joined, room_id, backwards = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except (binascii.Error, ValueError, TypeError):
        raise InvalidParam("since", "not a token of this server") from None
    if type(joined) is not int or not isinstance(room_id, str) or type(backwards) is not bool:
        raise InvalidParam("since", "not a token of this server")
    return (joined, room_id), backwards
