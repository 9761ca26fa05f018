"""How events that other servers made enter the store, a room's head and the log.

An event finds its place in four steps:

1. The state before it: that after its prev events, resolved where they differ. Or what another server told, where they
   are not known.
2. The checks on receipt: by its own auth events, by the state before it (else it is rejected), by the room's current state
   (else it is soft failed). Rejected and soft-failed events are stored, and nobody sees them.
3. The head: the event takes the place of the extremities that it follows, and the room's current state is the resolution of
   the states after all extremities. This step has no await between reading the head and submitting the write, just as the
   writer of local events; what it lacks is loaded first, and then it is tried again.
4. The log: one row for the event, with what changed in the current state; and one for each membership that changed beside.

No step looks at all of a room's state, unless memory lost the way between two states (rooms/state_nodes.py).

Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from attrs import define, evolve, field
from sqlalchemy import Connection
from twisted.internet.defer import CancelledError

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import AuthRejected, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.relations import THREAD, relation_of
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.sticky import sticky_until_ms
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import MEMBER, PINNED, RoomHead, StateChange, membership_change
from homeserver.rooms.heads import Room, RoomHeads
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.rooms.ingest_outliers import OutlierStore
from homeserver.rooms.ingest_run import Arrival, Facts, Incoming, Receipt, Run
from homeserver.rooms.ingest_starts import RoomStarts
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.purges import OpenGate, RoomGate
from homeserver.rooms.receipt_checks import ReceiptChecks
from homeserver.rooms.redactions import may_redact, redacted_target
from homeserver.rooms.sights import Sights
from homeserver.rooms.state_loading import States
from homeserver.rooms.state_nodes import StateNode, changes_between
from homeserver.rooms.writer import ATTEMPTS, PushOutcomes, RoomBusy
from homeserver.runtime.db import Database, RowExists
from homeserver.runtime.turns import Turns
from homeserver.store.event_gaps import (
    delete_waiting_redactions,
    load_named_by_gaps,
    load_waiting_redactions,
    save_gaps,
    save_waiting_redaction,
)
from homeserver.store.events import StoredEvent, load_events, load_rooms_of
from homeserver.store.log import MembershipChange
from homeserver.store.log_writer import LogWriter, LostCompare
from homeserver.store.outliers import hidden_item
from homeserver.store.room_writes import RoomWrite

logger = logging.getLogger(__name__)

# On the way back over events that nobody sees, to the extremities behind them.
MAX_HIDDEN_WALK = 200
_REDACTION = "m.room.redaction"


__all__ = ["Ingest", "Receipt"]


@define(eq=False)
class Ingest:
    """The one way for other servers' events into rooms."""

    server_name: ServerName
    database: Database
    heads: RoomHeads
    events: EventCache
    log: LogWriter
    push_outcomes: PushOutcomes
    partial: PartialStates
    gate: RoomGate = field(factory=OpenGate)
    states: States = field(init=False)
    checks: ReceiptChecks = field(init=False)
    outliers: OutlierStore = field(init=False)
    starts: RoomStarts = field(init=False)
    sights: Sights = field(init=False)
    turns: Turns[RoomId] = field(factory=Turns, init=False)

    def __attrs_post_init__(self) -> None:
        self.states = States(self.database, self.events)
        self.checks = ReceiptChecks(self.events)
        self.outliers = OutlierStore(self.database, self.events, self.log)
        self.sights = Sights(self.server_name, self.events)
        self.starts = RoomStarts(self.server_name, self.heads, self.events, self.log, self.states, self.checks)

    async def store_outliers(self, version: RoomVersion, pdus: Sequence[Pdu], /) -> set[EventId]:
        """Store auth chains and states whose formats, signatures and hashes were checked; known ones are skipped.

        Each is judged by its auth events, and stored as rejected if they do not allow it. Those whose auth events are
        neither known nor among `pdus` are left out: the answer.
        """
        left_out: set[EventId] = set()
        for room_id in dict.fromkeys(pdu.room_id for pdu in pdus):
            left_out |= await self.outliers.store(room_id, version, [pdu for pdu in pdus if pdu.room_id == room_id])
        return left_out

    async def receive(
        self, pdu: Pdu, /, *, state_before: Mapping[StateKey, EventId] | None = None, unwanted: str | None = None
    ) -> Receipt:
        """Take in an event whose format, signatures and hashes were checked.

        All of its prev events are stored with their states, or `state_before` is what a server says that the missing
        ones led to: it is resolved with the states after those that are there. Its events are stored.
        unwanted: why the event shall be soft failed, whatever the room's state says (a policy server).

        Raises: NotFound (no such room), MissingEvents, AuthRejected (an event in the format of another room version).
        Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
        """
        (outcome,) = await self._receive_all(pdu.room_id, [Incoming(pdu, state_before, unwanted)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def receive_many(self, pdus: Sequence[Pdu], /) -> list[Receipt | Exception]:
        """The same for events of one room, each behind those of the others that it builds on, and each with its own outcome.

        They share reads, and commits: each is judged on the room as it is with those before it, while these are still on
        their way to the disk.
        Raises: NotFound (no such room).
        """
        return await self._receive_all(pdus[0].room_id, [Incoming(pdu) for pdu in pdus])

    async def start_room(
        self,
        version: RoomVersion,
        event: Pdu,
        state: Sequence[Pdu],
        auth_chain: Sequence[Pdu],
        /,
        *,
        partial_from: Sequence[ServerName] = (),
    ) -> StoredEvent:
        """Enter a room by `event`, a join that another server took: `state` is that before it.

        A room that this server was in before goes on from there; what happened meanwhile is a gap. Where it is in the room
        already, the join is received as any event. partial_from: members were left out of `state`; these servers can tell
        them.

        Raises: AuthRejected, where that state does not allow the join, or the room is known here and of another version.
        Spec: server-server-api#joining-rooms
        """
        async with self.gate.entering(event.room_id):
            known = (await self.heads.load_many([event.room_id])).get(event.room_id)
            if known is not None and known.version != version:
                raise AuthRejected(f"The room is of version {known.version.identifier}")
            await self.store_outliers(version, [*auth_chain, *state])
            given = {pdu.key: pdu.event_id for pdu in state if pdu.state_key is not None}
            if await self._is_in_room(event.room_id):
                await self.receive(event, state_before=given)
            else:
                async with self.turns.take(event.room_id):
                    await self.starts.start(version, event, given, partial_from)
                    await self.partial.start()
        stored = await self.events.load(event.event_id, event.room_id, version)
        if stored is None or stored.rejected is not None:
            raise AuthRejected(stored.rejected if stored is not None and stored.rejected else "The join was not stored")
        return stored

    async def _is_in_room(self, room_id: RoomId) -> bool:
        try:
            head = await self.heads.load(room_id)
        except NotFound:
            return False
        return head.is_server_joined(self.server_name)

    # -- several events ----------------------------------------------------------------------------------------------

    async def _receive_all(self, room_id: RoomId, incoming: Sequence[Incoming]) -> list[Receipt | Exception]:
        outcomes: dict[EventId, Receipt | Exception] = {}
        async with self.turns.take(room_id):
            left = incoming
            for _ in range(ATTEMPTS):
                run = await self._start_run(room_id, left)
                for each in left:
                    await self._try_receive(run, each)
                await run.wait()
                outcomes |= run.outcomes
                left = [each for each in left if each.pdu.event_id not in outcomes]
                if not left:
                    break
        busy = RoomBusy("The room is too busy, try again")
        return [outcomes.get(each.pdu.event_id, busy) for each in incoming]

    async def _start_run(self, room_id: RoomId, incoming: Sequence[Incoming]) -> Run:
        """One read for all that is to be known of the events and of what they name."""
        room = await self.heads.load_room(room_id)
        new = {each.pdu.event_id: each.pdu for each in incoming if not self._is_known(each.pdu.event_id)}
        named = {event_id for pdu in new.values() for event_id in (*pdu.prev_events, *pdu.auth_events)}
        unread = [event_id for event_id in named if event_id not in new and self.events.peek(event_id) is None]
        if not new:
            return Run(room, {})
        facts, read = await self.database.read(load_facts, room_id, room.committed.version, list(new), unread)
        self.events.put_all(read)
        return Run(room, facts)

    def _is_known(self, event_id: EventId) -> bool:
        event = self.events.get(event_id)
        return event is not None and not event.is_outlier

    async def _try_receive(self, run: Run, incoming: Incoming) -> None:
        """Leaves no outcome where the event has to be judged anew, or is on its way to the disk."""
        event_id = incoming.pdu.event_id
        if run.is_lost or event_id in run.outcomes or event_id in run.after:
            return
        try:
            receipt = await self._receive(run, incoming)
        except CancelledError:
            raise
        except (LostCompare, RowExists):
            run.is_lost = True
        except Exception as error:  # whose event it is decides what to make of it
            run.outcomes[event_id] = error
        else:
            if receipt is not None:
                run.outcomes[event_id] = receipt

    async def _receive(self, run: Run, incoming: Incoming) -> Receipt | None:
        """None, if it is accepted and on its way to the disk."""
        pdu = incoming.pdu
        facts = run.facts.get(pdu.event_id)
        if facts is None or (facts.known is not None and not facts.known.is_outlier):
            return Receipt.KNOWN
        run.room = await self.heads.load_room(pdu.room_id)
        if pdu.version != run.room.committed.version:
            raise AuthRejected(f"The room is of version {run.room.committed.version.identifier}")
        if facts.is_taken:
            raise AuthRejected("Its id is that of an event of another room")
        before, missing = await self._load_before(run, pdu, incoming.state_before)
        return await self._take_in(run, incoming, facts, before, missing)

    # -- 1. the state before an event ------------------------------------------------------------------------------

    async def _load_before(
        self, run: Run, pdu: Pdu, given: Mapping[StateKey, EventId] | None
    ) -> tuple[StateNode, frozenset[EventId]]:
        """The state before the event, and those of its prev events that are not there."""
        room, head = run.room, run.room.committed
        nodes = {run.after[prev_id] for prev_id in pdu.prev_events if prev_id in run.after}
        others = [prev_id for prev_id in pdu.prev_events if prev_id not in run.after]
        stored = await self.events.load_many(dict.fromkeys(others, head.room_id), {head.room_id: head.version})
        there = [event for event in stored.values() if not event.is_outlier and event.pdu.room_id == head.room_id]
        missing = frozenset(others) - {event.event_id for event in there}
        if given is None and (missing or not pdu.prev_events):
            raise MissingEvents(missing)
        nodes |= {await self.states.load_after(room, event) for event in there}
        if given is not None:
            nodes.add(await self.states.load_given(room, given))
        return await self.states.resolve(room, nodes), missing

    async def _load_events(self, room: Room, ids: Sequence[EventId]) -> list[StoredEvent]:
        head = room.committed
        found = await self.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version}, room.fresh)
        return [event for event in found.values() if event.pdu.room_id == head.room_id]

    # -- 2. the checks ---------------------------------------------------------------------------------------------

    async def _take_in(
        self, run: Run, incoming: Incoming, facts: Facts, before: StateNode, missing: frozenset[EventId]
    ) -> Receipt | None:
        pdu, room = incoming.pdu, run.room
        create = room.committed.create
        is_partial = self.partial.get(pdu.room_id) is not None
        rejected = await self.checks.find_fault(pdu, create, before.state, is_partial=is_partial, fresh=room.fresh)
        if facts.known is not None and facts.known.rejected is not None:
            rejected = facts.known.rejected
        facts = evolve(facts, redactions=[*facts.redactions, *run.redactions.get(pdu.event_id, ())])
        arrival = await self.arrive(room, pdu, facts, before, rejected, missing)
        if rejected is not None:
            logger.info("Rejected %s in %s: %s", pdu.event_id, pdu.room_id, rejected)
            return await self._hide(run, arrival, Receipt.REJECTED)
        fault = incoming.unwanted
        if fault is None and arrival.redacts_in_vain:
            fault = "Its sender may not redact what it redacts"
        if fault is not None:
            arrival.event.sticky_until_ms = None  # what is unwanted is so whatever the room's state becomes
        elif not is_partial:
            fault = await self._find_soft_fault(run, pdu, create)
        if fault is not None:
            logger.info("Soft-failed %s in %s: %s", pdu.event_id, pdu.room_id, fault)
            arrival.event.soft_failed = True
            return await self._hide(run, arrival, Receipt.SOFT_FAILED)
        arrival.event.sight = await self.sights.load(run.room.speculative, before, run.room.fresh)
        arrival.superseded = await self.load_superseded(run.room, pdu)
        arrival.missing |= await self._load_missing_behind(run.room, arrival.superseded.difference(pdu.prev_events))
        await self.accept(run, arrival)
        return None

    async def _find_soft_fault(self, run: Run, pdu: Pdu, create: Pdu) -> str | None:
        """Check 6. What is on its way to the disk counts; but no event is soft failed for what may not get there."""
        run.room = room = await self.heads.load_room(pdu.room_id)
        fault = await self.checks.find_fault_in(pdu, create, room.speculative.state, room.fresh)
        if fault is None or not room.pending:
            return fault
        await self.log.flush()
        await run.wait_for_all()
        run.room = room = await self.heads.load_room(pdu.room_id)
        return await self.checks.find_fault_in(pdu, create, room.committed.state, room.fresh)

    async def arrive(
        self,
        room: Room,
        pdu: Pdu,
        facts: Facts,
        before: StateNode,
        rejected: str | None,
        missing: frozenset[EventId],
    ) -> Arrival:
        """The event with what is known of it; nothing is decided yet of its place in the room."""
        head, known = room.speculative, facts.known
        event = StoredEvent(pdu, nid=known.nid if known is not None else 0, rejected=rejected)
        if known is not None:
            before = await self.states.load_kept(room, 2 * known.nid, before)
        event.replaces = before.state.get(pdu.key) if pdu.state_key is not None else None
        event.thread_root = await self._thread_root(room, pdu)
        event.push_outcome = self.push_outcomes.outcome(head, pdu)
        is_change = pdu.state_key is not None and rejected is None
        after = before.child({pdu.key: pdu.event_id}, [event]) if is_change else before
        if known is not None and is_change:
            after = await self.states.load_kept(room, 2 * known.nid + 1, after)
        arrival = Arrival(event, known is not None, before, after, facts.is_late, missing)
        await self._redact(room, arrival, facts.redactions)
        if rejected is None:
            event.sticky_until_ms = sticky_until_ms(event.pdu, self.partial.clock.time_ms())
        return arrival

    async def arrive_again(self, room: Room, event: StoredEvent) -> Arrival:
        """A stored event that nobody sees, as if it came now, at the state that is stored for it."""
        pdu, head = event.pdu, room.committed
        found, _ = await self.database.read(load_facts, pdu.room_id, pdu.version, [pdu.event_id])
        facts = found[pdu.event_id]
        assert facts.known is not None and facts.known.snapshot_before is not None
        before = await self.states.load_snapshot(room, facts.known.snapshot_before)
        named = await self.events.load_many(dict.fromkeys(pdu.prev_events, head.room_id), {head.room_id: head.version})
        missing = frozenset(each for each in pdu.prev_events if each not in named or named[each].is_outlier)
        arrival = await self.arrive(room, pdu, facts, before, None, missing)
        arrival.event.sight = await self.sights.load(head, before)
        return arrival

    async def _thread_root(self, room: Room, pdu: Pdu) -> EventId | None:
        relation = relation_of(pdu.content) if pdu.state_key is None else None
        if relation is None or relation.rel_type == THREAD:
            return relation.target if relation is not None else None
        found = await self._load_events(room, [relation.target])
        return found[0].thread_root if found else None

    async def _redact(self, room: Room, arrival: Arrival, redactions: Sequence[EventId]) -> None:
        """What the event redacts; and whether it comes redacted itself."""
        pdu, head = arrival.event.pdu, room.speculative
        if pdu.type == _REDACTION and pdu.redacts is not None and arrival.event.rejected is None:
            target = next(iter(await self._load_events(room, [pdu.redacts])), None)
            arrival.redacts = redacted_target(head, pdu, target)
            is_there = target is not None and (target.event_id in room.fresh or not target.is_outlier)
            arrival.waits_for = pdu.redacts if not is_there else None
            arrival.redacts_in_vain = is_there and arrival.redacts is None
        for redaction in await self._load_events(room, redactions):
            if head.version.redaction_auth_rule or may_redact(head, redaction.pdu.sender, pdu):
                arrival.event.redact(redaction.event_id)
                return

    async def load_superseded(self, room: Room, pdu: Pdu) -> frozenset[EventId]:
        """The event's prev events, and what lies behind those of them that nobody sees."""
        found = set(pdu.prev_events)
        frontier = list(pdu.prev_events)
        while frontier and len(found) < MAX_HIDDEN_WALK:
            hidden = [
                event
                for event in await self._load_events(room, frontier)
                if event.soft_failed or event.rejected is not None
            ]
            frontier = [prev_id for event in hidden for prev_id in event.pdu.prev_events if prev_id not in found]
            found.update(frontier)
        return frozenset(found)

    async def _load_missing_behind(self, room: Room, hidden_prevs: Collection[EventId]) -> frozenset[EventId]:
        """Those of the events behind hidden prev events that are not stored."""
        found = await self._load_events(room, list(hidden_prevs)) if hidden_prevs else []
        there = {event.event_id for event in found if event.event_id in room.fresh or not event.is_outlier}
        return frozenset(hidden_prevs) - there

    async def _hide(self, run: Run, arrival: Arrival, receipt: Receipt) -> Receipt:
        """Its state must not rest on what is not stored yet."""
        await run.wait_for_all()
        event, new = arrival.event, arrival.new
        await self.log.submit(hidden_item(event.pdu.room_id, new, _save_gaps(arrival)))
        for snapshot in (new.before, new.after):
            if snapshot is not None:
                snapshot.settle()
        self.events.put(event)
        self.keep(arrival)
        return receipt

    def keep(self, arrival: Arrival) -> None:
        """The states around an event that is stored now are likely to be asked for."""
        room = self.heads.get_room(arrival.event.pdu.room_id)
        if room is not None:
            room.nodes.put(arrival.before)
            room.nodes.put(arrival.after)

    # -- 3. the head -----------------------------------------------------------------------------------------------

    async def accept(self, run: Run, arrival: Arrival) -> None:
        """Submit what takes the event in. Raises: RoomBusy, LostCompare."""
        room_id = arrival.event.pdu.room_id
        if arrival.missing and not arrival.is_late:
            arrival.event.follows_gap = await self._is_behind_gap(run, arrival)
        for _ in range(ATTEMPTS):
            room = await self.heads.load_room(room_id)
            await self._load_tips(room)
            await self._load_changes(room, arrival)
            if run.is_lost:
                raise LostCompare(room_id)
            run.room = room = self.heads.get_room(room_id) or room
            write = self._build(room, arrival)
            if write is not None:
                run.add(arrival, self.log.submit(write), self.keep)
                return
        raise RoomBusy("The room is too busy, try again")

    async def _is_behind_gap(self, run: Run, arrival: Arrival) -> bool:
        """More is missing before the event than before those that are in the timeline already."""
        known = await self.database.read(load_named_by_gaps, arrival.event.pdu.room_id, arrival.missing)
        return not arrival.missing <= known | run.missing

    async def _load_tips(self, room: Room) -> None:
        """The states after the extremities."""
        head = room.committed
        lacking = [event_id for event_id in head.extremities if event_id not in head.tips]
        if lacking:
            tips = {
                event.event_id: await self.states.load_after(room, event)
                for event in await self._load_events(room, lacking)
                if not event.is_outlier
            }
            if room.committed is head:
                room.committed = evolve(head, tips={**head.tips, **tips})

    async def _load_changes(self, room: Room, arrival: Arrival) -> None:
        """The room's state with the event, and the events that come into it."""
        head = room.speculative
        nodes = set(_tips_with(head, arrival).values())
        resolved = await self.states.resolve(room, nodes, [arrival.event])
        await self._load_needed(room, head, resolved)

    async def _load_needed(self, room: Room, head: RoomHead, node: StateNode) -> None:
        wanted = [
            event_id
            for key, event_id in changes_between(head.node, node).items()
            if event_id is not None and (key in PINNED or key[0] == MEMBER)
        ]
        await self._load_events(room, wanted)

    # -- no await from here on ---------------------------------------------------------------------------------------

    def _build(self, room: Room, arrival: Arrival) -> RoomWrite | None:
        """None if something must be loaded first."""
        head, event = room.speculative, arrival.event
        tips = _tips_with(head, arrival)
        if any(event_id not in tips for event_id in head.extremities if event_id not in arrival.superseded):
            return None
        node = room.nodes.get_resolved(tips.values())
        changes = self._changes(room, node, event) if node is not None else None
        if node is None or changes is None:
            return None
        after = head.merge(event.pdu, tuple(tips), tips, node, changes)
        new = arrival.new
        new.deltas = [change.delta for change in changes]
        new.membership, new.others = _memberships(changes, event)
        write = RoomWrite(head.room_id, head.number, [new], after, save=save_arrival(arrival))
        room.pending.append(after)
        room.fresh[event.event_id] = event
        return write

    def _changes(self, room: Room, node: StateNode, event: StoredEvent) -> list[StateChange] | None:
        """What leads from the head's state to another; None if events that it needs are not in memory."""
        changes, head = [], room.speculative
        for key, event_id in changes_between(head.node, node).items():
            found = event if event_id == event.event_id else None
            if event_id is not None and found is None:
                found = room.fresh.get(event_id) or self.events.get(event_id)
                if found is None:
                    return None
            changes.append(StateChange(key, found, head.state.get(key)))
        return changes


