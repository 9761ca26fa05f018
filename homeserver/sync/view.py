"""What a response is built from: memory as it is now, and what was loaded because memory lacked it.

A response is built in one go, without waiting, from the state of memory at one position of the log. Where
something is missing, the view notes it as a need and the building goes on with the next room; then all needs
are loaded in a few reads, side by side, and the response is built anew at the position that memory has reached by then. So
there is no interleaving to think about: every response is the truth at one position.

What was loaded and does not stay in memory (it may not fit) is kept in the view with the position it stands
for, and is good for as long as nothing happened to its room or user behind that.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from attrs import define, field, frozen

from homeserver.accounts.account_data_cache import AccountDataCache
from homeserver.accounts.ignored_users import IgnoredUsers, Unwanted
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.folds.histories import Histories, UserHistory
from homeserver.folds.memberships import Memberships, UserRooms
from homeserver.folds.recent_log import RecentLog
from homeserver.folds.room_tails import RoomTails
from homeserver.folds.sticky_events import StickyEvents
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.relations import relation_of
from homeserver.rooms.client_events import related_ids
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.unread import Counts
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.store.account_data import AccountDataRow
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogWriter
from homeserver.store.memberships import MembershipRow
from homeserver.store.outside_rooms import OutsideRoom, load_outside_room
from homeserver.store.sync import Gap, LoadedGap, Receipt, load_gaps, load_receipts
from homeserver.sync.ports import BundleSource, PushRulesSource, TypingSource, UnreadCounts

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@frozen(eq=False)
class Sources:
    """Where sync finds everything. `recent`, `tails` and `ignored` follow the log."""

    database: Database
    log_writer: LogWriter
    clock: Clock
    heads: RoomHeads
    events: EventCache
    memberships: Memberships
    histories: Histories
    recent: RecentLog
    tails: RoomTails
    ignored: IgnoredUsers
    counts: UnreadCounts
    typing: TypingSource
    push_rules: PushRulesSource
    relations: BundleSource
    erased: ErasedUsers
    sticky: StickyEvents
    account_data: AccountDataCache


class _Loaded(Generic[K, V]):
    """Loaded values, each good while nothing happened to its subject behind the position it stands for."""

    def __init__(self, recent: RecentLog, subject: Callable[[K], str]) -> None:
        self._recent = recent
        self._subject = subject
        self._values: dict[K, tuple[V, int]] = {}

    def get(self, key: K) -> V | None:
        entry = self._values.get(key)
        if entry is None or self._recent.last_position(self._subject(key)) > entry[1]:
            return None
        return entry[0]

    def put_all(self, values: Mapping[K, V], position: int) -> None:
        for key, value in values.items():
            self._values[key] = (value, position)


@frozen
class RoomLog:
    """The room's rows: all live events in (events_floor, …] and all changes of the state behind
    `deltas_floor`.
    """

    events_floor: int
    rows: Sequence[LogRow]


HistoryKey = tuple[RoomId, UserId]
Load = Coroutine[Any, Any, None]


@frozen
class Lookup:
    """Something that an extension looks up: named by kind and key; good until something happens to the subject."""

    kind: str
    subject: str
    key: tuple[Hashable, ...]
    load: Callable[[], Awaitable[Any]] = field(eq=False)


class _Kept:
    """What was loaded for a response, and stays in no cache for sure."""

    def __init__(self, recent: RecentLog) -> None:
        self.rooms: _Loaded[UserId, UserRooms] = _Loaded(recent, str)
        self.heads: _Loaded[RoomId, RoomHead] = _Loaded(recent, str)
        self.tails: _Loaded[RoomId, RoomLog] = _Loaded(recent, str)
        self.histories: _Loaded[HistoryKey, UserHistory] = _Loaded(recent, lambda key: key[0])
        self.unwanted: _Loaded[UserId, Unwanted] = _Loaded(recent, str)
        self.account_data: _Loaded[UserId, Sequence[AccountDataRow]] = _Loaded(recent, str)
        self.push_rules: _Loaded[UserId, bytes] = _Loaded(recent, str)
        self.counts: _Loaded[RoomId, Counts] = _Loaded(recent, str)
        self.receipts: _Loaded[tuple[RoomId, int], list[Receipt]] = _Loaded(recent, lambda key: key[0])
        self.values: _Loaded[Lookup, Any] = _Loaded(recent, lambda lookup: lookup.subject)
        self.rooms_of: _Loaded[UserId, UserRooms] = _Loaded(recent, str)
        self.bundles: dict[EventId, bytes] = {}
        self.bundled: set[EventId] = set()  # for which it is known whether anything is bundled with them
        self.gaps: dict[Gap, LoadedGap] = {}
        self.absent: set[RoomId] = set()  # rooms of which we have no head
        # What was picked of rooms' logs, by room and whatever else it depends on: it need not be picked anew after a load.
        self.picked: _Loaded[tuple[Any, ...], Any] = _Loaded(recent, lambda key: key[0])
        self.events: dict[EventId, StoredEvent | None] = {}


class View:
    """For one response. The get_ methods answer from memory or note a need and answer None."""

    def __init__(self, sources: Sources, user_id: UserId) -> None:
        self.sources = sources
        self.user_id = user_id
        self.now = 0
        self.began = -1  # where memory was when it was first looked at
        self.now_ms = 0
        self.missing_events = 0  # grows whenever get_event notes a need
        # PERF: nearly all responses find everything in memory, so what else they need is made when there is a need.
        self._made: _Kept | None = None
        self._noted: _Needs | None = None

    def begin(self) -> None:
        """Look at memory as it is now."""
        self.now = self.sources.log_writer.position
        if self.began < 0:
            self.began = self.now
        self.now_ms = self.sources.clock.time_ms()
        self._noted = None

    @property
    def _kept(self) -> _Kept:
        if self._made is None:
            self._made = _Kept(self.sources.recent)
        return self._made

    @property
    def picked(self) -> _Loaded[tuple[Any, ...], Any]:
        """What was picked for this response."""
        return self._kept.picked

    @property
    def _needs(self) -> _Needs:
        if self._noted is None:
            self._noted = _Needs()
        return self._noted

    @property
    def is_complete(self) -> bool:
        """Everything that was asked for since `begin` was there."""
        return self._noted is None

    # -- memory ----------------------------------------------------------------------------------------------

    def get_rooms(self) -> UserRooms | None:
        rooms = self.sources.memberships.get(self.user_id)
        if rooms is None:
            rooms = self._kept.rooms.get(self.user_id)
        if rooms is None:
            self._needs.rooms = True
        return rooms

    def get_rooms_of(self, user_id: UserId) -> UserRooms | None:
        """The rooms of any user."""
        rooms = self.sources.memberships.get(user_id)
        if rooms is None:
            rooms = self._kept.rooms_of.get(user_id)
        if rooms is None:
            self._needs.rooms_of.add(user_id)
        return rooms

    def get_value(self, lookup: Lookup) -> Any:
        value = self._kept.values.get(lookup)
        if value is None:
            self._needs.lookups.add(lookup)
        return value

    def get_head(self, room_id: RoomId) -> RoomHead | None:
        head = self.sources.heads.get(room_id) or self._kept.heads.get(room_id)
        if head is None and room_id not in self._kept.absent:
            self._needs.heads.add(room_id)
        return head

    def get_outside_room(self, membership: MembershipRow) -> OutsideRoom | None:
        """The room of this invite, knock or end of one, if this server is not in it. None also where it must be loaded."""
        room_id = membership.room_id
        head = self.get_head(room_id)
        if head is None and room_id not in self._kept.absent:
            return None
        if head is not None and head.state.get((MEMBER, membership.user_id)) == membership.event_id:
            return None
        database = self.sources.database

        async def load() -> tuple[OutsideRoom | None]:
            return (await database.read(load_outside_room, membership.user_id, room_id),)

        loaded: tuple[OutsideRoom | None] | None = self.get_value(
            Lookup("outside_room", membership.user_id, (room_id, membership.event_id), load)
        )
        room = loaded[0] if loaded is not None else None
        return room if room is not None and room.event.event_id == membership.event_id else None

    def get_history(self, room_id: RoomId) -> UserHistory | None:
        key = (room_id, self.user_id)
        history = self.sources.histories.get(key) or self._kept.histories.get(key)
        if history is None:
            self._needs.histories.add(key)
        return history

    def get_unwanted(self) -> Unwanted | None:
        unwanted = self.sources.ignored.get_unwanted(self.user_id)
        if unwanted is None:
            unwanted = self._kept.unwanted.get(self.user_id)
        if unwanted is None:
            self._needs.unwanted = True
        return unwanted

    def get_ignored(self) -> frozenset[str] | None:
        unwanted = self.get_unwanted()
        return None if unwanted is None else unwanted.users

    def get_event(self, event_id: EventId, head: RoomHead) -> StoredEvent | None:
        """An event of the room that is known to be stored."""
        event = self.sources.events.get(event_id) or self._kept.events.get(event_id)
        if event is None and event_id not in self._kept.events:
            self._needs.events[event_id] = head
            self.missing_events += 1
        return event

    def get_related(
        self, events: Collection[StoredEvent], head: RoomHead, history: UserHistory | None
    ) -> Mapping[EventId, StoredEvent]:
        """The events that those events' `unsigned` quotes. history: the reader's; None for who was there at all the events."""
        found = {event_id: self.get_event(event_id, head) for event_id in related_ids(events)}
        stored = {event_id: event for event_id, event in found.items() if event is not None}
        if history is not None and stored:
            for hidden in history.hidden_before(events, stored):
                del stored[hidden]
        return self.sources.erased.quoted(stored)

    def get_redactions(self, state: Collection[StoredEvent], head: RoomHead) -> Mapping[EventId, StoredEvent]:
        """Of that the events of the redactions alone, for state that is told beside the timeline. What it replaced is not
        quoted there: that would double what a first sync has to load."""
        by = [event.redacted_by for event in state if event.redacted_by is not None]
        found = {event_id: self.get_event(event_id, head) for event_id in by}
        return self.sources.erased.quoted({event_id: event for event_id, event in found.items() if event is not None})

    def get_bundles(
        self, events: Collection[StoredEvent], head: RoomHead, rows: Sequence[LogRow]
    ) -> Mapping[EventId, bytes] | None:
        """What is bundled with events that the client may have missed relations of; None where that is needed.

        `rows`: of the room, from the first of the events on. What relates to an event comes behind it, so most of them turn
        out to have nothing without a look into the database.
        """
        missing = [event for event in events if event.event_id not in self._kept.bundled]
        if missing:
            targets = _targets(rows)
            self._kept.bundled.update(event.event_id for event in missing if event.event_id not in targets)
            missing = [event for event in missing if event.event_id in targets]
        if missing:
            self._needs.bundles.append((head, missing))
            return None
        return {
            event.event_id: bundle for event in events if (bundle := self._kept.bundles.get(event.event_id)) is not None
        }

    def get_counts(self, room_id: RoomId) -> Counts | None:
        counts = self.sources.counts.get_counts(self.user_id, room_id) or self._kept.counts.get(room_id)
        if counts is None:
            self._needs.counts.add(room_id)
        return counts

    def get_account_data(self, after: int) -> Sequence[AccountDataRow] | None:
        """What was last set behind a position (the same one for all of the view's life)."""
        found = self.sources.account_data.get(self.user_id) if after == 0 else None
        if found is None:
            found = self._kept.account_data.get(self.user_id)
        if found is None:
            self._needs.account_data = after
        return found

    def get_push_rules(self) -> bytes | None:
        found = self.sources.push_rules.get_content(self.user_id)
        if found is None:
            found = self._kept.push_rules.get(self.user_id)
        if found is None:
            self._needs.push_rules = True
        return found

    def get_receipts(self, room_id: RoomId, after: int) -> list[Receipt] | None:
        """The room's receipts behind a position."""
        found = self._kept.receipts.get((room_id, after))
        if found is None:
            self._needs.receipts.setdefault(after, set()).add(room_id)
        return found

    def get_room_log(self, gap: Gap) -> RoomLog | None:
        """The room's rows for a gap, and all those behind it."""
        recent = self.sources.recent
        if gap.after >= recent.floor:
            return RoomLog(gap.after, _events(recent.rows_after(gap.room_id, gap.after)))
        found = self._from_gap(gap) or self._from_tail(gap)
        if found is None and gap.room_id not in self._needs.tails:
            self._needs.gaps.add(gap)
        return found

    def get_tail(self, room_id: RoomId) -> RoomLog | None:
        """The end of the room's timeline."""
        tail = self.sources.tails.get(room_id)
        if tail is not None:
            return RoomLog(tail.floor, tail.rows)
        kept = self._kept.tails.get(room_id)
        if kept is None:
            self._needs.tails.add(room_id)
        return kept

    def _from_tail(self, gap: Gap) -> RoomLog | None:
        log = self.get_tail(gap.room_id)
        if log is None or log.events_floor <= gap.after:
            return log
        if gap.with_state or gap.upto is not None:
            return None
        return log if sum(map(is_live, log.rows)) >= gap.limit else None

    def _from_gap(self, gap: Gap) -> RoomLog | None:
        loaded = self._kept.gaps.get(gap)
        recent = self.sources.recent
        if loaded is None or loaded.position < recent.floor:
            return None
        return RoomLog(loaded.events_floor, [*loaded.rows, *_events(recent.rows_after(gap.room_id, loaded.position))])

    # -- loading ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Load all that was needed, side by side; the next `begin` starts anew."""
        needs = self._needs
        loads = [*self._user_loads(needs), *self._extension_loads(needs), *self._room_loads(needs)]
        if len(loads) == 1:
            await loads[0]
        else:
            await gather(loads)

    def _room_loads(self, needs: _Needs) -> Iterator[Load]:
        if needs.heads:
            yield self._load_heads(needs.heads)
        if needs.tails:
            yield self._load_tails(needs.tails)
        if needs.gaps:
            yield self._load_gaps(needs.gaps)
        if needs.histories:
            yield self._load_histories(needs.histories)
        if needs.events:
            yield self._load_events(needs.events)
        if needs.bundles:
            yield self._load_bundles(needs.bundles)
        for after, room_ids in needs.receipts.items():
            yield self._load_receipts(after, room_ids)

    async def _load_heads(self, wanted: set[RoomId]) -> None:
        heads = await self.sources.heads.load_many(wanted)
        self._kept.heads.put_all(heads, self._position())
        self._kept.absent |= wanted - heads.keys()

    async def _load_tails(self, wanted: set[RoomId]) -> None:
        tails = await self.sources.tails.load_many(wanted)
        logs = {room_id: RoomLog(tail.floor, tail.rows) for room_id, tail in tails.items()}
        self.sources.events.put_all(row.event for log in logs.values() for row in log.rows if row.event)
        self._kept.tails.put_all(logs, self._position())

    async def _load_gaps(self, wanted: set[Gap]) -> None:
        self._kept.gaps |= await self.sources.database.read(load_gaps, list(wanted))

    async def _load_histories(self, wanted: set[HistoryKey]) -> None:
        histories = await self.sources.histories.load_many(list(wanted))
        self._kept.histories.put_all(histories, self._position())

    async def _load_receipts(self, after: int, room_ids: set[RoomId]) -> None:
        at, receipts = await self.sources.database.read(load_receipts, room_ids, after, self.user_id)
        self._kept.receipts.put_all({(room_id, after): found for room_id, found in receipts.items()}, at)

    def _extension_loads(self, needs: _Needs) -> Iterator[Load]:
        if needs.rooms_of:
            wanted = list(needs.rooms_of)
            yield self._load_all(self._kept.rooms_of, lambda: self.sources.memberships.load_many(wanted))
        for lookup in needs.lookups:
            yield self._load_one(self._kept.values, lookup, lookup.load)

    def _user_loads(self, needs: _Needs) -> Iterator[Load]:
        sources, user_id = self.sources, self.user_id
        if needs.rooms:
            yield self._load_own_rooms()
        if needs.unwanted:
            yield self._load_one(self._kept.unwanted, user_id, lambda: sources.ignored.load_unwanted(user_id))
        if needs.account_data is not None:
            after = needs.account_data
            yield self._load_one(self._kept.account_data, user_id, lambda: sources.account_data.load(user_id, after))
        if needs.push_rules:
            yield self._load_one(self._kept.push_rules, user_id, lambda: sources.push_rules.load_content(user_id))
        if needs.counts:
            yield self._load_all(self._kept.counts, lambda: sources.counts.load_counts(user_id, needs.counts))

    async def _load_own_rooms(self) -> None:
        rooms = await self.sources.memberships.load(self.user_id)
        self._kept.rooms.put_all({self.user_id: rooms}, self._position())

    async def _load_one(self, loaded: _Loaded[K, V], key: K, load: Callable[[], Awaitable[V]]) -> None:
        at = self._position()
        loaded.put_all({key: await load()}, at)

    async def _load_all(self, loaded: _Loaded[K, V], load: Callable[[], Awaitable[Mapping[K, V]]]) -> None:
        at = self._position()
        loaded.put_all(await load(), at)

    async def _load_events(self, wanted: Mapping[EventId, RoomHead]) -> None:
        rooms_of = {event_id: head.room_id for event_id, head in wanted.items()}
        versions = {head.room_id: head.version for head in wanted.values()}
        found = await self.sources.events.load_many(rooms_of, versions)
        for event_id in wanted:
            self._kept.events[event_id] = found.get(event_id)

    async def _load_bundles(self, wanted: Sequence[tuple[RoomHead, Sequence[StoredEvent]]]) -> None:
        """As of now: what comes in between is told by itself."""
        events = [event for _, missing in wanted for event in missing]
        versions = {head.room_id: head.version for head, _ in wanted}
        self._kept.bundles |= await self.sources.relations.load_bundles(events, versions, self.user_id, self.now_ms)
        self._kept.bundled.update(event.event_id for event in events)

    def _position(self) -> int:
        return self.sources.log_writer.position


@define(eq=False)
class _Needs:
    rooms: bool = False
    unwanted: bool = False
    push_rules: bool = False
    account_data: int | None = None
    heads: set[RoomId] = field(factory=set)
    tails: set[RoomId] = field(factory=set)
    counts: set[RoomId] = field(factory=set)
    gaps: set[Gap] = field(factory=set)
    histories: set[HistoryKey] = field(factory=set)
    events: dict[EventId, RoomHead] = field(factory=dict)
    receipts: dict[int, set[RoomId]] = field(factory=dict)
    rooms_of: set[UserId] = field(factory=set)
    lookups: set[Lookup] = field(factory=set)
    bundles: list[tuple[RoomHead, Sequence[StoredEvent]]] = field(factory=list)


def is_live(row: LogRow) -> bool:
    """The row put an event into the timeline (it is no outlier, no fetched history, no rejected event)."""
    event = row.event
    return (
        event is not None and event.timeline_order == row.position and event.rejected is None and not event.soft_failed
    )


def _targets(rows: Sequence[LogRow]) -> set[EventId]:
    """The events to which others relate."""
    contents = [row.event.pdu.content for row in rows if row.event is not None]
    relations = [relation_of(content) for content in contents if "m.relates_to" in content]
    return {relation.target for relation in relations if relation is not None}


def _events(rows: Sequence[LogRow]) -> list[LogRow]:
    return [row for row in rows if row.kind == "event"]
