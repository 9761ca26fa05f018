"""Events as they are stored, and the statements that load them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, func, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.pdu import Pdu, load_pdu, redact_pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.runtime.statement import Statement
from homeserver.store.tables.rooms import events as e

# Above this many bound values a statement is split (SQLite's limit is 32766, PostgreSQL's 65535).
CHUNK = 900


class StoredEvent:
    """A PDU with what this server knows about it.

    `nid` and `timeline_order` are 0 until the log writer gives them (None order: an outlier).
    Everything but `redacted_by` and what is only in memory is constant once stored.
    """

    __slots__ = (
        "client_json",
        "follows_gap",
        "nid",
        "pdu",
        "push_outcome",
        "redacted_by",
        "rejected",
        "replaces",
        "sight",
        "snapshot_before",
        "soft_failed",
        "sticky_until_ms",
        "thread_root",
        "timeline_order",
        "txn_device_id",
        "txn_id",
    )

    def __init__(
        self,
        pdu: Pdu,
        *,
        nid: int = 0,
        timeline_order: int | None = 0,
        snapshot_before: int | None = None,
        rejected: str | None = None,
        soft_failed: bool = False,
        redacted_by: EventId | None = None,
        replaces: EventId | None = None,
        txn_device_id: str | None = None,
        txn_id: str | None = None,
        push_outcome: int = 0,
        thread_root: EventId | None = None,
        sight: str | None = None,
        follows_gap: bool = False,
    ) -> None:
        self.pdu = pdu
        self.nid = nid
        self.timeline_order = timeline_order
        self.snapshot_before = snapshot_before
        self.rejected = rejected
        self.soft_failed = soft_failed
        self.redacted_by = redacted_by
        self.replaces = replaces
        self.txn_device_id = txn_device_id
        self.txn_id = txn_id
        self.push_outcome = push_outcome
        self.thread_root = thread_root
        self.sight = sight
        # Events before it were missing when it came. It stays so when they are fetched: clients were told what followed.
        self.follows_gap = follows_gap
        # The event as clients get it, without room_id and unsigned, encoded once (rooms/client_events.py).
        self.client_json: bytes | None = None
        # Set where it is known when the event came: None does not say that it is not sticky.
        self.sticky_until_ms: int | None = None

    @property
    def event_id(self) -> EventId:
        return self.pdu.event_id

    @property
    def is_outlier(self) -> bool:
        """The event is known, but the state before it is not."""
        return self.snapshot_before is None

    @property
    def snapshot_after(self) -> int | None:
        """The snapshot of the state after the event; None for outliers."""
        if self.snapshot_before is None or self.pdu.state_key is None or self.rejected is not None:
            return self.snapshot_before
        return 2 * self.nid + 1

    @property
    def order(self) -> int:
        """The place in the timeline; only for events that have one."""
        assert self.timeline_order is not None
        return self.timeline_order

    def redact(self, redacted_by: EventId) -> None:
        """From now on the event is its redacted form."""
        self.redacted_by = redacted_by
        self.pdu = redact_pdu(self.pdu)
        self.client_json = self.sticky_until_ms = None

    def __repr__(self) -> str:
        return f"<StoredEvent {self.pdu.event_id} {self.pdu.type} at {self.timeline_order}>"


EVENT_COLUMNS = (
    e.c.event_id,
    e.c.json,
    e.c.nid,
    e.c.timeline_order,
    e.c.snapshot_before,
    e.c.rejected,
    e.c.soft_failed,
    e.c.redacted_by,
    e.c.replaces,
    e.c.txn_device_id,
    e.c.txn_id,
    e.c.push_outcome,
    e.c.thread_root,
    e.c.room_id,
    e.c.sight,
    e.c.follows_gap,
)


# A row of EVENT_COLUMNS. (SQLAlchemy types rows of up to ten columns.)
EventRow = Any
Peek = Callable[[EventId], StoredEvent | None]


def _stored(row: EventRow, version: RoomVersion) -> StoredEvent:
    pdu = load_pdu(row[1], version, row[0])
    return StoredEvent(
        pdu if row[7] is None else redact_pdu(pdu),
        nid=row[2],
        timeline_order=row[3],
        snapshot_before=row[4],
        rejected=row[5],
        soft_failed=bool(row[6]),
        redacted_by=row[7],
        replaces=row[8],
        txn_device_id=row[9],
        txn_id=row[10],
        push_outcome=row[11],
        thread_root=row[12],
        sight=row[14],
        follows_gap=bool(row[15]),
    )


def stored_events(rows: Iterable[EventRow], version: RoomVersion, peek: Peek | None = None) -> list[StoredEvent]:
    """peek: what memory has, which is taken in place of the row."""
    if peek is None:
        return [_stored(row, version) for row in rows]
    return [
        known if (known := peek(row[0])) is not None and not known.is_outlier else _stored(row, version) for row in rows
    ]


def chunked(values: Collection[Any], size: int = CHUNK) -> Iterable[Sequence[Any]]:
    values = list(values)
    for start in range(0, len(values), size):
        yield values[start : start + size]


_BY_ID = select(*EVENT_COLUMNS).where(e.c.event_id.in_(bindparam("ids", expanding=True)))


def load_events(conn: Connection, ids: Collection[EventId], versions: dict[RoomId, RoomVersion]) -> list[StoredEvent]:
    """Those of the events that are stored and whose room is in `versions`, in no order."""
    return [
        _stored(row, versions[row.room_id])
        for chunk in chunked(ids)
        for row in conn.execute(_BY_ID, {"ids": chunk})
        if row.room_id in versions
    ]


_ROOM_OF = select(e.c.event_id, e.c.room_id).where(e.c.event_id.in_(bindparam("ids", expanding=True)))


def load_rooms_of(conn: Connection, ids: Collection[EventId]) -> dict[EventId, RoomId]:
    """Event id -> room id, for those that are stored."""
    return {row[0]: row[1] for chunk in chunked(ids) for row in conn.execute(_ROOM_OF, {"ids": chunk})}


def _visible_in_timeline() -> Any:
    return and_(e.c.rejected.is_(None), e.c.soft_failed.is_(False))


def _page(backwards: bool) -> Statement:
    order = e.c.timeline_order
    statement = select(*EVENT_COLUMNS).where(
        e.c.room_id == bindparam("room_id"),
        order > bindparam("after"),
        order <= bindparam("upto"),
        _visible_in_timeline(),
    )
    return Statement(statement.order_by(order.desc() if backwards else order.asc()).limit(bindparam("limit")))


_PAGE_BACKWARDS = _page(True)
_PAGE_FORWARDS = _page(False)


def load_timeline(
    conn: Connection,
    room_id: RoomId,
    version: RoomVersion,
    after: int,
    upto: int,
    limit: int,
    backwards: bool,
    peek: Peek | None = None,
) -> list[StoredEvent]:
    """At most `limit` timeline events with after < timeline_order <= upto.

    Backwards begins at `upto` and gives the newest first; forwards begins after `after`, oldest first. peek: see stored_events.
    """
    page = _PAGE_BACKWARDS if backwards else _PAGE_FORWARDS
    rows = page.all(conn, {"room_id": room_id, "after": after, "upto": upto, "limit": limit})
    return stored_events(rows, version, peek)


def load_timelines(
    conn: Connection, rooms: Sequence[tuple[RoomId, RoomVersion, int, int]], limit: int
) -> dict[RoomId, list[StoredEvent]]:
    """For each (room, version, after, upto) its newest `limit` timeline events, oldest first.

    One indexed range read per room: a window function over all of them reads every room whole.
    """
    return {
        room_id: load_timeline(conn, room_id, version, after, upto, limit, True)[::-1]
        for room_id, version, after, upto in rooms
    }


def load_event_near(conn: Connection, room_id: RoomId, ts_ms: int, forwards: bool) -> tuple[EventId, int] | None:
    """The timeline event closest to ts_ms on the asked side: (event id, origin_server_ts)."""
    ts = e.c.origin_server_ts
    statement = (
        select(e.c.event_id, ts)
        .where(e.c.room_id == room_id, e.c.timeline_order.is_not(None), _visible_in_timeline())
        .where(ts >= ts_ms if forwards else ts <= ts_ms)
        .order_by(*((ts.asc(), e.c.timeline_order.asc()) if forwards else (ts.desc(), e.c.timeline_order.desc())))
        .limit(1)
    )
    row = conn.execute(statement).first()
    return (row[0], row[1]) if row else None


def load_latest_order(conn: Connection, room_id: RoomId, upto: int) -> int | None:
    """The order of the newest timeline event at or before `upto`."""
    return conn.execute(
        select(func.max(e.c.timeline_order)).where(e.c.room_id == room_id, e.c.timeline_order <= upto)
    ).scalar()
