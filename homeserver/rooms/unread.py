"""How much a user has not read: notifications and highlights, by room and thread.

The predefined push rules are evaluated once per event, when it is sent, for a member whom it does not mention; the outcome
is stored with the event. So counting reads a number per event, and only events that mention somebody are looked into again,
by those who read them. For users who changed their rules each event is judged by these, as it comes or is loaded. In
memory the unread events of a (user, room) are kept true by the log: an event adds one, a receipt takes those up to it away.

Where subscriptions to threads count, what is said in a thread notifies those who are subscribed to it now, and whom it mentions.

An event of one's own reads its thread up to it. What users send whom one ignores is none of one's business.

Spec: client-server-api#receiving-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.accounts.ignored_users import NOBODY, is_new_list, load_ignored
from homeserver.folds.fold import Fold
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.push_conditions import EventContext, GetRelated, Reader, get_none
from homeserver.matrix.push_evaluation import RoomEvaluation, compile_rules
from homeserver.matrix.push_rules import DEFAULT_RULE_SET, USUAL_KINDS, Kind
from homeserver.matrix.relations import REPLACE, relation_of
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.judging import (
    Evaluations,
    Judge,
    RuleBook,
    RulesByRoom,
    evaluate,
    is_predefined,
    related_ids,
    related_of,
)
from homeserver.runtime.db import Database
from homeserver.store.events import Peek, StoredEvent, load_events, load_timeline
from homeserver.store.history import load_moments
from homeserver.store.log import LogRow
from homeserver.store.push_rules import load_room_facts, load_rule_sets
from homeserver.store.receipts import UNTHREADED, load_read_orders
from homeserver.store.thread_subscriptions import load_subscribed_threads
from homeserver.store.unread import (
    CONCERNS_OTHERS,
    HIGHLIGHTS,
    MAX_UNREAD,
    MENTIONS,
    NOTIFIES,
    NOTIFIES_SUBSCRIBERS,
    READ_TYPES,
    READS,
    Floors,
    UnreadRow,
    is_read_by_sender,
    load_notifying,
)

MAX_JUDGED = 2_000  # events of a room that are looked through for a user with rules of their own
MAIN = "main"
_MEMBER = "m.room.member"
# Messages by which nobody shows to have read anything.
_READ_NOTHING = frozenset({"m.reaction", "m.room.redaction"})

Key = tuple[UserId, RoomId]
K = TypeVar("K")
V = TypeVar("V")


@frozen
class Counts:
    """Unread notifications and highlights: outside of threads, and by thread root."""

    notifications: int = 0
    highlights: int = 0
    threads: Mapping[EventId, tuple[int, int]] = field(factory=dict)

    @property
    def total(self) -> tuple[int, int]:
        """With the threads', for clients that don't ask for those on their own."""
        by_thread = self.threads.values()
        if not by_thread:
            return self.notifications, self.highlights
        return self.notifications + sum(n for n, _ in by_thread), self.highlights + sum(h for _, h in by_thread)


NOTHING = Counts()


@frozen
class _Event:
    order: int
    event_id: EventId
    thread_root: EventId | None
    highlights: bool


@frozen
class Stay:
    """A user's present time in a room: the order of the join, and the name that the room knows them by."""

    began: int = 0
    display_name: str | None = None


@define(eq=False)
class Reading:
    """A user in a room. `read`: thread (or UNTHREADED) -> order up to which it is read. `threads`: subscribed to."""

    stay: Stay
    read: dict[str, int]
    ignored: frozenset[str] = NOBODY
    threads: frozenset[EventId] = frozenset()
    judge: Judge | None = None
    events: list[_Event] = field(factory=list)
    counts: Counts | None = None

    def is_read(self, order: int, thread_root: EventId | None) -> bool:
        return order <= max(self.read.get(UNTHREADED, 0), self.read.get(thread_root or MAIN, 0))

    def add(self, event: _Event) -> None:
        self.events.append(event)
        if len(self.events) > MAX_UNREAD:
            del self.events[0]
            self.counts = None
        elif self.counts is not None:
            self.counts = _plus(self.counts, event)

    def mark(self, thread: str, order: int) -> None:
        self.read[thread] = max(order, self.read.get(thread, 0))
        self.events = [event for event in self.events if not self.is_read(event.order, event.thread_root)]
        self.counts = None

    def remove(self, event_id: str) -> None:
        self.events = [event for event in self.events if event.event_id != event_id]
        self.counts = None

    def count(self) -> Counts:
        if self.counts is None:
            self.counts = NOTHING
            for event in self.events:
                self.counts = _plus(self.counts, event)
        return self.counts


