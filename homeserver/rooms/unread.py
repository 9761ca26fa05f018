"""How much a user has not read: notifications and highlights, by room and thread.

The default push rules are evaluated once per event, when it is sent, for a member whom it does not mention; the outcome
is stored with the event. So counting reads a number per event, and only events that mention somebody are looked into again,
by those who read them. In memory the unread events of a (user, room) are kept true by the log: an event adds one, a
receipt takes those up to it away.

Spec: client-server-api#receiving-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.push_conditions import EventContext
from homeserver.matrix.push_evaluation import RoomEvaluation, compile_rules
from homeserver.matrix.push_rules import DEFAULT_RULE_SET
from homeserver.rooms.head import RoomHead
from homeserver.runtime.db import Database
from homeserver.store.history import load_moments
from homeserver.store.log import LogRow
from homeserver.store.receipts import UNTHREADED, load_read_orders
from homeserver.store.unread import HIGHLIGHTS, MAX_UNREAD, MENTIONS, NOTIFIES, UnreadRow, load_notifying

MAX_ENTRIES = 100_000
MAIN = "main"
_READ_TYPES = frozenset({"m.read", "m.read.private"})
_MEMBER = "m.room.member"
_NOBODY = ""
_RULES = compile_rules(DEFAULT_RULE_SET)

Key = tuple[UserId, RoomId]


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
        return self.notifications + sum(n for n, _ in by_thread), self.highlights + sum(h for _, h in by_thread)


NOTHING = Counts()


@frozen
class _Event:
    order: int
    event_id: EventId
    thread_root: EventId | None
    highlights: bool


@define(eq=False)
class _Unread:
    """A user in a room. `read`: thread (or UNTHREADED) -> order up to which it is read."""

    read: dict[str, int]
    events: list[_Event]
    counts: Counts | None = None

    def is_read(self, event: _Event) -> bool:
        upto = max(self.read.get(UNTHREADED, 0), self.read.get(event.thread_root or MAIN, 0))
        return event.order <= upto

    def add(self, event: _Event) -> None:
        self.events.append(event)
        if len(self.events) > MAX_UNREAD:
            del self.events[0]
            self.counts = None
        elif self.counts is not None:
            self.counts = _plus(self.counts, event)

    def mark(self, thread: str, order: int) -> None:
        self.read[thread] = max(order, self.read.get(thread, 0))
        self.events = [event for event in self.events if not self.is_read(event)]
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

    def __init__(self, database: Database) -> None:
        self._fold: Fold[Key, _Unread] = Fold(
            database, load=_load, keys_of=self._keys_of, apply=_apply, max_entries=MAX_ENTRIES
        )
        self._users: dict[RoomId, set[UserId]] = {}
        self.on_rows = self._fold.on_rows

    def outcome(self, head: RoomHead, pdu: Pdu, /) -> int:
        """The bits NOTIFIES, HIGHLIGHTS and MENTIONS for an event that is about to enter the room."""
        if pdu.state_key is not None and pdu.type == _MEMBER:
            return 0
        levels = head.power_levels
        evaluation = RoomEvaluation(pdu, EventContext(head.joined, levels.user(pdu.sender), levels))
        outcome = evaluation.outcome(_RULES, _NOBODY, None)
        mentions = MENTIONS if mentioned_users(pdu.content) else 0
        return outcome.notify * NOTIFIES + outcome.highlight * HIGHLIGHTS + mentions

    def get_counts(self, user_id: UserId, room_id: RoomId, /) -> Counts | None:
        """The counts if memory has them."""
        unread = self._fold.get((user_id, room_id))
        return unread.count() if unread is not None else None

    async def load_counts(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Mapping[RoomId, Counts]:
        """The counts of the rooms, in a fixed number of statements."""
        for room_id in room_ids:
            self._users.setdefault(room_id, set()).add(user_id)
        found = await self._fold.load_many([(user_id, room_id) for room_id in room_ids])
        return {room_id: unread.count() for (_, room_id), unread in found.items()}

    def _keys_of(self, row: LogRow) -> Iterable[Key]:
        if row.kind == "receipt":
            return ((row.data["user_id"], RoomId(row.key)),)
        if row.kind == "event" and row.event is not None and _concerns_anybody(row):
            room_id = RoomId(row.key)
            return [(user_id, room_id) for user_id in self._users.get(room_id, ())]
        return ()


def _concerns_anybody(row: LogRow) -> bool:
    assert row.event is not None
    return row.event.push_outcome > 0 or row.membership is not None or "redacts" in row.data


def mentioned_users(content: Mapping[str, Any]) -> Collection[Any]:
    """Spec: client-server-api#user-and-room-mentions"""
    mentions = content.get("m.mentions")
    users = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return users if isinstance(users, list) else ()


