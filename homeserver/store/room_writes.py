"""Writing rooms: the statements behind the log writer's batches.

A `RoomWrite` is one or more events that go in together, with the head that they leave behind. Many of them, of many
rooms, are written by `write_rooms` in a fixed number of statements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

import orjson
from attrs import define, frozen
from sqlalchemy import Connection, bindparam, delete, insert, select, tuple_, update

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange, StateDelta
from homeserver.store.relations import save_relations
from homeserver.store.snapshots import Snapshot, save_snapshots
from homeserver.store.sticky import save_sticky
from homeserver.store.tables.rooms import (
    current_state,
    event_transactions,
    events,
    memberships,
    rooms,
    state_deltas,
)
from homeserver.store.upsert import upsert

# Positions that stay free before an event that follows a gap: places for what is missing, when somebody fetches it.
FREE_PLACES: Final = 1_000


@define
class NewEvent:
    """One event of a RoomWrite. `after` is `before` itself unless the event changed the state.

    redacts: the event that this one, a redaction with the power to, redacts. was_outlier: the event is stored already, and
    enters the timeline now. others: memberships that changed with it beside its own (a resolved fork), each a row of the
    log behind the event's.
    """

    event: StoredEvent
    before: Snapshot | None
    after: Snapshot | None
    deltas: Sequence[StateDelta] = ()
    membership: MembershipChange | None = None
    redacts: EventId | None = None
    was_outlier: bool = False
    others: Sequence[MembershipChange] = ()

    @property
    def size(self) -> int:
        return 1 + len(self.others)


@frozen
class Transaction:
    """A client's transaction: the same one again has the same answer."""

    user_id: UserId
    device_id: str
    scope: str


class Head(Protocol):
    """What a room's row keeps of its head (rooms/head.py)."""

    @property
    def number(self) -> int: ...
    @property
    def extremities(self) -> tuple[EventId, ...]: ...
    @property
    def depth(self) -> int: ...
    @property
    def joined(self) -> int: ...
    @property
    def snapshot(self) -> Snapshot: ...


@frozen(eq=False)
class RoomWrite:
    """Events that enter a room together, or not at all, and the head that they leave.

    base_version is the head version they were built on: 0 for a new room. `save` runs in the same transaction, for
    whatever else must be durable with them; it gets the first position. `unsaid`: memberships that change with no row of
    the log, those of other servers' users in a room that is joined. `state`: the room's state changed with no event;
    then `save_first` runs before anything else is written.
    """

    room_id: RoomId
    base_version: int
    events: Sequence[NewEvent]
    head: Head
    new_room: NewRoom | None = None
    transaction: Transaction | None = None
    save: Callable[[Connection, int], None] | None = None
    unsaid: Sequence[MembershipChange] = ()
    state: NewState | None = None
    save_first: Callable[[Connection], None] | None = None

    @property
    def new_version(self) -> int:
        return self.head.number

    @property
    def free(self) -> int:
        """How many positions before the first one stay free."""
        return FREE_PLACES if self.events and self.events[0].event.follows_gap else 0

    @property
    def size(self) -> int:
        """How many positions it has behind the free ones."""
        return sum(new.size for new in self.events) + (self.state.size if self.state is not None else 0)

    def place(self, first: int) -> Iterator[tuple[NewEvent, int]]:
        """The events, each with its position."""
        for new in self.events:
            yield new, first
            first += new.size


@frozen
class NewState:
    """Changes of a room's state: a row of the log, and behind it one for each membership of a local user."""

    deltas: Sequence[StateDelta]
    memberships: Sequence[MembershipChange]

    @property
    def size(self) -> int:
        return 1 + len(self.memberships)


@frozen
class NewRoom:
    version: str
    creator: UserId
    created_ts_ms: int
    is_public: bool


_VERSIONS = Statement(
    select(rooms.c.room_id, rooms.c.head_version)
    .where(OneOf(rooms.c.room_id, "ids"))
    .order_by(rooms.c.room_id)
    .with_for_update(),
    texts=["ids"],
)


