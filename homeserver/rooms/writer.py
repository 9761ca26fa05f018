"""Building events and writing them to rooms.

The idea: a caller says what it wants as a plan, a pure function from the room's head to drafts of events. The writer
calls it on the speculative head, builds, signs and authorises the events, moves the head and submits them, all without
an await, so no lock is needed. What authorisation needs and memory lacks is loaded first, and the plan called again on
what the head is then. When another process was faster (LostCompare) the plan is called once more on the new head.

So a plan may be called several times: it decides (raises a MatrixError, or returns no drafts when there is nothing to
do) and has no effect.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from secrets import token_urlsafe
from typing import Any, Protocol

from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.folds.events import EventCache
from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import build_pdu
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.hashing import encode_base64, reference_hash
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.relations import THREAD, relation_of
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_map import CREATE, StateKey
from homeserver.matrix.sticky import sticky_until_ms
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import MAX_PREV_EVENTS, RoomHead, new_head
from homeserver.rooms.heads import Room, RoomHeads
from homeserver.rooms.ports import EventReviewer
from homeserver.rooms.redactions import redacted_target
from homeserver.runtime.clock import Clock
from homeserver.runtime.turns import Turns
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogWriter, LostCompare
from homeserver.store.room_writes import NewEvent, NewRoom, RoomWrite, Transaction

ATTEMPTS = 20
# An event waits for its review this often while others go on writing to the room; then these wait.
HASTY_ATTEMPTS = 3
POLICY: StateKey = ("m.room.policy", "")
_REDACTION = "m.room.redaction"


@frozen
class Draft:
    """An event that is still to be built."""

    type: str
    sender: UserId
    content: dict[str, Any]
    state_key: str | None = None
    redacts: EventId | None = None
    ts_ms: int | None = None
    device_id: str | None = None
    txn_id: str | None = None
    sticky_ms: int | None = None


Plan = Callable[[RoomHead], Sequence[Draft]]


class PushOutcomes(Protocol):
    """What the default push rules say of an event: the bits of events.push_outcome (rooms/unread.py)."""

    def outcome(self, head: RoomHead, pdu: Pdu, /) -> int: ...


class RoomBusy(MatrixError):
    """Others kept writing to the room faster than we could."""

    status = 503


@frozen
class _Known:
    """Where the builder finds events: built but not committed, loaded for this write, or cached.

    In `loaded`, None stands for an event that is not to be had.
    """

    fresh: dict[EventId, StoredEvent]
    loaded: dict[EventId, StoredEvent | None]
    cache: EventCache

    def get(self, event_id: EventId) -> StoredEvent | None:
        return self.fresh.get(event_id) or self.loaded.get(event_id) or self.cache.get(event_id)


_Build = Callable[[Room, _Known], RoomWrite | None]


class _Missing(Exception):
    """Events that must be in memory first."""

    def __init__(self, ids: set[EventId]) -> None:
        super().__init__(ids)
        self.ids = ids


@define(eq=False)
class RoomWriter:
    """The one way for local events into rooms."""

    server_name: ServerName
    signing_key: SigningKey
    clock: Clock
    heads: RoomHeads
    events: EventCache
    log: LogWriter
    push_outcomes: PushOutcomes
    # Where a room has a policy server, it is asked before anything is written.
    reviewer: EventReviewer | None = None
    # Held by whoever takes in events of other servers.
    inbound_turns: Turns[RoomId] = field(factory=Turns)
    _reviewing: Turns[RoomId] = field(init=False, factory=Turns)

    async def write(
        self,
        room_id: RoomId,
        plan: Plan,
        *,
        transaction: Transaction | None = None,
        save: Callable[[Connection, int], None] | None = None,
    ) -> list[StoredEvent]:
        """Write what the plan asks for; the events, durable and known to all followers. Empty if it asked for none.

        Raises: NotFound (no such room), AuthRejected, TooLarge, DuplicateTransaction, and what the plan and the reviewer
        raise.
        """
        loaded: dict[EventId, StoredEvent | None] = {}
        for _ in range(ATTEMPTS):
            room = self.heads.get_room(room_id) or await self.heads.load_room(room_id)
            if self.reviewer is not None and POLICY in room.speculative.state:
                return await self._write_reviewed(
                    self.reviewer, room_id, lambda room, known: self._build(room, plan, known, transaction, save)
                )
            try:
                write = self._build(room, plan, _Known(room.fresh, loaded, self.events), transaction, save)
            except _Missing as missing:
                await self._load(room.committed, missing.ids, loaded)
                continue
            except MatrixError:
                # A write that is built on an old head is found out when it is written; a refusal by one is found out here.
                if not await self.heads.is_outdated(room):
                    raise
                continue
            if write is None:
                return []
            room.pending.append(_head_of(write))
            try:
                await self.log.submit(write)
            except LostCompare:
                continue
            return [new.event for new in write.events]
        raise RoomBusy("The room is too busy, try again")

    async def build(self, room_id: RoomId, draft: Draft) -> Pdu:
        """The event that the draft would be now, signed and allowed by the room's state; it is not written.

        For invites, which another server signs before they enter the room. Raises: NotFound, AuthRejected, TooLarge, and
        what the reviewer raises.
        """
        loaded: dict[EventId, StoredEvent | None] = {}
        for _ in range(ATTEMPTS):
            room = self.heads.get_room(room_id) or await self.heads.load_room(room_id)
            try:
                pdu = self._build_one(room.committed, draft, _Known({}, loaded, self.events))[1].event.pdu
                return pdu if self.reviewer is None else await self.reviewer.review(pdu)
            except _Missing as missing:
                await self._load(room.committed, missing.ids, loaded)
        raise RoomBusy("The room is too busy, try again")

    async def create(
        self,
        version: RoomVersion,
        room_id: RoomId | None,
        drafts: Sequence[Draft],
        *,
        is_public: bool,
        save: Callable[[RoomId, Connection, int], None] | None = None,
    ) -> list[StoredEvent]:
        """Write a new room whole: the first draft is its create event. room_id is None where that event makes it.

        Raises: AuthRejected, TooLarge.
        """
        create = self._build_create(version, room_id, drafts[0])
        room_id = create.pdu.room_id
        head, new = new_head(room_id, version).advance(create)
        events = [new]
        known = _Known({create.event_id: create}, {}, self.events)
        for draft in drafts[1:]:
            head, new = self._build_one(head, draft, known)
            events.append(new)
        made = NewRoom(version.identifier, drafts[0].sender, create.pdu.origin_server_ts, is_public)
        saved = (lambda conn, position: save(room_id, conn, position)) if save is not None else None
        await self.log.submit(RoomWrite(room_id, 0, events, head.numbered(1), made, save=saved))
        return [new.event for new in events]

    def _new_event_id(self, version: RoomVersion) -> EventId | None:
        """Versions 1 and 2 have ids that we choose; in the others the event's hash is its id."""
        return EventId(f"${token_urlsafe(18)}:{self.server_name}") if version.event_id_on_wire else None

    async def _load(self, head: RoomHead, ids: set[EventId], loaded: dict[EventId, StoredEvent | None]) -> None:
        """Load events of the room into `loaded`."""
        found = await self.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version})
        for event_id in ids:
            loaded[event_id] = found.get(event_id)

    # -- with a review -----------------------------------------------------------------------------------------------

    async def _write_reviewed(self, reviewer: EventReviewer, room_id: RoomId, build: _Build) -> list[StoredEvent]:
        """Build, have it reviewed, and write if the room is still as it was; one at a time in each room.

        Raises: as write.
        """
        async with self._reviewing.take(room_id):
            for _ in range(HASTY_ATTEMPTS):
                events = await self._try_reviewed(reviewer, room_id, build)
                if events is not None:
                    return events
            async with self.inbound_turns.take(room_id):
                for _ in range(ATTEMPTS):
                    events = await self._try_reviewed(reviewer, room_id, build)
                    if events is not None:
                        return events
        raise RoomBusy("The room is too busy, try again")

    async def _try_reviewed(self, reviewer: EventReviewer, room_id: RoomId, build: _Build) -> list[StoredEvent] | None:
        """None if somebody wrote to the room meanwhile."""
        room = await self.heads.load_room(room_id)
        if room.pending:
            await self.log.flush()
            room = await self.heads.load_room(room_id)
        base, fresh = room.speculative, dict(room.fresh)
        write = await self._build_loaded(room, fresh, build)
        if write is None:
            return []
        for new in write.events:
            new.event.pdu = await reviewer.review(new.event.pdu)
        if self.heads.get_room(room_id) is not room or room.speculative is not base:
            return None
        room.fresh.update(fresh)
        room.pending.append(_head_of(write))
        try:
            await self.log.submit(write)
        except LostCompare:
            return None
        return [new.event for new in write.events]

    async def _build_loaded(self, room: Room, fresh: dict[EventId, StoredEvent], build: _Build) -> RoomWrite | None:
        """Raises: as write."""
        loaded: dict[EventId, StoredEvent | None] = {}
        for _ in range(ATTEMPTS):
            try:
                return build(room, _Known(fresh, loaded, self.events))
            except _Missing as missing:
                await self._load(room.committed, missing.ids, loaded)
        raise RoomBusy("The room is too busy, try again")

    # -- no await from here on ---------------------------------------------------------------------------------------

    def _build(
        self,
        room: Room,
        plan: Plan,
        known: _Known,
        transaction: Transaction | None,
        save: Callable[[Connection, int], None] | None,
    ) -> RoomWrite | None:
        base = room.speculative
        drafts = plan(base)
        if not drafts:
            return None
        head = base
        events = []
        for draft in drafts:
            head, new = self._build_one(head, draft, known)
            events.append(new)
        head = head.numbered(base.number + 1)
        return RoomWrite(base.room_id, base.number, events, head, transaction=transaction, save=save)

    def _build_one(self, head: RoomHead, draft: Draft, known: _Known) -> tuple[RoomHead, NewEvent]:
        version = head.version
        keys = auth_types_for(version, draft.type, draft.sender, draft.state_key, draft.content)
        auth_events = _events_at(head, keys, known)
        prev_events = head.extremities[:MAX_PREV_EVENTS]
        pdu = build_pdu(
            version,
            type=draft.type,
            sender=draft.sender,
            room_id=head.room_id,
            content=draft.content,
            state_key=draft.state_key,
            redacts=draft.redacts,
            sticky_ms=draft.sticky_ms,
            prev_events=prev_events,
            auth_events=[event.event_id for event in auth_events.values()],
            depth=head.next_depth(),
            origin_server_ts=draft.ts_ms if draft.ts_ms is not None else self.clock.time_ms(),
            signing_key=self.signing_key,
            server_name=self.server_name,
            event_id=self._new_event_id(version),
            hashes_of=_hashes(version, prev_events, auth_events, known),
        )
        state = {key: event.pdu for key, event in auth_events.items()}
        if CREATE not in state:
            state[CREATE] = head.create
        check_auth(pdu, state)
        event = StoredEvent(
            pdu,
            txn_device_id=draft.device_id,
            txn_id=draft.txn_id,
            push_outcome=self.push_outcomes.outcome(head, pdu),
            thread_root=_thread_root(pdu, known),
        )
        event.sticky_until_ms = sticky_until_ms(pdu, self.clock.time_ms())
        after, new = head.advance(event)
        if pdu.type == _REDACTION:
            new.redacts = _redacted(head, pdu, known)
        known.fresh[pdu.event_id] = event
        return after, new

    def _build_create(self, version: RoomVersion, room_id: RoomId | None, draft: Draft) -> StoredEvent:
        pdu = build_pdu(
            version,
            type=draft.type,
            sender=draft.sender,
            room_id=room_id,
            content=draft.content,
            state_key="",
            prev_events=[],
            auth_events=[],
            depth=1,
            origin_server_ts=self.clock.time_ms(),
            signing_key=self.signing_key,
            server_name=self.server_name,
            event_id=self._new_event_id(version),
        )
        check_auth(pdu, {})
        return StoredEvent(pdu)