def _plus(counts: Counts, event: _Event) -> Counts:
    if event.thread_root is None:
        return Counts(counts.notifications + 1, counts.highlights + event.highlights, counts.threads)
    notifications, highlights = counts.threads.get(event.thread_root, (0, 0))
    thread = (notifications + 1, highlights + event.highlights)
    return Counts(counts.notifications, counts.highlights, {**counts.threads, event.thread_root: thread})


class Unread:
    """Fold: (user, room) -> what is unread there. Also says, when an event is built, what the rules make of it."""

    def __init__(
        self,
        database: Database,
        heads: RoomHeads,
        peek: Peek,
        max_entries: int,
        kinds: Collection[Kind] = USUAL_KINDS,
    ) -> None:
        self._heads = heads
        self._rules = compile_rules(DEFAULT_RULE_SET, kinds)
        self._rule_book = RuleBook(kinds)
        self._evaluations = Evaluations(peek)
        self._newest: tuple[StoredEvent, _Event | None] | None = None
        self._fold: Fold[Key, Reading] = Fold(
            database,
            load=self._load,
            keys_of=self._keys_of,
            apply=self._apply,
            max_entries=max_entries,
            on_gone=self._on_gone,
        )
        self._users: dict[RoomId, set[UserId]] = {}
        self._rooms: dict[UserId, set[RoomId]] = {}
        self.on_rows = self._fold.on_rows

    def drop_room(self, room_id: RoomId) -> None:
        """Its events are stored no more."""
        self._fold.drop_where(lambda key: key[1] == room_id)

    def outcome(self, head: RoomHead, pdu: Pdu, /) -> int:
        """The bits that store/unread.py lists, for an event that is about to enter the room."""
        if pdu.state_key is not None and pdu.type == _MEMBER:
            return 0
        levels = head.power_levels
        evaluation = RoomEvaluation(pdu, EventContext(head.joined, levels.user(pdu.sender), levels))
        mentioned = mentioned_users(pdu.content)
        nobody = _unlike(mentioned)
        outcome = evaluation.outcome(self._rules, Reader(nobody))
        bits = outcome.notify * NOTIFIES + outcome.highlight * HIGHLIGHTS
        root = evaluation.thread_root if not outcome.notify else None
        if root is not None and evaluation.outcome(self._rules, Reader(nobody, threads=(root,))).notify:
            bits |= NOTIFIES_SUBSCRIBERS
        somebody = next((user for user in mentioned if isinstance(user, str) and user != pdu.sender), None)
        if somebody is not None and evaluation.outcome(self._rules, Reader(somebody)).highlight:
            bits |= MENTIONS
        return bits | READS if _reads(pdu) else bits

    def get_counts(self, user_id: UserId, room_id: RoomId, /) -> Counts | None:
        """The counts if memory has them."""
        unread = self._fold.get((user_id, room_id))
        return unread.count() if unread is not None else None

    async def load_counts(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Mapping[RoomId, Counts]:
        """The counts of the rooms, in a fixed number of statements."""
        readings = await self.load_readings(user_id, room_ids)
        return {room_id: unread.count() for room_id, unread in readings.items()}

    async def load_readings(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Mapping[RoomId, Reading]:
        """How far the user has read in each of the rooms. Not to be kept: they go on changing."""
        if not room_ids:
            return {}
        for room_id in room_ids:
            self._users.setdefault(room_id, set()).add(user_id)
        self._rooms.setdefault(user_id, set()).update(room_ids)
        found = await self._fold.load_many([(user_id, room_id) for room_id in room_ids])
        return {room_id: unread for (_, room_id), unread in found.items()}

    def _keys_of(self, row: LogRow) -> Iterable[Key]:
        if row.event is None:
            return self._keys_of_other(row)
        room_id = RoomId(row.key)
        keys = [(user_id, room_id) for user_id in self._users.get(room_id, ())]
        if _concerns_anybody(row):
            return keys
        return [key for key in keys if key[0] == row.event.pdu.sender or self._judges(key)]

    def _keys_of_other(self, row: LogRow) -> Iterable[Key]:
        if row.kind == "receipt":
            return ((row.data["user_id"], RoomId(row.key)),)
        user_id = UserId(row.key)
        return [(user_id, room_id) for room_id in self._rooms.get(user_id, ())] if _is_of_user(row) else ()

    def _judges(self, key: Key) -> bool:
        """The user has rules of their own for the room; or that is not known yet."""
        known = self._fold.peek(key)
        return known.judge is not None if known is not None else self._fold.is_loading(key)

    def _on_gone(self, key: Key) -> None:
        user_id, room_id = key
        _discard(self._users, room_id, user_id)
        _discard(self._rooms, user_id, room_id)

    def _apply(self, key: Key, unread: Reading, row: LogRow) -> Reading | None:
        user_id = key[0]
        event = row.event
        if event is None:
            return _apply_other(unread, row)
        if "redacts" in row.data:
            unread.remove(row.data["redacts"])
        if row.membership is not None and row.membership.user_id == user_id:
            return None  # a join anew, perhaps: what came before it is not unread
        sender = event.pdu.sender
        if event.timeline_order is None or event.rejected or event.soft_failed or sender in unread.ignored:
            return unread
        if sender == user_id:
            if is_read_by_sender(event.push_outcome):
                unread.mark(event.thread_root or MAIN, event.order)
            return unread
        if unread.judge is not None:
            head = self._heads.get(key[1])
            if head is None or self._evaluations.lacks_related(unread.judge.rules, event):
                return None
            found = _judged(unread.judge, event, self._evaluations.of(event, head))
        else:
            found = self._seen_by(user_id, event, unread.threads)
        if found is not None:
            unread.add(found)
        return unread

    def _seen_by(self, user_id: UserId, event: StoredEvent, threads: Collection[EventId]) -> _Event | None:
        """The event as one that the user has not read; None if it does not notify this user."""
        # PERF: all whom it does not mention share what they see of it.
        newest = self._newest
        if newest is None or newest[0] is not event:
            newest = self._newest = event, _seen(event.order, event.event_id, event.thread_root, event.push_outcome)
        if event.push_outcome & MENTIONS and user_id in mentioned_users(event.pdu.content):
            return _Event(event.order, event.event_id, event.thread_root, True)
        if event.push_outcome & NOTIFIES_SUBSCRIBERS and event.thread_root in threads:
            return _Event(event.order, event.event_id, event.thread_root, False)
        return newest[1]

    def _load(self, conn: Connection, keys: Sequence[Key]) -> dict[Key, Reading]:
        by_user: dict[UserId, list[RoomId]] = {}
        for user_id, room_id in keys:
            by_user.setdefault(user_id, []).append(room_id)
        return {
            (user_id, room_id): reading
            for user_id, room_ids in by_user.items()
            for room_id, reading in _load_of_user(conn, user_id, room_ids, self._rule_book).items()
        }


def _apply_other(unread: Reading, row: LogRow) -> Reading | None:
    if _is_of_user(row):
        return None
    if row.data["receipt_type"] in READ_TYPES:
        unread.mark(row.data["thread_id"], row.data["event_order"])
    return unread


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    values = index.get(key, set())
    values.discard(value)
    if not values:
        index.pop(key, None)


def _unlike(users: Collection[Any]) -> str:
    """Somebody who is not among them."""
    nobody = "@"
    while nobody in users:
        nobody += "@"
    return nobody


def _concerns_anybody(row: LogRow) -> bool:
    assert row.event is not None
    return row.event.push_outcome & CONCERNS_OTHERS > 0 or row.membership is not None or "redacts" in row.data


def _is_of_user(row: LogRow) -> bool:
    """The row's user judges all events anew."""
    return row.kind in ("push_rules", "thread_subscription") or is_new_list(row)


def _reads(pdu: Pdu) -> bool:
    """Whoever sends the event shows that they have read what is before it."""
    if pdu.state_key is not None or pdu.type in _READ_NOTHING:
        return False
    relation = relation_of(pdu.content)
    return relation is None or relation.rel_type != REPLACE


def _judged(judge: Judge, event: StoredEvent, evaluation: RoomEvaluation) -> _Event | None:
    outcome = judge.outcome(evaluation)
    return _Event(event.order, event.event_id, event.thread_root, outcome.highlight) if outcome.notify else None


def mentioned_users(content: Mapping[str, Any]) -> Collection[Any]:
    """Spec: client-server-api#user-and-room-mentions"""
    mentions = content.get("m.mentions")
    users = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return users if isinstance(users, list) else ()


def _seen(order: int, event_id: EventId, thread_root: EventId | None, outcome: int) -> _Event | None:
    """The event as somebody sees it whom it does not mention; None if it does not notify them."""
    return _Event(order, event_id, thread_root, bool(outcome & HIGHLIGHTS)) if outcome & NOTIFIES else None


def _load_of_user(
    conn: Connection, user_id: UserId, room_ids: Sequence[RoomId], book: RuleBook
) -> dict[RoomId, Reading]:
    own = load_rule_sets(conn, [user_id]).get(user_id)
    rules = RulesByRoom(own) if own is not None else None
    ignored = load_ignored(conn, user_id)
    with_threads = rules is not None or Kind.POSTCONTENT in book.kinds
    threads = load_subscribed_threads(conn, user_id, room_ids) if with_threads else {}
    found: dict[RoomId, Reading] = {}
    for room_id, stay in _load_stays(conn, user_id, room_ids).items():
        found[room_id] = reading = Reading(stay, {UNTHREADED: stay.began}, ignored)
        reading.threads = threads.get(room_id, reading.threads)
        there = rules.rules(room_id) if rules is not None else DEFAULT_RULE_SET
        if not is_predefined(there):
            reader = Reader(user_id, stay.display_name, reading.threads)
            reading.judge = Judge(book.compile(there), reader)
    for (room_id, receipt_type, thread), order in load_read_orders(conn, user_id, room_ids).items():
        if receipt_type in READ_TYPES:
            found[room_id].mark(thread, order)
    _load_seen(conn, user_id, {room_id: reading for room_id, reading in found.items() if reading.judge is None})
    _load_judged(conn, user_id, {room_id: reading for room_id, reading in found.items() if reading.judge is not None})
    return found


def _load_seen(conn: Connection, user_id: UserId, readings: Mapping[RoomId, Reading]) -> None:
    """Fill in the unread events, judged when they were sent."""
    if not readings:
        return
    floors = {room_id: _floors(reading) for room_id, reading in readings.items()}
    for room_id, rows in load_notifying(conn, floors, user_id).items():
        reading = readings[room_id]
        for row in rows:
            if row.sender == user_id and is_read_by_sender(row.outcome):
                reading.mark(row.thread_root or MAIN, row.order)
        for row in rows:
            if row.sender == user_id or row.sender in reading.ignored or reading.is_read(row.order, row.thread_root):
                continue
            event = _event_of(user_id, row, reading.threads)
            if event is not None:
                reading.add(event)


def _floors(reading: Reading) -> Floors:
    unthreaded = reading.read[UNTHREADED]
    return Floors(max(unthreaded, reading.read.get(MAIN, 0)), unthreaded)


def _load_judged(conn: Connection, user_id: UserId, readings: Mapping[RoomId, Reading]) -> None:
    """Fill in what notifies among the newest MAX_JUDGED events of each room behind its floor."""
    facts = load_room_facts(conn, list(readings)) if readings else {}
    for room_id, room in facts.items():
        reading = readings[room_id]
        assert reading.judge is not None
        floor = reading.read[UNTHREADED]
        timeline = load_timeline(conn, room_id, room.version, floor, 2**62, MAX_JUDGED, backwards=True)
        for event in timeline:
            if event.pdu.sender == user_id and is_read_by_sender(event.push_outcome):
                reading.mark(event.thread_root or MAIN, event.order)
        get_related: GetRelated = get_none
        if reading.judge.rules.asks_related:
            targets = {target for event in timeline for target in related_ids(event)}
            get_related = related_of(load_events(conn, targets, {room_id: room.version}))
        for event in reversed(timeline):
            if event.pdu.sender != user_id and _may_count(reading, event):
                found = _judged(reading.judge, event, evaluate(event, room.joined_members, room.levels, get_related))
                if found is not None:
                    reading.add(found)


def _may_count(reading: Reading, event: StoredEvent) -> bool:
    if event.redacted_by is not None or event.pdu.sender in reading.ignored:
        return False
    return not reading.is_read(event.order, event.thread_root)


def _event_of(user_id: UserId, row: UnreadRow, threads: Collection[EventId]) -> _Event | None:
    content = orjson.loads(row.json)["content"] if row.json is not None else {}
    if user_id in mentioned_users(content):
        return _Event(row.order, row.event_id, row.thread_root, True)
    if row.outcome & NOTIFIES_SUBSCRIBERS and row.thread_root in threads:
        return _Event(row.order, row.event_id, row.thread_root, False)
    return _seen(row.order, row.event_id, row.thread_root, row.outcome)


def _load_stays(conn: Connection, user_id: UserId, room_ids: Sequence[RoomId]) -> dict[RoomId, Stay]:
    """Where the user's present time in each room began: a change of the profile is no new join."""
    found = {room_id: Stay() for room_id in room_ids}
    was: dict[RoomId, str | None] = {}
    for moment in load_moments(conn, [(room_id, _MEMBER, user_id) for room_id in room_ids]):
        content = moment.content or {}
        membership, name = content.get("membership"), content.get("displayname")
        is_join = membership == "join" and was.get(moment.room_id) != "join"
        began = moment.position if is_join else found[moment.room_id].began
        found[moment.room_id] = Stay(began, name if isinstance(name, str) else None)
        was[moment.room_id] = membership
    return found