def lock_heads(conn: Connection, room_ids: Sequence[RoomId]) -> dict[RoomId, int]:
    """Lock the rooms' heads, in ascending order; room id -> head version. A room that is not there is left out."""
    if not room_ids:
        return {}
    return {RoomId(room_id): version for room_id, version in _VERSIONS.all(conn, {"ids": list(room_ids)})}


_VERSION = Statement(select(rooms.c.head_version).where(rooms.c.room_id == bindparam("room_id")))


def load_head_version(conn: Connection, room_id: RoomId) -> int:
    """0 for a room that is not there."""
    row = _VERSION.first(conn, {"room_id": room_id})
    return row[0] if row is not None else 0


def load_transactions(conn: Connection, transactions: Sequence[Transaction]) -> dict[Transaction, EventId]:
    """Those of the transactions that were done before, with the event that they made."""
    t = event_transactions.c
    keys = [(x.user_id, x.device_id, x.scope) for x in transactions]
    rows = conn.execute(
        select(t.user_id, t.device_id, t.scope, t.event_id).where(tuple_(t.user_id, t.device_id, t.scope).in_(keys))
    )
    return {Transaction(row[0], row[1], row[2]): row[3] for row in rows}


def write_rooms(conn: Connection, writes: Sequence[tuple[RoomWrite, int]]) -> None:
    """Write all of the RoomWrites; each comes with its first position. Their heads are locked and compared already.

    Raises: sqlalchemy.exc.IntegrityError when a transaction id or an event was there before.
    """
    placed = [placed for write, first in writes for placed in write.place(first)]
    for new, position in placed:
        if not new.was_outlier:
            new.event.nid = position
        if new.event.timeline_order is not None:
            new.event.timeline_order = position
    for write, _ in writes:
        if write.save_first is not None:
            write.save_first(conn)
    _save_snapshots(conn, writes)
    save_events(conn, [new for new, _ in placed])
    _save_state(conn, placed, writes)
    _save_memberships(conn, writes)
    _save_heads(conn, [write for write, _ in writes])
    _save_transactions(conn, [write for write, _ in writes])
    save_relations(conn, [new.event for new, _ in placed])
    save_sticky(conn, [new.event for new, _ in placed])
    save_redactions(conn, [new for new, _ in placed if new.redacts is not None])
    for write, first in writes:
        if write.save is not None:
            write.save(conn, first)


def _save_snapshots(conn: Connection, writes: Sequence[tuple[RoomWrite, int]]) -> None:
    unsaved: dict[Snapshot, int] = {}
    for write, first in writes:
        for new, _ in write.place(first):
            add_unsaved(unsaved, new)
        add_unsaved_snapshot(unsaved, write.head.snapshot, -first)
    save_snapshots(conn, list(unsaved.items()))


def add_unsaved(unsaved: dict[Snapshot, int], new: NewEvent) -> None:
    """Add an event's unsaved snapshots with their ids: even before the event (a resolved fork), odd after it, and minus
    the position for the room's state where that is a resolution of several extremities."""
    add_unsaved_snapshot(unsaved, new.before, 2 * new.event.nid)
    add_unsaved_snapshot(unsaved, new.after, 2 * new.event.nid + 1)


def add_unsaved_snapshot(unsaved: dict[Snapshot, int], snapshot: Snapshot | None, snapshot_id: int) -> None:
    if snapshot is not None and snapshot.parent is not None:
        unsaved.setdefault(snapshot, snapshot_id)


_INSERT_EVENTS = Statement(
    insert(events),
    "room_id",
    "nid",
    "timeline_order",
    "event_id",
    "type",
    "state_key",
    "sender",
    "depth",
    "origin_server_ts",
    "json",
    "snapshot_before",
    "rejected",
    "soft_failed",
    "redacted_by",
    "replaces",
    "txn_device_id",
    "txn_id",
    "push_outcome",
    "thread_root",
    "sight",
    "follows_gap",
)
_UPDATE_EVENTS = (
    update(events)
    .where(events.c.room_id == bindparam("b_room_id"), events.c.nid == bindparam("b_nid"))
    .values(
        {
            name: bindparam(name)
            for name in (
                "timeline_order",
                "json",
                "snapshot_before",
                "rejected",
                "soft_failed",
                "redacted_by",
                "replaces",
                "push_outcome",
                "thread_root",
                "sight",
                "follows_gap",
            )
        }
    )
)
_FIXED = frozenset({"room_id", "nid", "event_id", "type", "state_key", "sender", "depth", "origin_server_ts"})
_LOCAL = frozenset({"txn_device_id", "txn_id"})


