"""Fetched history that is let go again: taken out of the timeline first, and deleted later.

What was before the first live event of a timeline has negative places there (rooms/ingest_history.py), so a room has more of it
than it may keep if there is an event below a certain place. Its oldest events become outliers: nobody reads them any more. The
events that follow them have a gap before them, as had the first event when this server came into the room.

Then those are deleted on which nothing rests. An event rests on the state before it, that is on a snapshot, its bases, and the
events that they name; and these on their auth events.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

import orjson
from attrs import frozen
from sqlalchemy import Connection, and_, bindparam, delete, exists, false, literal, select, update

from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.store.event_graph import load_auth_chain
from homeserver.store.events import chunked
from homeserver.store.tables.federated_rooms import event_gaps, waiting_redactions
from homeserver.store.tables.relations import event_relations
from homeserver.store.tables.rooms import events, memberships, reports, rooms, state_snapshots
from homeserver.store.tables.upkeep import trimmed_events
from homeserver.store.upsert import insert_if_absent, upsert

TRIMMED: Final = "history_trimmed"
"""Log rows: of the room's (key) fetched history something is deleted; whoever holds something of the room reads it anew."""

# How many of the events behind the trimmed ones are searched for those that name them.
FOLLOWERS: Final = 1_000

_e, _s, _t = events.c, state_snapshots.c, trimmed_events.c


# -- taking events out of the timeline -------------------------------------------------------------------------------


@frozen
class Cut:
    """The oldest events of a timeline, by place and nid. last: the place of the newest of them. gaps: for each event that will
    be missing then, who tells of it."""

    room_id: RoomId
    last: int
    event_ids: Sequence[EventId]
    nids: Sequence[int]
    gaps: Collection[tuple[EventId, EventId]]


def load_long_histories(conn: Connection, server: ServerName, before: int) -> list[RoomId]:
    """Rooms with an event before that place, in which there are users of other servers, who can tell it again."""
    has_more = exists().where(_e.room_id == rooms.c.room_id, _e.timeline_order < before)
    m = memberships.c
    has_others = exists().where(
        m.room_id == rooms.c.room_id, m.membership == "join", ~m.user_id.endswith(f":{server}", autoescape=True)
    )
    return list(conn.execute(select(rooms.c.room_id).where(has_more, has_others).order_by(rooms.c.room_id)).scalars())


_OLDEST = (
    select(_e.timeline_order, _e.event_id, _e.nid, _e.json)
    .where(_e.room_id == bindparam("room_id"), _e.timeline_order < bindparam("before"))
    .order_by(_e.timeline_order)
    .limit(bindparam("most"))
)
_FOLLOWERS = (
    select(_e.event_id, _e.json)
    .where(_e.room_id == bindparam("room_id"), _e.timeline_order > bindparam("after"))
    .order_by(_e.timeline_order)
    .limit(FOLLOWERS)
)


def load_cut(conn: Connection, room_id: RoomId, before: int, limit: int) -> Cut | None:
    """The room's oldest events, at most `limit`, not from that place on; None if there are none."""
    cut = conn.execute(_OLDEST, {"room_id": room_id, "before": before, "most": limit}).all()
    if not cut:
        return None
    last = cut[-1].timeline_order
    followers = conn.execute(_FOLLOWERS, {"room_id": room_id, "after": last}).all()
    if not followers:
        return None
    ids = {row.event_id for row in cut}
    gaps = {(prev_id, row.event_id) for row in followers for prev_id in _prev_events(row.json) if prev_id in ids}
    # Ends of forks that nobody near names, or only one who is not shown, are reached from the first event that stays.
    ends = ids - {prev_id for row in cut for prev_id in _prev_events(row.json)} - {missing_id for missing_id, _ in gaps}
    gaps |= {(missing_id, followers[0].event_id) for missing_id in ends}
    return Cut(room_id, last, [row.event_id for row in cut], [row.nid for row in cut], gaps)


def _prev_events(json: bytes) -> Iterator[EventId]:
    for reference in orjson.loads(json)["prev_events"]:
        yield EventId(reference if isinstance(reference, str) else reference[0])


_NOTE = upsert(trimmed_events)
_GAP = insert_if_absent(event_gaps)


def save_cut(conn: Connection, cut: Cut) -> None:
    """Take the events out of the timeline."""
    of_cut = and_(_e.room_id == cut.room_id, _e.timeline_order <= cut.last)
    conn.execute(_NOTE, [{"room_id": cut.room_id, "nid": nid, "is_swept": False} for nid in cut.nids])
    # Who tells them again may not know what was redacted.
    redacted = select(_e.room_id, _e.event_id, _e.redacted_by).where(of_cut, _e.redacted_by.is_not(None))
    waiting = [dict(zip(_WAITING, row, strict=True)) for row in conn.execute(redacted)]
    if waiting:
        conn.execute(insert_if_absent(waiting_redactions), waiting)
    conn.execute(update(events).where(of_cut).values(timeline_order=None, snapshot_before=None, sight=None))
    for chunk in chunked(cut.event_ids):
        for table in (event_relations, event_gaps):
            conn.execute(delete(table).where(table.c.room_id == cut.room_id, table.c.event_id.in_(chunk)))
    conn.execute(
        _GAP,
        [{"room_id": cut.room_id, "missing_id": missing, "event_id": event_id} for missing, event_id in cut.gaps],
    )


