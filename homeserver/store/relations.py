"""Relations between the events of a room: pages of them, and what is told of them beside the event they are about."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen
from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    false,
    func,
    insert,
    literal,
    or_,
    select,
)

from homeserver.matrix.canonical import decode_json
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.relations import ANNOTATION, REFERENCE, REPLACE, THREAD, relation_of
from homeserver.runtime.statement import OneOf, Statement
from homeserver.store.events import StoredEvent, chunked
from homeserver.store.tables.relations import event_relations as r
from homeserver.store.tables.rooms import events as e

MAX_RECURSION = 3
MAX_REFERENCES = 100
# Parts of a room's history that a reader may see, of which the newest are looked at.
MAX_SPANS = 100

# (from this place of the timeline, up to before that one), ascending.
Spans = Sequence[tuple[int, int]]
EVERYTHING: Mapping[RoomId, Spans] = {}

_INSERT = insert(r)
_TARGETS = Statement(
    select(r.c.room_id, r.c.target_id).where(
        OneOf(r.c.target_id, "ids"), or_(*(r.c.rel_type == type_ for type_ in (REPLACE, REFERENCE, THREAD)))
    ),
    texts=("ids",),
)
_SAME = and_(e.c.room_id == r.c.room_id, e.c.nid == r.c.nid)
_JOINED = r.join(e, _SAME)
_THERE = (
    e.c.timeline_order.is_not(None),
    e.c.rejected.is_(None),
    e.c.soft_failed.is_(False),
    e.c.redacted_by.is_(None),
)


@frozen
class RelatedEvent:
    """An event that relates to another. order: its place in the timeline."""

    event_id: EventId
    order: int


@frozen
class RelatedFilter:
    """Which of the related events are wanted; those in (low, high] of the timeline. None: whatever it is."""

    rel_type: str | None
    event_type: str | None
    low: int | None
    high: int | None
    backwards: bool

    def conditions(self, related: CTE) -> list[ColumnElement[bool]]:
        of = related.c
        found = [] if self.rel_type is None else [of.rel_type == self.rel_type]
        found += [] if self.event_type is None else [of.type == self.event_type]
        found += [] if self.low is None else [of.timeline_order > self.low]
        return found + ([] if self.high is None else [of.timeline_order <= self.high])

    def behind(self, order: int) -> RelatedFilter:
        """What comes behind an event that was found."""
        return evolve(self, high=order - 1) if self.backwards else evolve(self, low=order)


@frozen
class Bundle:
    """What is told with an event. edits: candidates, by its sender, newest first. thread_aside: the newest of the thread's
    events that say themselves who sees them (StoredEvent.sight); they are neither counted, nor the latest."""

    edits: Sequence[EventId] = ()
    references: Sequence[EventId] = ()
    thread_count: int = 0
    thread_latest: EventId | None = None
    thread_aside: Sequence[EventId] = ()
    participated: bool = False

    def without_thread(self) -> Bundle:
        return Bundle(self.edits, self.references)


@frozen
class ThreadRow:
    """A thread: its root, and the place of its newest event."""

    root: EventId
    latest: int


def save_relations(conn: Connection, events: Collection[StoredEvent]) -> None:
    rows = [row for event in events if "m.relates_to" in event.pdu.content and (row := _row(event)) is not None]
    if rows:
        conn.execute(_INSERT, rows)


def _row(event: StoredEvent) -> dict[str, Any] | None:
    relation = relation_of(event.pdu.content)
    if relation is None:
        return None
    return {
        "room_id": event.pdu.room_id,
        "event_id": event.event_id,
        "target_id": relation.target,
        "rel_type": relation.rel_type,
        "nid": event.nid,
    }


def load_related(
    conn: Connection, room_id: RoomId, target: EventId, depth: int, wanted: RelatedFilter, limit: int
) -> list[RelatedEvent]:
    """The first of what relates to the event, directly or (depth > 1) by way of others, in the order that is wanted."""
    columns = (r.c.room_id, r.c.event_id, e.c.timeline_order, r.c.rel_type, e.c.type)
    of_target = select(*columns, literal(1).label("depth")).select_from(_JOINED)
    level = of_target.where(r.c.room_id == room_id, r.c.target_id == target, *_THERE).cte("level", recursive=depth > 1)
    if depth > 1:
        # By the room of what is found, not by the room's id: SQLite would go through all relations of the room for each.
        of_level = and_(r.c.target_id == level.c.event_id, r.c.room_id == level.c.room_id)
        by_level = level.join(r, of_level).join(e, _SAME)
        further = select(*columns, level.c.depth + 1).select_from(by_level)
        level = level.union(further.where(level.c.depth < depth, *_THERE))
    order = level.c.timeline_order.desc() if wanted.backwards else level.c.timeline_order
    found = select(level.c.event_id, level.c.timeline_order).where(*wanted.conditions(level)).order_by(order)
    return [RelatedEvent(*row) for row in conn.execute(found.distinct().limit(limit))]


_ANNOTATIONS = Statement(
    select(e.c.json)
    .select_from(_JOINED)
    .where(
        r.c.room_id == bindparam("room_id"),
        r.c.target_id == bindparam("target"),
        r.c.rel_type == ANNOTATION,
        e.c.sender == bindparam("sender"),
        e.c.type == bindparam("type"),
        *_THERE,
    )
)


def load_annotation_keys(conn: Connection, room_id: RoomId, target: EventId, sender: UserId, type: str) -> set[str]:
    """By which the user has annotated an event with events of that type."""
    rows = _ANNOTATIONS.all(conn, {"room_id": room_id, "target": target, "sender": sender, "type": type})
    keys = (decode_json(bytes(encoded))["content"]["m.relates_to"].get("key") for (encoded,) in rows)
    return {key for key in keys if isinstance(key, str)}


def load_related_by(
    conn: Connection,
    room_id: RoomId,
    ids: Sequence[EventId],
    rel_types: Collection[str] | None,
    senders: Collection[str] | None,
    upto: int | None,
) -> set[EventId]:
    """Those of the events to which another, not behind `upto`, relates: one of these types, by one of these senders."""
    wanted: list[ColumnElement[bool]] = [r.c.room_id == room_id, *_THERE]
    if rel_types is not None:
        wanted.append(r.c.rel_type.in_(rel_types))
    if senders is not None:
        wanted.append(e.c.sender.in_(senders))
    if upto is not None:
        wanted.append(e.c.timeline_order <= upto)
    return {
        target
        for chunk in chunked(ids)
        for (target,) in conn.execute(
            select(r.c.target_id).distinct().select_from(_JOINED).where(r.c.target_id.in_(chunk), *wanted)
        )
    }


def load_bundles(
    conn: Connection,
    wanted: Collection[tuple[RoomId, EventId]],
    reader: UserId,
    ignored: Collection[str],
    seen: Mapping[RoomId, Spans] = EVERYTHING,
) -> dict[EventId, Bundle]:
    """Of those of the events that something relates to. ignored: the users whose events are not for the reader. seen: what
    they see of the timelines of rooms; all of it, where it isn't said."""
    bundles: dict[EventId, Bundle] = {}
    asked = set(wanted)
    # Few of many events have any relations: those are found first.
    for chunk in chunked([event_id for _, event_id in wanted], 1000):
        for room_id, target in asked.intersection(_TARGETS.all(conn, {"ids": list(chunk)})):
            there = _told(ignored, seen.get(room_id))
            bundles[target] = _load_bundle(conn, room_id, target, reader, there)
    return bundles