def save_events(conn: Connection, news: Sequence[NewEvent]) -> None:
    """Insert events, or complete those that were outliers."""
    _INSERT_EVENTS.run_many(conn, [_event_row(new) for new in news if not new.was_outlier])
    completed = [_event_row(new) for new in news if new.was_outlier]
    if completed:
        conn.execute(
            _UPDATE_EVENTS,
            [
                {"b_room_id": row["room_id"], "b_nid": row["nid"]}
                | {name: value for name, value in row.items() if name not in _FIXED and name not in _LOCAL}
                for row in completed
            ],
        )


def _event_row(new: NewEvent) -> dict[str, Any]:
    event = new.event
    pdu = event.pdu
    event.snapshot_before = new.before.snapshot_id if new.before is not None else None
    return {
        "room_id": pdu.room_id,
        "nid": event.nid,
        "timeline_order": event.timeline_order,
        "event_id": pdu.event_id,
        "type": pdu.type,
        "state_key": pdu.state_key,
        "sender": pdu.sender,
        "depth": pdu.depth,
        "origin_server_ts": pdu.origin_server_ts,
        "json": pdu.json_bytes,
        "snapshot_before": event.snapshot_before,
        "rejected": event.rejected,
        "soft_failed": event.soft_failed,
        "redacted_by": event.redacted_by,
        "replaces": event.replaces,
        "txn_device_id": event.txn_device_id,
        "txn_id": event.txn_id,
        "push_outcome": event.push_outcome,
        "thread_root": event.thread_root,
        "sight": event.sight,
        "follows_gap": event.follows_gap,
    }


_INSERT_DELTAS = Statement(
    insert(state_deltas), "room_id", "position", "type", "state_key", "event_id", "prev_event_id"
)
_DELETE_STATE = delete(current_state).where(
    current_state.c.room_id == bindparam("b_room_id"),
    current_state.c.type == bindparam("b_type"),
    current_state.c.state_key == bindparam("b_state_key"),
)


_SAVE_STATE = Statement(upsert(current_state, "room_id", "type", "state_key", "event_id"))
# A forgotten room stays forgotten through a ban, and comes back with an invite.
_SAVE_MEMBERSHIPS = Statement(
    upsert(
        memberships,
        forgotten="CASE WHEN excluded.membership IN ('leave', 'ban') THEN memberships.forgotten ELSE excluded.forgotten END",
    )
)


def _save_state(
    conn: Connection, placed: Sequence[tuple[NewEvent, int]], writes: Sequence[tuple[RoomWrite, int]]
) -> None:
    changed = [(new.event.pdu.room_id, nid, delta) for new, nid in placed for delta in new.deltas]
    changed += [
        (write.room_id, first, delta)
        for write, first in writes
        if write.state is not None
        for delta in write.state.deltas
    ]
    if not changed:
        return
    _INSERT_DELTAS.run_many(
        conn,
        [
            {
                "room_id": room_id,
                "position": nid,
                "type": delta.key[0],
                "state_key": delta.key[1],
                "event_id": delta.event_id,
                "prev_event_id": delta.prev_event_id,
            }
            for room_id, nid, delta in changed
        ],
    )
    newest = {(room_id, *delta.key): delta.event_id for room_id, _, delta in changed}
    taken = [
        {"room_id": key[0], "type": key[1], "state_key": key[2], "event_id": event_id}
        for key, event_id in newest.items()
        if event_id is not None
    ]
    gone = [
        {"b_room_id": key[0], "b_type": key[1], "b_state_key": key[2]}
        for key, event_id in newest.items()
        if event_id is None
    ]
    _SAVE_STATE.run_many(conn, taken)
    if gone:
        conn.execute(_DELETE_STATE, gone)