def _apply(key: Key, unread: _Unread, row: LogRow) -> _Unread | None:
    user_id, _ = key
    if row.kind == "receipt":
        if row.data["receipt_type"] in _READ_TYPES:
            unread.mark(row.data["thread_id"], row.data["event_order"])
        return unread
    event = row.event
    assert event is not None
    if "redacts" in row.data:
        unread.remove(row.data["redacts"])
    if row.membership is not None and row.membership.user_id == user_id and event.replaces is not None:
        return None  # a join anew, perhaps: what came before it is not unread
    if event.pdu.sender != user_id and event.timeline_order is not None:
        found = _seen_by(user_id, event.order, event.event_id, event.thread_root, event.push_outcome, event.pdu.content)
        if found is not None:
            unread.add(found)
    return unread


def _seen_by(
    user_id: UserId,
    order: int,
    event_id: EventId,
    thread_root: EventId | None,
    outcome: int,
    content: Mapping[str, Any],
) -> _Event | None:
    """The event as one that the user has not read; None if it does not notify this user."""
    mentions = outcome >= MENTIONS and user_id in mentioned_users(content)
    if not mentions and not outcome & NOTIFIES:
        return None
    return _Event(order, event_id, thread_root, mentions or bool(outcome & HIGHLIGHTS))


def _load(conn: Connection, keys: Sequence[Key]) -> dict[Key, _Unread]:
    by_user: dict[UserId, list[RoomId]] = {}
    for user_id, room_id in keys:
        by_user.setdefault(user_id, []).append(room_id)
    return {
        (user_id, room_id): unread
        for user_id, room_ids in by_user.items()
        for room_id, unread in _load_of_user(conn, user_id, room_ids).items()
    }


def _load_of_user(conn: Connection, user_id: UserId, room_ids: Sequence[RoomId]) -> dict[RoomId, _Unread]:
    joined = _load_joined(conn, user_id, room_ids)
    read: dict[RoomId, dict[str, int]] = {room_id: {UNTHREADED: joined[room_id]} for room_id in room_ids}
    for (room_id, receipt_type, thread), order in load_read_orders(conn, user_id, room_ids).items():
        if receipt_type in _READ_TYPES:
            read[room_id][thread] = max(order, read[room_id].get(thread, 0))
    floors = {room_id: threads[UNTHREADED] for room_id, threads in read.items()}
    rows = load_notifying(conn, floors, user_id)
    found = {}
    for room_id in room_ids:
        unread = _Unread(read[room_id], [])
        events = [event for row in rows[room_id] if (event := _event_of(user_id, row)) is not None]
        unread.events = [event for event in events if not unread.is_read(event)]
        found[room_id] = unread
    return found


def _event_of(user_id: UserId, row: UnreadRow) -> _Event | None:
    content = orjson.loads(row.json)["content"] if row.json is not None else {}
    return _seen_by(user_id, row.order, row.event_id, row.thread_root, row.outcome, content)


def _load_joined(conn: Connection, user_id: UserId, room_ids: Sequence[RoomId]) -> dict[RoomId, int]:
    """Where the user's present time in each room began: a change of the profile is no new join."""
    began = dict.fromkeys(room_ids, 0)
    was: dict[RoomId, str | None] = {}
    for moment in load_moments(conn, [(room_id, _MEMBER, user_id) for room_id in room_ids]):
        membership = moment.content.get("membership") if moment.content is not None else None
        if membership == "join" and was.get(moment.room_id) != "join":
            began[moment.room_id] = moment.position
        was[moment.room_id] = membership
    return began
