"""Rows of the log with all that followers need of them, read from the database: for what other processes wrote."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.versions import room_version
from homeserver.store.events import StoredEvent, chunked, load_events
from homeserver.store.log import LogRow, MembershipChange, StateDelta, load_rows
from homeserver.store.tables.rooms import rooms, state_deltas

_VERSIONS = select(rooms.c.room_id, rooms.c.version).where(rooms.c.room_id.in_(bindparam("ids", expanding=True)))
_DELTAS = select(state_deltas).where(
    state_deltas.c.room_id.in_(bindparam("ids", expanding=True)),
    state_deltas.c.position >= bindparam("first"),
    state_deltas.c.position <= bindparam("last"),
)


def load_whole_rows(conn: Connection, after: int, upto: int, limit: int) -> list[LogRow]:
    """The rows in (after, upto], at most `limit`, as the process that wrote them told its own followers."""
    rows = [row for row in load_rows(conn, after, limit) if row.position <= upto]
    of_events = [row for row in rows if row.kind == "event"]
    if not of_events:
        return rows
    room_ids = list({RoomId(row.key) for row in of_events})
    events = _load_events(conn, of_events, room_ids)
    deltas: dict[int, list[StateDelta]] = {}
    for chunk in chunked(room_ids):
        names = {"ids": list(chunk), "first": rows[0].position, "last": rows[-1].position}
        for delta in conn.execute(_DELTAS, names):
            found = StateDelta((delta.type, delta.state_key), delta.event_id, delta.prev_event_id)
            deltas.setdefault(delta.position, []).append(found)
    return [
        row
        if row.kind != "event"
        else evolve(
            row,
            event=events.get(row.data.get("event_id", "")),
            deltas=deltas.get(row.position, ()),
            membership=_membership(events.get(row.data.get("event_id", "")), deltas.get(row.position, ())),
        )
        for row in rows
    ]


def _load_events(conn: Connection, rows: Sequence[LogRow], room_ids: Sequence[RoomId]) -> dict[EventId, StoredEvent]:
    versions = {
        row[0]: room_version(row[1])
        for chunk in chunked(room_ids)
        for row in conn.execute(_VERSIONS, {"ids": list(chunk)})
    }
    ids = [EventId(row.data["event_id"]) for row in rows if "event_id" in row.data]
    return {event.event_id: event for event in load_events(conn, ids, versions)}


def _membership(event: StoredEvent | None, deltas: Sequence[StateDelta]) -> MembershipChange | None:
    """The membership that a member event gave, if it became the room's state."""
    if event is None or event.pdu.type != "m.room.member" or event.pdu.state_key is None:
        return None
    if not any(delta.event_id == event.event_id for delta in deltas):
        return None
    membership = event.pdu.content.get("membership")
    return MembershipChange(
        UserId(event.pdu.state_key),
        membership if isinstance(membership, str) else "leave",
        event.event_id,
        event.pdu.sender,
    )