def _head_of(write: RoomWrite) -> RoomHead:
    assert isinstance(write.head, RoomHead)
    return write.head


def _thread_root(pdu: Pdu, known: _Known) -> EventId | None:
    """The thread of an event: its own, or that of the event it relates to, which is known by now. Raises: _Missing.

    Spec: client-server-api#threaded-read-receipts
    """
    relation = relation_of(pdu.content) if pdu.state_key is None else None
    if relation is None:
        return None
    if relation.rel_type == THREAD:
        return relation.target
    target = known.get(relation.target)
    if target is None and relation.target not in known.loaded:
        raise _Missing({relation.target})
    return target.thread_root if target is not None and target.pdu.room_id == pdu.room_id else None


def _events_at(head: RoomHead, keys: Sequence[StateKey], known: _Known) -> dict[StateKey, StoredEvent]:
    """The state's events for those of the keys that it has. Raises: _Missing."""
    found: dict[StateKey, StoredEvent] = {}
    missing = set()
    for key in keys:
        event = head.pinned.get(key)
        if event is None and (event_id := head.state.get(key)) is not None:
            event = known.get(event_id)
            if event is None:
                missing.add(event_id)
        if event is not None:
            found[key] = event
    if missing:
        raise _Missing(missing)
    return found


def _hashes(
    version: RoomVersion,
    prev_events: Sequence[EventId],
    auth_events: Mapping[StateKey, StoredEvent],
    known: _Known,
) -> Callable[[EventId], str] | None:
    """The reference hashes of the referenced events, in versions 1 and 2, which want them. Raises: _Missing."""
    if not version.references_carry_hashes:
        return None
    found = {event.event_id: event for event in auth_events.values()}
    for event_id in prev_events:
        event = known.get(event_id)
        if event is None:
            raise _Missing({event_id})
        found[event_id] = event
    return lambda event_id: encode_base64(reference_hash(found[event_id].pdu.json, version))


def _redacted(head: RoomHead, pdu: Pdu, known: _Known) -> EventId | None:
    """The event that a redaction redacts, if it may. Raises: _Missing."""
    if pdu.redacts is None:
        return None
    target = known.get(pdu.redacts)
    if target is None and pdu.redacts not in known.loaded:
        raise _Missing({pdu.redacts})
    return redacted_target(head, pdu, target)