def _tips_with(head: RoomHead, arrival: Arrival) -> dict[EventId, StateNode]:
    """The states after the extremities that the room has with the event; without those that memory lacks."""
    tips = {
        event_id: head.tips[event_id]
        for event_id in head.extremities
        if event_id in head.tips and event_id not in arrival.superseded
    }
    if not arrival.is_late or not tips:
        tips[arrival.event.event_id] = arrival.after
    return tips


def _memberships(
    changes: Sequence[StateChange], event: StoredEvent
) -> tuple[MembershipChange | None, list[MembershipChange]]:
    """The membership that the event itself gave, and those that changed beside."""
    own, others = None, []
    for change in changes:
        if change.key[0] != MEMBER:
            continue
        if change.event is event:
            own = membership_change(event.pdu)
        elif change.event is not None:
            others.append(membership_change(change.event.pdu))
        else:
            user_id = UserId(change.key[1])
            others.append(MembershipChange(user_id, "leave", change.previous or event.event_id, user_id))
    return own, others


def _save_gaps(arrival: Arrival) -> Callable[[Connection, int], None]:
    """A gap behind an event that nobody sees counts only if a later event names it."""
    pdu = arrival.event.pdu
    missing = arrival.missing if arrival.is_late else ()

    def save(conn: Connection, _: int) -> None:
        save_gaps(conn, pdu.room_id, pdu.event_id, missing)

    return save


