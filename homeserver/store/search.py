"""The search index: texts by their grams, on SQLite (FTS5) and PostgreSQL (tsvector).

It is a cursor over the log: `index_events` puts in what the log has behind the cursor, and takes out what was redacted. So
sending an event costs nothing, many events go in at once, and what was stored before the index was there comes the same way.
Any process may do it: the cursor's row is locked meanwhile, as it is when the entries of a room are taken out. So nothing of
the room is on its way into the index then.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, insert, select, text, update

from homeserver.matrix.ids import EventId, RoomId
from homeserver.runtime.statement import Statement
from homeserver.store.events import chunked
from homeserver.store.log import load_head_position, save_cursor
from homeserver.store.search_words import SEARCHED, grams_of, room_mark, searched_text, sought_grams
from homeserver.store.tables.log import cursors, log
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.search import search_entries

CURSOR: Final = "search"
BATCH_ROWS: Final = 400  # of the log, in one transaction
# With more rooms than this a search looks at the entries of all rooms, and then at which room they are of.
MAX_MARKS: Final = 400

_REDACTION: Final = "m.room.redaction"


@frozen
class Hit:
    """An event that may contain what is searched. nid: hits of newer events have greater ones."""

    nid: int
    room_id: RoomId
    event_id: EventId


@frozen
class Entry:
    nid: int
    room_id: str
    event_id: str
    type: str
    grams: Sequence[str]


# -- filling it ------------------------------------------------------------------------------------------------------

_LOCK = (
    update(cursors).where(cursors.c.name == CURSOR).values(position=cursors.c.position).returning(cursors.c.position)
)
_NEW = (
    select(e.c.nid, e.c.room_id, e.c.event_id, e.c.type, e.c.json, e.c.rejected, e.c.redacted_by, log.c.data)
    .select_from(log.join(e, and_(e.c.room_id == log.c.key, e.c.nid == log.c.position)))
    .where(
        log.c.position > bindparam("after"),
        log.c.position <= bindparam("upto"),
        e.c.type.in_((*SEARCHED, _REDACTION)),
    )
)
_REDACTED = (
    select(e.c.nid, e.c.room_id, e.c.event_id, e.c.type, e.c.json)
    .select_from(search_entries.join(e, and_(e.c.room_id == search_entries.c.room_id, e.c.nid == search_entries.c.nid)))
    .where(e.c.event_id.in_(bindparam("ids", expanding=True)))
)
_OF_ROOM = (
    select(e.c.nid, e.c.room_id, e.c.event_id, e.c.type, e.c.json)
    .select_from(search_entries.join(e, and_(e.c.room_id == search_entries.c.room_id, e.c.nid == search_entries.c.nid)))
    .where(search_entries.c.room_id == bindparam("room_id"))
    .limit(bindparam("limit"))
)
_INSERT = Statement(insert(search_entries), "nid", "room_id", "event_id", "type")
_DELETE = text("DELETE FROM search_entries WHERE nid = :nid")
_INSERT_WORDS = {
    "sqlite": Statement(text("INSERT INTO search_words (rowid, words) VALUES (:nid, :words)")),
    "postgresql": Statement(
        text("INSERT INTO search_words (nid, words) VALUES (:nid, array_to_tsvector(string_to_array(:words, ' ')))")
    ),
}
# A table without content is told what it held, to take it out.
_DELETE_WORDS = {
    "sqlite": text("INSERT INTO search_words (search_words, rowid, words) VALUES ('delete', :nid, :words)"),
    "postgresql": text("DELETE FROM search_words WHERE nid = :nid"),
}


def index_events(conn: Connection) -> int:
    """Take in the next BATCH_ROWS rows of the log; how many are left behind them."""
    after: int = conn.execute(_LOCK).scalar_one()
    newest = load_head_position(conn)
    upto = min(newest, after + BATCH_ROWS)
    if upto > after:
        rows = conn.execute(_NEW, {"after": after, "upto": upto}).all()
        _save_entries(conn, [entry for row in rows if (entry := _new_entry(row)) is not None])
        _take_out(conn, [orjson.loads(row.data).get("redacts") for row in rows if row.type == _REDACTION])
        save_cursor(conn, CURSOR, upto)
    return newest - upto


def _new_entry(row: Any) -> Entry | None:
    if row.type not in SEARCHED or row.rejected is not None or row.redacted_by is not None:
        return None
    entry = _entry(row)
    return entry if entry.grams else None


def _entry(row: Any) -> Entry:
    grams = grams_of(searched_text(row.type, orjson.loads(row.json)["content"]))
    return Entry(row.nid, row.room_id, row.event_id, row.type, grams)


def _save_entries(conn: Connection, entries: Sequence[Entry]) -> None:
    columns = [{"nid": x.nid, "room_id": x.room_id, "event_id": x.event_id, "type": x.type} for x in entries]
    _INSERT.run_many(conn, columns)
    _INSERT_WORDS[conn.dialect.name].run_many(conn, [_words(entry) for entry in entries])


def _take_out(conn: Connection, redacted: Sequence[str | None]) -> None:
    ids = [event_id for event_id in redacted if event_id is not None]
    gone = [_entry(row) for chunk in chunked(ids) for row in conn.execute(_REDACTED, {"ids": list(chunk)})]
    if gone:
        conn.execute(_DELETE_WORDS[conn.dialect.name], [_words(entry) for entry in gone])
        conn.execute(_DELETE, [{"nid": entry.nid} for entry in gone])


def take_out_room(conn: Connection, room_id: RoomId, limit: int) -> int:
    """Take out the next entries of a room, at most `limit`; how many there were. Its events are still stored, and what deletes
    them in this transaction may be sure that none of them is just being put in."""
    conn.execute(_LOCK).scalar_one()
    found = [_entry(row) for row in conn.execute(_OF_ROOM, {"room_id": room_id, "limit": limit})]
    if found:
        conn.execute(_DELETE_WORDS[conn.dialect.name], [_words(entry) for entry in found])
        conn.execute(_DELETE, [{"nid": entry.nid} for entry in found])
    return len(found)


def _words(entry: Entry) -> dict[str, Any]:
    return {"nid": entry.nid, "words": " ".join([*entry.grams, room_mark(entry.room_id)])}


# -- asking it -------------------------------------------------------------------------------------------------------

_HITS = {
    "sqlite": text(
        "SELECT n.nid, n.room_id, n.event_id FROM search_words w JOIN search_entries n ON n.nid = w.rowid "
        "WHERE w.search_words MATCH :sought AND w.rowid < :before AND n.type IN :types AND n.room_id IN :rooms "
        "ORDER BY w.rowid DESC LIMIT :limit"
    ).bindparams(bindparam("types", expanding=True), bindparam("rooms", expanding=True)),
    "postgresql": text(
        "SELECT n.nid, n.room_id, n.event_id FROM search_words w JOIN search_entries n ON n.nid = w.nid "
        "WHERE w.words @@ CAST(:sought AS tsquery) AND w.nid < :before AND n.type IN :types AND n.room_id IN :rooms "
        "ORDER BY w.nid DESC LIMIT :limit"
    ).bindparams(bindparam("types", expanding=True), bindparam("rooms", expanding=True)),
}


def load_hits(
    conn: Connection,
    words: Sequence[str],
    rooms: Collection[RoomId],
    types: Collection[str],
    before: int,
    limit: int,
) -> list[Hit]:
    """Entries of the rooms that have the grams of all the words, the newest first.

    words: folded, at least one. Whether an event really contains them is still to be seen.
    """
    if not rooms or not types:
        return []
    quote, both, either, begins = _QUERY[conn.dialect.name]
    whole, beginnings = sought_grams(words)
    parts = [quote(gram) for gram in whole] + [begins(quote(gram)) for gram in beginnings]
    if len(rooms) <= MAX_MARKS:
        parts.append("(" + either.join(quote(room_mark(room_id)) for room_id in sorted(rooms)) + ")")
    names = {"sought": both.join(parts), "before": before, "types": list(types), "rooms": list(rooms), "limit": limit}
    return [Hit(*row) for row in conn.execute(_HITS[conn.dialect.name], names)]


def _quote_sqlite(gram: str) -> str:
    return '"' + gram.replace('"', '""') + '"'


def _quote_postgresql(gram: str) -> str:
    return "'" + gram.replace("\\", "\\\\").replace("'", "''") + "'"


# How a gram is quoted; "and"; "or"; how the beginning of a gram is written.
_QUERY: Final[dict[str, Any]] = {
    "sqlite": (_quote_sqlite, " AND ", " OR ", lambda quoted: quoted + " *"),
    "postgresql": (_quote_postgresql, " & ", " | ", lambda quoted: quoted + ":*"),
}
