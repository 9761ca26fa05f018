"""Keys of other servers, and our own that were in use before."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, select, text, tuple_

from homeserver.store.tables.federation import own_old_keys, server_key_documents, server_keys
from homeserver.store.upsert import insert_if_absent


@frozen
class ServerKeyRow:
    """A verify key; see the table for what `valid_until_ts_ms` means."""

    server: str
    key_id: str
    public_key: bytes
    valid_until_ts_ms: int
    is_old: bool


@frozen
class KeyDocumentRow:
    server: str
    document: bytes
    valid_until_ts_ms: int
    fetched_ts_ms: int


@frozen
class OwnOldKeyRow:
    key_id: str
    public_key: bytes
    expired_ts_ms: int


# A document that was fetched through a notary may be older than the one we have: a key in use is never cut short by it,
# while a key said to be old stays so.
_SAVE_KEY = text(
    """
    INSERT INTO server_keys (server, key_id, public_key, valid_until_ts_ms, is_old)
    VALUES (:server, :key_id, :public_key, :valid_until_ts_ms, :is_old)
    ON CONFLICT (server, key_id) DO UPDATE SET
        public_key = excluded.public_key,
        valid_until_ts_ms = excluded.valid_until_ts_ms,
        is_old = excluded.is_old
    WHERE excluded.is_old OR (NOT server_keys.is_old AND excluded.valid_until_ts_ms > server_keys.valid_until_ts_ms)
    """
)
_SAVE_DOCUMENT = text(
    """
    INSERT INTO server_key_documents (server, document, valid_until_ts_ms, fetched_ts_ms)
    VALUES (:server, :document, :valid_until_ts_ms, :fetched_ts_ms)
    ON CONFLICT (server) DO UPDATE SET
        document = excluded.document,
        valid_until_ts_ms = excluded.valid_until_ts_ms,
        fetched_ts_ms = excluded.fetched_ts_ms
    WHERE excluded.valid_until_ts_ms >= server_key_documents.valid_until_ts_ms
    """
)
_SAVE_OLD = insert_if_absent(own_old_keys)
_LOAD_DOCUMENTS = select(server_key_documents).where(
    server_key_documents.c.server.in_(bindparam("servers", expanding=True))
)
_PAIRS = 400


def load_server_keys(conn: Connection, wanted: Collection[tuple[str, str]]) -> list[ServerKeyRow]:
    """The keys of these (server, key id), as far as they are known."""
    pairs, rows = list(wanted), []
    pair = tuple_(server_keys.c.server, server_keys.c.key_id)
    for start in range(0, len(pairs), _PAIRS):  # databases bound the number of parameters
        query = select(server_keys).where(pair.in_(pairs[start : start + _PAIRS]))
        rows += [ServerKeyRow(*row) for row in conn.execute(query).all()]
    return rows


def save_key_documents(conn: Connection, documents: Sequence[KeyDocumentRow], keys: Sequence[ServerKeyRow]) -> None:
    """Servers in order, so that two processes can't wait for each other."""
    if documents:
        conn.execute(_SAVE_DOCUMENT, [asdict(row) for row in sorted(documents, key=lambda row: row.server)])
    if keys:
        conn.execute(_SAVE_KEY, [asdict(row) for row in sorted(keys, key=lambda row: (row.server, row.key_id))])


def load_key_documents(conn: Connection, servers: Collection[str]) -> list[KeyDocumentRow]:
    return [KeyDocumentRow(*row) for row in conn.execute(_LOAD_DOCUMENTS, {"servers": list(servers)}).all()]


def save_own_old_keys(conn: Connection, rows: Sequence[OwnOldKeyRow], current: str) -> None:
    """Those that are known already stay as they are; the current key is not old, though it may have been for a while."""
    conn.execute(delete(own_old_keys).where(own_old_keys.c.key_id == current))
    if rows:
        conn.execute(_SAVE_OLD, [asdict(row) for row in rows])


def load_own_old_keys(conn: Connection) -> list[OwnOldKeyRow]:
    return [OwnOldKeyRow(*row) for row in conn.execute(select(own_old_keys)).all()]