def save_arrival(arrival: Arrival) -> Callable[[Connection, int], None]:
    pdu = arrival.event.pdu

    def save(conn: Connection, _: int) -> None:
        save_gaps(conn, pdu.room_id, pdu.event_id, arrival.missing)
        if arrival.waits_for is not None:
            save_waiting_redaction(conn, pdu.room_id, arrival.waits_for, pdu.event_id)
        if arrival.event.redacted_by is not None:
            delete_waiting_redactions(conn, pdu.room_id, pdu.event_id)

    return save


def load_facts(
    conn: Connection, room_id: RoomId, version: RoomVersion, ids: Collection[EventId], others: Collection[EventId] = ()
) -> tuple[dict[EventId, Facts], list[StoredEvent]]:
    """What is known of each of `ids`; and those of `others` that are stored."""
    stored = {event.event_id: event for event in load_events(conn, [*ids, *others], {room_id: version})}
    late = load_named_by_gaps(conn, room_id, ids)
    redactions = load_waiting_redactions(conn, room_id, ids)
    rooms = load_rooms_of(conn, ids) if version.event_id_on_wire else {}
    facts = {
        event_id: Facts(
            stored.get(event_id),
            event_id in late,
            redactions.get(event_id, ()),
            is_taken=rooms.get(event_id, room_id) != room_id,
        )
        for event_id in ids
    }
    return facts, [stored[event_id] for event_id in others if event_id in stored]
