"""State at any event, in O(log n) bytes per change and O(log n) rows to read.

The idea is a Fenwick tree laid along each chain of states. A snapshot of height h (the h-th change of state on its
chain) stores the last lowbit(h) changes and names as its base the snapshot of height h - lowbit(h). So odd heights
store one change, every second one two, every fourth one four …: log2(n) entries of eight bytes per change on average,
and a snapshot is read by following at most log2(h) bases. A snapshot of m changes at once (a resolved fork, the state
of a room that is joined) takes the next height that is a multiple of the power of two above m: so it is copied on into
later deltas only after m more changes. An entry is the nid of the state event that took its key, or minus the nid of the
event whose key was removed (only state resolution does that). Forks simply branch: a snapshot may be the base of many.

Rejected: a full map per event (a room's size for each change), chains with a hop limit (long walks, and full copies at
the limit), persistent tries (four 128-byte nodes per change, hundreds of rows to read a large room).
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from typing import Any

from attrs import frozen
from sqlalchemy import Connection, bindparam, insert, literal_column, select

from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import StateKey
from homeserver.runtime.statement import Statement
from homeserver.store.events import StoredEvent, chunked
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import state_snapshots as s


@frozen(eq=False)
class Removal:
    """A key loses its event, which may not be stored yet."""

    event: StoredEvent


# What a change names: an event that takes its key (maybe not stored yet), or minus the nid of a removed one.
Change = StoredEvent | Removal | int


class Snapshot:
    """A state of a room. Made unsaved, as `parent` plus `changes`; gets its id and delta from the log writer."""

    __slots__ = ("base", "changes", "delta", "height", "parent", "room_id", "snapshot_id")

    def __init__(
        self,
        room_id: RoomId,
        *,
        snapshot_id: int = 0,
        parent: Snapshot | None = None,
        changes: Sequence[Change] = (),
    ) -> None:
        self.room_id = room_id
        self.snapshot_id = snapshot_id
        self.parent = parent
        self.changes = changes
        self.height = 0  # 0 with a snapshot_id: not loaded yet
        self.base: Snapshot | None = None
        self.delta = b""

    def settle(self) -> None:
        """Let go of what was only needed to save it; called after the commit."""
        self.parent = None
        self.changes = ()


def empty_snapshot(room_id: RoomId) -> Snapshot:
    """The state before the create event."""
    return Snapshot(room_id)


def _nid(change: Change) -> int:
    if isinstance(change, Removal):
        return -change.event.nid
    return change if isinstance(change, int) else change.nid


def _lay(snapshot: Snapshot, parent: Snapshot) -> None:
    """Work out height, base and delta of a snapshot whose parent is laid already."""
    step = 1 << max(0, len(snapshot.changes) - 1).bit_length()
    height = (parent.height // step + 1) * step
    floor = height - (height & -height)
    parts = []
    node: Snapshot | None = parent
    while node is not None and node.height > floor:
        parts.append(node.delta)
        node = node.base
    snapshot.height = height
    snapshot.base = node if floor else None
    own = array("q", [_nid(change) for change in snapshot.changes]).tobytes()
    snapshot.delta = b"".join([*reversed(parts), own])


def save_snapshots(conn: Connection, snapshots: Sequence[tuple[Snapshot, int]]) -> None:
    """Save unsaved snapshots under the given ids; parents stand before their children in the sequence."""
    for snapshot, snapshot_id in snapshots:
        parent = snapshot.parent
        assert parent is not None
        if parent.snapshot_id and not parent.height:
            _load_path(conn, parent)
        _lay(snapshot, parent)
        snapshot.snapshot_id = snapshot_id
    _INSERT.run_many(conn, [_row(snapshot) for snapshot, _ in snapshots])


_INSERT = Statement(insert(s), "room_id", "snapshot_id", "height", "base_id", "delta")


def _row(snapshot: Snapshot) -> dict[str, object]:
    return {
        "room_id": snapshot.room_id,
        "snapshot_id": snapshot.snapshot_id,
        "height": snapshot.height,
        "base_id": snapshot.base.snapshot_id if snapshot.base else None,
        "delta": snapshot.delta,
    }


def _path_statement() -> object:
    start = (
        select(s.c.snapshot_id, s.c.height, s.c.base_id, s.c.delta)
        .where(s.c.room_id == bindparam("room_id"), s.c.snapshot_id == bindparam("snapshot_id"))
        .cte("path", recursive=True)
    )
    step = select(s.c.snapshot_id, s.c.height, s.c.base_id, s.c.delta).where(
        s.c.room_id == bindparam("room_id"), s.c.snapshot_id == start.c.base_id
    )
    path = start.union_all(step)
    return select(path).order_by(literal_column("height").desc())


_PATH = _path_statement()


def _load_path(conn: Connection, snapshot: Snapshot) -> None:
    """Fill in a snapshot that is known by its id alone, and its bases down to the first."""
    parameters = {"room_id": snapshot.room_id, "snapshot_id": snapshot.snapshot_id}
    node = snapshot
    for row in conn.execute(_PATH, parameters):  # type: ignore[call-overload]  # recursive CTE, untyped
        if row.snapshot_id != node.snapshot_id:
            node.base = Snapshot(snapshot.room_id, snapshot_id=row.snapshot_id)
            node = node.base
        node.height = row.height
        node.delta = row.delta


_THERE = select(s.c.snapshot_id).where(s.c.room_id == bindparam("room_id"), s.c.snapshot_id == bindparam("snapshot_id"))


def has_snapshot(conn: Connection, room_id: RoomId, snapshot_id: int) -> bool:
    return conn.execute(_THERE, {"room_id": room_id, "snapshot_id": snapshot_id}).first() is not None


def load_state_nids(conn: Connection, room_id: RoomId, snapshot_id: int) -> list[int]:
    """The changes that make up a state, oldest first; later ones override."""
    if not snapshot_id:
        return []
    top = Snapshot(room_id, snapshot_id=snapshot_id)
    _load_path(conn, top)
    deltas = []
    node: Snapshot | None = top
    while node is not None:
        deltas.append(node.delta)
        node = node.base
    nids = array("q")
    nids.frombytes(b"".join(reversed(deltas)))
    return list(nids)


@frozen(eq=False)
class Step:
    """What a snapshot has of its own: the changes to the state of its base, oldest first; no base: to no state at all."""

    base_id: int | None
    nids: Sequence[int]


def _steps_statement() -> Any:
    start = (
        select(s.c.snapshot_id, s.c.base_id)
        .where(s.c.room_id == bindparam("room_id"), s.c.snapshot_id.in_(bindparam("ids", expanding=True)))
        .cte("steps", recursive=True)
    )
    bases = select(s.c.snapshot_id, s.c.base_id).where(
        s.c.room_id == bindparam("room_id"), s.c.snapshot_id == start.c.base_id
    )
    steps = start.union(bases)
    return select(s.c.snapshot_id, s.c.base_id, s.c.delta).where(
        s.c.room_id == bindparam("room_id"), s.c.snapshot_id == steps.c.snapshot_id
    )


_STEPS = _steps_statement()


def load_steps(conn: Connection, room_id: RoomId, snapshot_ids: Collection[int]) -> dict[int, Step]:
    """The snapshots, and all that they rest on. States near each other share nearly all of it, and it is read once."""
    steps = {}
    for chunk in chunked({snapshot_id for snapshot_id in snapshot_ids if snapshot_id}):
        for snapshot_id, base_id, delta in conn.execute(_STEPS, {"room_id": room_id, "ids": chunk}):
            steps[snapshot_id] = Step(base_id, memoryview(delta).cast("q"))
    return steps


_KEYS = select(e.c.nid, e.c.type, e.c.state_key, e.c.event_id).where(
    e.c.room_id == bindparam("room_id"), e.c.nid.in_(bindparam("nids", expanding=True))
)


_NIDS = select(e.c.event_id, e.c.nid).where(e.c.event_id.in_(bindparam("ids", expanding=True)))


def load_nids(conn: Connection, event_ids: Collection[EventId]) -> dict[EventId, int]:
    """The nids of those of the events that are stored."""
    return {row[0]: row[1] for chunk in chunked(event_ids) for row in conn.execute(_NIDS, {"ids": chunk})}


_ACCEPTED = select(e.c.event_id, e.c.type, e.c.state_key, e.c.nid).where(
    e.c.event_id.in_(bindparam("ids", expanding=True)),
    e.c.room_id == bindparam("room_id"),
    e.c.state_key.is_not(None),
    e.c.rejected.is_(None),
)


def load_accepted_state(
    conn: Connection, room_id: RoomId, event_ids: Collection[EventId]
) -> dict[EventId, tuple[StateKey, int]]:
    """Key and nid of those that are stored state events of the room, and not rejected."""
    return {
        row[0]: ((row[1], row[2]), row[3])
        for chunk in chunked(event_ids)
        for row in conn.execute(_ACCEPTED, {"ids": chunk, "room_id": room_id})
    }


def load_state(conn: Connection, room_id: RoomId, snapshot_id: int) -> dict[StateKey, EventId]:
    """The whole state that a snapshot stands for."""
    nids = load_state_nids(conn, room_id, snapshot_id)
    named: dict[int, tuple[StateKey, EventId]] = {}
    for chunk in chunked({abs(nid) for nid in nids}):
        for nid, type_, state_key, event_id in conn.execute(_KEYS, {"room_id": room_id, "nids": chunk}):
            named[nid] = ((type_, state_key), event_id)
    state: dict[StateKey, EventId] = {}
    for nid in nids:
        key, event_id = named[abs(nid)]
        if nid > 0:
            state[key] = event_id
        else:
            state.pop(key, None)
    return state
