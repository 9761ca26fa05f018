"""The index for searches. What is stored already is put into it in the background: its cursor begins at 0.

`search_words` holds grams only (store/search_words.py), no texts: in SQLite as an FTS5 table without content, in PostgreSQL as
tsvectors without positions.
"""

from __future__ import annotations

from sqlalchemy import Connection

_ENTRIES = """
CREATE TABLE search_entries (
    nid BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    PRIMARY KEY (nid)
)
"""
_WORDS = {
    "sqlite": (
        """
CREATE VIRTUAL TABLE search_words USING fts5(
    words, content='', detail=none, columnsize=0, tokenize='ascii'
)
""",
    ),
    "postgresql": (
        """
CREATE TABLE search_words (
    nid BIGINT NOT NULL,
    words TSVECTOR NOT NULL,
    PRIMARY KEY (nid)
)
""",
        """CREATE INDEX search_words_words ON search_words USING gin (words)""",
    ),
}


def upgrade(connection: Connection) -> None:
    for statement in (_ENTRIES, *_WORDS[connection.dialect.name]):
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql("INSERT INTO cursors (name, position) VALUES ('search', 0)")
