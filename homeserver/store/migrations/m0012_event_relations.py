"""Relations between events, those that are stored already among them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, text

_STATEMENTS = (
    """
CREATE TABLE event_relations (
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    target_id TEXT NOT NULL,
    rel_type TEXT NOT NULL,
    nid BIGINT NOT NULL,
    PRIMARY KEY (room_id, event_id)
)
""",
    """CREATE INDEX event_relations_target ON event_relations (target_id, room_id, rel_type, nid)""",
)


_PAGE = 1000
_READ = text(
    "SELECT room_id, nid, event_id, json FROM events WHERE room_id > :room OR (room_id = :room AND nid > :nid) "
    "ORDER BY room_id, nid LIMIT :limit"
)
_INSERT = text(
    "INSERT INTO event_relations (room_id, event_id, target_id, rel_type, nid) "
    "VALUES (:room_id, :event_id, :target_id, :rel_type, :nid)"
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
    for row in _events(connection):
        relation = _relation(bytes(row.json))
        if relation is not None:
            names = {"room_id": row.room_id, "event_id": row.event_id, "nid": row.nid}
            connection.execute(_INSERT, {**names, "target_id": relation[0], "rel_type": relation[1]})


def _events(connection: Connection) -> Iterator[Any]:
    room, nid = "", -1
    while rows := connection.execute(_READ, {"room": room, "nid": nid, "limit": _PAGE}).all():
        yield from rows
        room, nid = rows[-1].room_id, rows[-1].nid


def _relation(pdu: bytes) -> tuple[str, str] | None:
    if b"m.relates_to" not in pdu:
        return None
    relation = json.loads(pdu)["content"].get("m.relates_to")
    if not isinstance(relation, dict):
        return None
    target, rel_type = relation.get("event_id"), relation.get("rel_type")
    for part in (target, rel_type):
        if not isinstance(part, str) or not 0 < len(part.encode("utf-8", "replace")) <= 255 or "\0" in part:
            return None
    return str(target), str(rel_type)
