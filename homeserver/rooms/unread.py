"""How much a user has not read: notifications and highlights, by room and thread.

The predefined push rules are evaluated once per event, when it is sent, for a member whom it does not mention; the outcome
is stored with the event. So counting reads a number per event, and only events that mention somebody are looked into again,
by those who read them. For users who changed their rules each event is judged by these, as it comes or is loaded. In
memory the unread events of a (user, room) are kept true by the log: an event adds one, a receipt takes those up to it away.

Spec: client-server-api#receiving-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.push_conditions import EventContext
from homeserver.matrix.push_evaluation import CompiledRules, RoomEvaluation, compile_rules
from homeserver.matrix.push_rules import DEFAULT_RULE_SET
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent, load_timeline
from homeserver.store.history import load_moments
from homeserver.store.log import LogRow
from homeserver.store.profiles import load_profiles
from homeserver.store.push_rules import load_room_facts, load_rule_sets
from homeserver.store.receipts import UNTHREADED, load_read_orders
from homeserver.store.unread import HIGHLIGHTS, MAX_UNREAD, MENTIONS, NOTIFIES, UnreadRow, load_notifying

MAX_ENTRIES = 100_000
MAX_JUDGED = 2_000  # events of a room that are looked through for a user with rules of their own
MAIN = "main"
_READ_TYPES = frozenset({"m.read", "m.read.private"})
_MEMBER = "m.room.member"
_RULES = compile_rules(DEFAULT_RULE_SET)

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
        return self.notifications + sum(n for n, _ in by_thread), self.highlights + sum(h for _, h in by_thread)


NOTHING = Counts()


@frozen
class _Event:
    order: int
    event_id: EventId
    thread_root: EventId | None
    highlights: bool


@frozen
class _Judge:
    """A user with rules of their own."""

    user_id: UserId
    rules: CompiledRules
    display_name: str | None

    def see(self, event: StoredEvent, context: EventContext) -> _Event | None:
        if event.pdu.type == _MEMBER:
            return None
        outcome = RoomEvaluation(event.pdu, context).outcome(self.rules, self.user_id, self.display_name)
        return _Event(event.order, event.event_id, event.thread_root, outcome.highlight) if outcome.notify else None


@define(eq=False)
class _Unread:
    """A user in a room. `read`: thread (or UNTHREADED) -> order up to which it is read."""

    read: dict[str, int]
    events: list[_Event]
    judge: _Judge | None = None
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

    def __init__(self, database: Database, heads: RoomHeads) -> None:
        self._heads = heads
        self._fold: Fold[Key, _Unread] = Fold(
            database,
            load=_load,
            keys_of=self._keys_of,
            apply=self._apply,
            max_entries=MAX_ENTRIES,
            on_gone=self._on_gone,
        )
        self._users: dict[RoomId, set[UserId]] = {}
        self._rooms: dict[UserId, set[RoomId]] = {}
        self._judges: set[UserId] = set()
        self.on_rows = self._fold.on_rows

    def outcome(self, head: RoomHead, pdu: Pdu, /) -> int:
        """The bits NOTIFIES, HIGHLIGHTS and MENTIONS for an event that is about to enter the room."""
        if pdu.state_key is not None and pdu.type == _MEMBER:
            return 0
        levels = head.power_levels
        evaluation = RoomEvaluation(pdu, EventContext(head.joined, levels.user(pdu.sender), levels))
        mentioned = mentioned_users(pdu.content)
        outcome = evaluation.outcome(_RULES, _unlike(mentioned), None)
        bits = outcome.notify * NOTIFIES + outcome.highlight * HIGHLIGHTS
        somebody = next((user for user in mentioned if isinstance(user, str) and user != pdu.sender), None)
        if somebody is not None and evaluation.outcome(_RULES, somebody, None).highlight:
            bits |= MENTIONS
        return bits

    def get_counts(self, user_id: UserId, room_id: RoomId, /) -> Counts | None:
        """The counts if memory has them."""
        unread = self._fold.get((user_id, room_id))
        return unread.count() if unread is not None else None

    async def load_counts(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Mapping[RoomId, Counts]:
        """The counts of the rooms, in a fixed number of statements."""
        for room_id in room_ids:
            self._users.setdefault(room_id, set()).add(user_id)
        self._rooms.setdefault(user_id, set()).update(room_ids)
        found = await self._fold.load_many([(user_id, room_id) for room_id in room_ids])
        if any(unread.judge is not None for unread in found.values()):
            self._judges.add(user_id)
        return {room_id: unread.count() for (_, room_id), unread in found.items()}

    def _keys_of(self, row: LogRow) -> Iterable[Key]:
        if row.kind == "receipt":
            return ((row.data["user_id"], RoomId(row.key)),)
        if row.kind == "push_rules":
            user_id = UserId(row.key)
            return [(user_id, room_id) for room_id in self._rooms.get(user_id, ())]
        if row.kind != "event" or row.event is None:
            return ()
        room_id = RoomId(row.key)
        keys = [(user_id, room_id) for user_id in self._users.get(room_id, ())]
        if _concerns_anybody(row):
            return keys
        return [key for key in keys if key[0] in self._judges or self._fold.is_loading(key)]

    def _on_gone(self, key: Key) -> None:
        user_id, room_id = key
        _discard(self._users, room_id, user_id)
        _discard(self._rooms, user_id, room_id)
        if user_id not in self._rooms:
            self._judges.discard(user_id)

    def _apply(self, key: Key, unread: _Unread, row: LogRow) -> _Unread | None:
        user_id, room_id = key
        if row.kind == "push_rules":
            return None
        if row.kind == "receipt":
            if row.data["receipt_type"] in _READ_TYPES:
                unread.mark(row.data["thread_id"], row.data["event_order"])
            return unread
        event = row.event
        assert event is not None
        if "redacts" in row.data:
            unread.remove(row.data["redacts"])
        if row.membership is not None and row.membership.user_id == user_id:
            return None  # a join anew, perhaps: what came before it is not unread
        if event.pdu.sender == user_id or event.timeline_order is None or event.rejected or event.soft_failed:
            return unread
        if unread.judge is not None:
            head = self._heads.get(room_id)
            if head is None:
                return None
            levels = head.power_levels
            context = EventContext(head.joined, levels.user(event.pdu.sender), levels)
            found = unread.judge.see(event, context)
        else:
            found = _seen_by(
                user_id, event.order, event.event_id, event.thread_root, event.push_outcome, event.pdu.content
            )
        if found is not None:
            unread.add(found)
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
    return row.event.push_outcome > 0 or row.membership is not None or "redacts" in row.data


def mentioned_users(content: Mapping[str, Any]) -> Collection[Any]:
    """Spec: client-server-api#user-and-room-mentions"""
    mentions = content.get("m.mentions")
    users = mentions.get("user_ids") if isinstance(mentions, dict) else None
    return users if isinstance(users, list) else ()


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
    judge = _load_judge(conn, user_id)
    joined = _load_joined(conn, user_id, room_ids)
    read: dict[RoomId, dict[str, int]] = {room_id: {UNTHREADED: joined[room_id]} for room_id in room_ids}
    for (room_id, receipt_type, thread), order in load_read_orders(conn, user_id, room_ids).items():
        if receipt_type in _READ_TYPES:
            read[room_id][thread] = max(order, read[room_id].get(thread, 0))
    floors = {room_id: threads[UNTHREADED] for room_id, threads in read.items()}
    if judge is not None:
        events = _load_judged(conn, judge, floors)
    else:
        rows = load_notifying(conn, floors, user_id)
        events = {room_id: [_event_of(user_id, row) for row in rows[room_id]] for room_id in room_ids}
    found = {}
    for room_id in room_ids:
        unread = _Unread(read[room_id], [], judge)
        unread.events = [event for event in events[room_id] if event is not None and not unread.is_read(event)]
        found[room_id] = unread
    return found


def _load_judge(conn: Connection, user_id: UserId) -> _Judge | None:
    """None for a user whose rules are the predefined ones."""
    rules = load_rule_sets(conn, [user_id]).get(user_id)
    if rules is None or rules.digest == DEFAULT_RULE_SET.digest:
        return None
    name = load_profiles(conn, [user_id]).get(user_id, {}).get("displayname")
    return _Judge(user_id, compile_rules(rules), name if isinstance(name, str) else None)


def _load_judged(conn: Connection, judge: _Judge, floors: Mapping[RoomId, int]) -> dict[RoomId, list[_Event | None]]:
    """What notifies among the newest MAX_JUDGED events of each room behind its floor."""
    facts = load_room_facts(conn, list(floors))
    found: dict[RoomId, list[_Event | None]] = {room_id: [] for room_id in floors}
    for room_id, room in facts.items():
        timeline = load_timeline(conn, room_id, room.version, floors[room_id], 2**62, MAX_JUDGED, backwards=True)
        for event in reversed(timeline):
            if event.redacted_by is None:
                context = EventContext(room.joined_members, room.levels.user(event.pdu.sender), room.levels)
                found[room_id].append(judge.see(event, context))
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