_WAITING = ("room_id", "target_id", "redaction_id")


# -- deleting them ---------------------------------------------------------------------------------------------------


@frozen
class Sweep:
    """What may be deleted of a room, by nid and snapshot id. returned: events that are in the timeline again."""

    room_id: RoomId
    nids: Sequence[int]
    snapshot_ids: Sequence[int]
    returned: Sequence[int]


def load_unswept_rooms(conn: Connection) -> list[RoomId]:
    statement = select(_t.room_id).where(_t.is_swept == false()).distinct().order_by(_t.room_id)
    return list(conn.execute(statement).scalars())


def load_sweep(conn: Connection, room_id: RoomId, server: ServerName) -> Sweep:
    """Looks at all snapshots of the room, and at all of its events. What local users sent, or reported, is kept."""
    joined = trimmed_events.outerjoin(events, and_(_e.room_id == _t.room_id, _e.nid == _t.nid))
    rows = conn.execute(
        select(_t.nid, _e.event_id, _e.timeline_order, _e.snapshot_before)
        .select_from(joined)
        .where(_t.room_id == room_id)
    ).all()
    trimmed = {
        row.nid
        for row in rows
        if row.event_id is not None and row.timeline_order is None and row.snapshot_before is None
    }
    steps = _load_steps(conn, room_id)
    possible = {snapshot_id for nid in trimmed for snapshot_id in (2 * nid, 2 * nid + 1)} & steps.keys()
    needed = _bases(steps, (steps.keys() - possible) | _load_used(conn, room_id))
    used = {abs(nid) for snapshot_id in needed for nid in steps[snapshot_id].nids}
    garbage = possible - needed
    # What stands in the states that go may have come with them, as an outlier.
    loose = (trimmed | {abs(nid) for snapshot_id in garbage for nid in steps[snapshot_id].nids}) - used
    return Sweep(
        room_id,
        _load_deletable(conn, room_id, loose, used, server) if loose else [],
        sorted(garbage),
        [row.nid for row in rows if row.nid not in trimmed],
    )


@frozen
class _Step:
    base_id: int | None
    nids: Sequence[int]


def _load_steps(conn: Connection, room_id: RoomId) -> dict[int, _Step]:
    rows = conn.execute(select(_s.snapshot_id, _s.base_id, _s.delta).where(_s.room_id == room_id))
    return {row.snapshot_id: _Step(row.base_id, memoryview(row.delta).cast("q")) for row in rows}


def _load_used(conn: Connection, room_id: RoomId) -> set[int]:
    """Snapshots before stored events, and that of the room."""
    before = select(_e.snapshot_before).where(_e.room_id == room_id, _e.snapshot_before.is_not(None)).distinct()
    head = select(rooms.c.snapshot_id).where(rooms.c.room_id == room_id)
    return {*conn.execute(before).scalars(), *conn.execute(head).scalars()}


def _bases(steps: Mapping[int, _Step], starts: Iterable[int]) -> set[int]:
    """The snapshots, and all that they rest on."""
    found: set[int] = set()
    for start in starts:
        step_id: int | None = start
        while step_id is not None and step_id not in found and step_id in steps:
            found.add(step_id)
            step_id = steps[step_id].base_id
    return found


def _load_deletable(
    conn: Connection, room_id: RoomId, loose: Collection[int], used: Collection[int], server: ServerName
) -> list[int]:
    in_states = [
        event_id
        for chunk in chunked(used)
        for event_id in conn.execute(select(_e.event_id).where(_e.room_id == room_id, _e.nid.in_(chunk))).scalars()
    ]
    chain = load_auth_chain(conn, room_id, in_states)
    reported = set(conn.execute(select(reports.c.event_id).where(reports.c.room_id == room_id)).scalars())
    found = [
        row
        for chunk in chunked(loose)
        for row in conn.execute(
            select(_e.nid, _e.event_id).where(
                _e.room_id == room_id,
                _e.nid.in_(chunk),
                _e.timeline_order.is_(None),
                _e.snapshot_before.is_(None),
                ~_e.sender.endswith(f":{server}", autoescape=True),
            )
        )
    ]
    return [row.nid for row in found if row.event_id not in chain and row.event_id not in reported]


def delete_trimmed_events(conn: Connection, room_id: RoomId, nids: Collection[int]) -> None:
    for chunk in chunked(nids):
        conn.execute(delete(events).where(_e.room_id == room_id, _e.nid.in_(chunk)))
        conn.execute(delete(trimmed_events).where(_t.room_id == room_id, _t.nid.in_(chunk)))


def delete_snapshots(conn: Connection, room_id: RoomId, snapshot_ids: Collection[int]) -> None:
    for chunk in chunked(snapshot_ids):
        conn.execute(delete(state_snapshots).where(_s.room_id == room_id, _s.snapshot_id.in_(chunk)))


def end_sweep(conn: Connection, sweep: Sweep) -> None:
    """What is still here stays."""
    for chunk in chunked(sweep.returned):
        conn.execute(delete(trimmed_events).where(_t.room_id == sweep.room_id, _t.nid.in_(chunk)))
    conn.execute(update(trimmed_events).where(_t.room_id == sweep.room_id).values(is_swept=literal(True)))