def _save_memberships(conn: Connection, writes: Sequence[tuple[RoomWrite, int]]) -> None:
    newest: dict[tuple[UserId, RoomId], tuple[MembershipChange, int]] = {}
    for write, first in writes:
        for change in write.unsaid:
            newest[change.user_id, write.room_id] = change, first
        for n, change in enumerate(write.state.memberships if write.state is not None else (), 1):
            newest[change.user_id, write.room_id] = change, first + n
        for new, position in write.place(first):
            if new.membership is not None:
                newest[new.membership.user_id, write.room_id] = new.membership, position
            for n, change in enumerate(new.others, 1):
                newest[change.user_id, write.room_id] = change, position + n
    save_memberships(conn, [(room_id, change, at) for (_, room_id), (change, at) in newest.items()])


def save_memberships(conn: Connection, changes: Sequence[tuple[RoomId, MembershipChange, int]]) -> None:
    """Write memberships of rooms, each with the position of its row; at most one for a user in a room."""
    _SAVE_MEMBERSHIPS.run_many(
        conn,
        [
            {
                "user_id": change.user_id,
                "room_id": room_id,
                "membership": change.membership,
                "event_id": change.event_id,
                "sender": change.sender,
                "position": position,
                "forgotten": False,
                "words": None,
            }
            for room_id, change, position in changes
        ],
    )


_UPDATE_HEAD = Statement(
    update(rooms)
    .where(rooms.c.room_id == bindparam("b_room_id"))
    .values(
        head_version=bindparam("b_head_version"),
        extremities=bindparam("b_extremities"),
        depth=bindparam("b_depth"),
        snapshot_id=bindparam("b_snapshot_id"),
        joined_members=bindparam("b_joined_members"),
    )
)
_HEAD_COLUMNS = ("head_version", "extremities", "depth", "snapshot_id", "joined_members")
_ROOM_COLUMNS = ("room_id", "version", "creator", "created_ts_ms", "is_public")
_INSERT_ROOMS = Statement(insert(rooms), *_ROOM_COLUMNS, *_HEAD_COLUMNS)


def _save_heads(conn: Connection, writes: Sequence[RoomWrite]) -> None:
    last = {write.room_id: write for write in writes}
    new = {write.room_id: write.new_room for write in writes if write.new_room is not None}
    inserted = []
    updated = []
    for room_id, write in last.items():
        head = {
            "head_version": write.new_version,
            "extremities": orjson.dumps(write.head.extremities).decode(),
            "depth": write.head.depth,
            "snapshot_id": write.head.snapshot.snapshot_id,
            "joined_members": write.head.joined,
        }
        if room_id in new:
            made = new[room_id]
            inserted.append(
                {
                    "room_id": room_id,
                    "version": made.version,
                    "creator": made.creator,
                    "created_ts_ms": made.created_ts_ms,
                    "is_public": made.is_public,
                    **head,
                }
            )
        else:
            updated.append({"b_room_id": room_id, **{f"b_{key}": value for key, value in head.items()}})
    _INSERT_ROOMS.run_many(conn, inserted)
    _UPDATE_HEAD.run_many(conn, updated)


_INSERT_TRANSACTIONS = Statement(insert(event_transactions), "user_id", "device_id", "scope", "event_id")


def _save_transactions(conn: Connection, writes: Sequence[RoomWrite]) -> None:
    rows = [
        {
            "user_id": write.transaction.user_id,
            "device_id": write.transaction.device_id,
            "scope": write.transaction.scope,
            "event_id": write.events[-1].event.event_id,
        }
        for write in writes
        if write.transaction is not None
    ]
    _INSERT_TRANSACTIONS.run_many(conn, rows)


_REDACT = (
    update(events)
    .where(
        events.c.room_id == bindparam("b_room_id"),
        events.c.event_id == bindparam("b_target"),
        events.c.redacted_by.is_(None),
    )
    .values(redacted_by=bindparam("b_redaction"))
)


def save_redactions(conn: Connection, redactions: Sequence[NewEvent]) -> None:
    """Mark what the redactions redact."""
    if redactions:
        conn.execute(
            _REDACT,
            [
                {"b_room_id": new.event.pdu.room_id, "b_target": new.redacts, "b_redaction": new.event.event_id}
                for new in redactions
            ],
        )