def _told(ignored: Collection[str], spans: Spans | None) -> list[ColumnElement[bool]]:
    """Of events that there are, those of nobody who is ignored, in these parts of the timeline; None for all of it."""
    there: list[ColumnElement[bool]] = [*_THERE]
    if ignored:
        there.append(e.c.sender.not_in(ignored))
    if spans is not None:
        there.append(or_(e.c.sight.is_not(None), _within(spans)))
    return there


def _within(spans: Spans) -> ColumnElement[bool]:
    order = e.c.timeline_order
    return or_(false(), *(and_(order >= low, order < high) for low, high in spans[-MAX_SPANS:]))


def _load_bundle(
    conn: Connection, room_id: RoomId, target: EventId, reader: UserId, there: Sequence[ColumnElement[bool]]
) -> Bundle:
    def related(rel_type: str) -> Select[Any]:
        """Newest first."""
        of_type = (r.c.room_id == room_id, r.c.target_id == target, r.c.rel_type == rel_type)
        found = select(r.c.event_id).select_from(_JOINED).where(*of_type, *there)
        return found.order_by(e.c.timeline_order.desc())

    target_event = e.alias("target")
    edited = (target_event.c.room_id == room_id, target_event.c.event_id == target)
    # Of others none is valid, and however many they send, they hide none that is.
    by_author = e.c.sender == select(target_event.c.sender).where(*edited).scalar_subquery()
    edits = conn.scalars(related(REPLACE).where(by_author).limit(MAX_REFERENCES)).all()
    references = conn.scalars(related(REFERENCE).limit(MAX_REFERENCES)).all()
    of_thread = (r.c.room_id == room_id, r.c.target_id == target, r.c.rel_type == THREAD, *there)
    counts = select(func.count(), func.count(e.c.sight)).select_from(_JOINED).where(*of_thread)
    count, aside = conn.execute(counts).one()
    if not count:
        return Bundle(edits, references[::-1])
    latest = conn.scalar(related(THREAD).where(e.c.sight.is_(None)).limit(1))
    of_aside = related(THREAD).where(e.c.sight.is_not(None)).limit(MAX_REFERENCES)
    stand_aside = conn.scalars(of_aside).all() if aside else ()
    own = select(r.c.event_id).select_from(_JOINED).where(*of_thread, e.c.sender == reader).limit(1)
    participated = conn.execute(own).first() is not None
    return Bundle(edits, references[::-1], count - aside, latest, stand_aside, participated)


def load_threads(
    conn: Connection,
    room_id: RoomId,
    before: int,
    limit: int,
    participant: UserId | None,
    ignored: Collection[str] = (),
    spans: Spans | None = None,
) -> list[ThreadRow]:
    """Threads whose newest event is before a place, the latest first; of a participant those that they took part in. ignored,
    spans: what of threads the reader is not told, and sees, as for bundles."""
    latest = func.max(e.c.timeline_order)
    statement = (
        select(r.c.target_id, latest)
        .select_from(_JOINED)
        .where(r.c.room_id == room_id, r.c.rel_type == THREAD, *_told(ignored, spans))
        .group_by(r.c.target_id)
        .having(latest < before)
        .order_by(latest.desc())
        .limit(limit)
    )
    if participant is not None:
        own = (
            select(r.c.target_id)
            .select_from(_JOINED)
            .where(r.c.room_id == room_id, r.c.rel_type == THREAD, e.c.sender == participant, *_THERE)
        )
        root = e.alias("root")
        begun = select(root.c.event_id).where(root.c.room_id == room_id, root.c.sender == participant)
        statement = statement.where(r.c.target_id.in_(own) | r.c.target_id.in_(begun))
    return [ThreadRow(row[0], row[1]) for row in conn.execute(statement)]
