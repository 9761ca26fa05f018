"""When the full state of a room has come that was joined with the members left out.

Everything that was taken in since the join is judged anew on the states that follow from the full one, oldest first; then the
extremities and the room's current state are worked out from what is left. It is one write: either the room is as it was, or
its state is full. Then what was rejected for want of members, and is allowed, takes its place at the end of the timeline.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from attrs import define, evolve, field
from sqlalchemy import Connection

from homeserver.matrix.ids import EventId, RoomId, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey, build_state_map
from homeserver.matrix.sticky import sticky_until_ms
from homeserver.rooms.head import MEMBER, RoomHead, StateChange, membership_change
from homeserver.rooms.heads import Room
from homeserver.rooms.ingest import Ingest, save_arrival
from homeserver.rooms.ingest_history import prev_events_first
from homeserver.rooms.ingest_run import Arrival
from homeserver.rooms.state_nodes import StateNode, changes_between
from homeserver.rooms.writer import ATTEMPTS, RoomBusy
from homeserver.store.event_graph import load_state_before
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange
from homeserver.store.log_writer import LostCompare
from homeserver.store.outside_rooms import delete_outside_rooms
from homeserver.store.partial_rooms import PartialRoom, load_events_since, save_judged, save_partial_room
from homeserver.store.room_writes import NewEvent, NewState, RoomWrite
from homeserver.store.snapshots import empty_snapshot
from homeserver.store.sticky import save_sticky

logger = logging.getLogger(__name__)


@define(eq=False)
class Completion:
    """Makes partial states full."""

    ingest: Ingest

    async def complete_state(self, room_id: RoomId, state: Sequence[Pdu], auth_chain: Sequence[Pdu], /) -> None:
        """`state` is all of the state before our join, whose formats, signatures and hashes were checked.

        Nothing happens if the room's state is full. Raises: NotFound (no such room), RoomBusy.
        """
        if state:
            await self.ingest.store_outliers(state[0].version, [*auth_chain, *state])
        await self.complete_stored(room_id, {pdu.key: pdu.event_id for pdu in state if pdu.state_key is not None})

    async def complete_stored(self, room_id: RoomId, given: Mapping[StateKey, EventId], /) -> None:
        """The same with a state whose events are stored."""
        ingest = self.ingest
        if ingest.partial.get(room_id) is None:
            return
        async with ingest.turns.take(room_id):
            for _ in range(ATTEMPTS):
                partial = ingest.partial.get(room_id)
                shown = await self._complete(partial, given) if partial is not None else []
                if shown is not None:
                    return await self._show(room_id, shown)
        raise RoomBusy("The room is too busy, try again")

    async def _complete(self, partial: PartialRoom, given: Mapping[StateKey, EventId]) -> Sequence[StoredEvent] | None:
        """What clients are to see only now; None if the room moved on meanwhile."""
        ingest, room_id = self.ingest, partial.room_id
        room = await ingest.heads.load_room(room_id)
        head = room.speculative
        if room.pending:
            await ingest.log.flush()
            return None
        empty = StateNode(empty_snapshot(room_id), build_state_map())
        before = await ingest.states.load_beside(empty, given)
        judging = Judging(ingest, room, partial, before)
        await judging.run(await ingest.database.read(load_events_since, partial, head.version))
        write = await self._build(head, judging)
        if room.speculative is not head or ingest.heads.get_room(room_id) is not room:
            return None
        assert isinstance(write.head, RoomHead)
        room.pending.append(write.head)
        try:
            await ingest.log.submit(write)
        except LostCompare:
            return None
        ingest.heads.drop(room_id)
        ingest.events.drop([new.event.event_id for new in judging.judged])
        ingest.partial.end(room_id)
        return judging.shown

    async def _build(self, head: RoomHead, judging: Judging) -> RoomWrite:
        ingest, partial = self.ingest, judging.partial
        node = await judging.resolve(judging.extremities(head))
        if await judging.admit(head, node):
            node = await judging.resolve(judging.extremities(head))
        extremities = judging.extremities(head)
        changes = await self._load_changes(head, node)
        after = evolve(head.with_state(node, changes), extremities=extremities, tips={}, number=head.number + 1)
        members = [_membership(change) for change in changes if change.key[0] == MEMBER]
        local = [change for change in members if domain_of(change.user_id) == ingest.server_name]
        others = [change for change in members if domain_of(change.user_id) != ingest.server_name]
        judged, room_id = judging.judged, head.room_id

        def save(conn: Connection, _: int) -> None:
            save_partial_room(conn, room_id, partial.event_id, (), partial.position)
            delete_outside_rooms(conn, room_id, [change.user_id for change in local])

        def save_first(conn: Connection) -> None:
            save_judged(conn, room_id, judged, partial.position)
            save_sticky(conn, [new.event for new in judged if new.event.soft_failed])

        state = NewState([change.delta for change in changes], local)
        return RoomWrite(room_id, head.number, [], after, save=save, unsaid=others, state=state, save_first=save_first)

    # -- what clients have not seen yet ------------------------------------------------------------------------------

    async def _show(self, room_id: RoomId, shown: Sequence[StoredEvent]) -> None:
        """Give the events, which count already, places in the timeline: the newest. Raises: RoomBusy."""
        ingest, ids = self.ingest, [event.event_id for event in shown]
        for _ in range(ATTEMPTS if shown else 0):
            room = await ingest.heads.load_room(room_id)
            arrivals = [await ingest.arrive_again(room, event) for event in shown]
            if ingest.heads.get_room(room_id) is not room:
                continue
            head = room.speculative
            after = head.numbered(head.number + 1)
            room.pending.append(after)
            ingest.events.drop(ids)
            news = [_placed(arrival) for arrival in arrivals]
            write = RoomWrite(room_id, head.number, news, after, save=_saving_all(arrivals))
            try:
                await ingest.log.submit(write)
            except LostCompare:
                continue
            return
        if shown:
            raise RoomBusy("The room is too busy, try again")

    async def _load_changes(self, head: RoomHead, node: StateNode) -> list[StateChange]:
        changed = changes_between(head.node, node)
        wanted = [event_id for event_id in changed.values() if event_id is not None]
        found = await self.ingest.events.load_many(dict.fromkeys(wanted, head.room_id), {head.room_id: head.version})
        return [
            StateChange(key, found[event_id] if event_id is not None else None, head.state.get(key))
            for key, event_id in changed.items()
        ]


@define(eq=False)
class Judging:
    """The events since the join, judged anew. `after` are the states after them; `shown` those that clients have not seen
    and shall see: they were rejected, and are allowed."""

    ingest: Ingest
    room: Room
    partial: PartialRoom
    before_join: StateNode
    judged: list[NewEvent] = field(factory=list)
    events: list[StoredEvent] = field(factory=list)
    after: dict[EventId, StateNode] = field(factory=dict)
    shown: list[StoredEvent] = field(factory=list)
    _candidates: list[StoredEvent] = field(factory=list, init=False)

    async def run(self, events: Sequence[StoredEvent]) -> None:
        by_id = {event.event_id: event for event in events}
        for pdu in prev_events_first([event.pdu for event in events]):
            await self._judge(by_id[pdu.event_id], by_id)

    async def _judge(self, event: StoredEvent, since: dict[EventId, StoredEvent]) -> None:
        pdu, ingest, head = event.pdu, self.ingest, self.room.committed
        before = await self._load_before(event, since)
        fault = await ingest.checks.find_fault(pdu, head.create, before.state)
        if fault is not None and event.rejected is None:
            logger.info("Rejected %s in %s, now that its full state is known: %s", pdu.event_id, pdu.room_id, fault)
        if event.rejected is not None and fault is None and not event.soft_failed:
            event.soft_failed = True  # until the room's current state has its say
            event.sticky_until_ms = sticky_until_ms(pdu, ingest.partial.clock.time_ms())
            self._candidates.append(event)
        event.rejected = fault
        is_change = pdu.state_key is not None and fault is None
        after = before.child({pdu.key: pdu.event_id}, [event]) if is_change else before
        self.after[pdu.event_id] = after
        self.events.append(event)
        self.judged.append(NewEvent(event, before.snapshot, after.snapshot))

    async def _load_before(self, event: StoredEvent, since: dict[EventId, StoredEvent]) -> StateNode:
        if event.event_id == self.partial.event_id:
            return self.before_join
        nodes = {self.after[prev_id] for prev_id in event.pdu.prev_events if prev_id in self.after}
        if not nodes or any(prev_id not in since for prev_id in event.pdu.prev_events):
            # It came with a state of its own, or stands on what was before the join.
            states = self.ingest.states
            told = await states.database.read(load_state_before, event)
            assert told is not None
            nodes.add(await states.load_beside(self.before_join, told))
        return await self.ingest.states.resolve(self.room, nodes, self.events)

    async def resolve(self, extremities: Sequence[EventId]) -> StateNode:
        """The room's state after these."""
        return await self.ingest.states.resolve(self.room, [self.after[each] for each in extremities], self.events)

    async def admit(self, head: RoomHead, node: StateNode) -> bool:
        """What was rejected for want of members counts from now on, if the room's current state allows it, too."""
        candidates, self._candidates = self._candidates, []
        for event in candidates:
            if await self.ingest.checks.find_fault_in(event.pdu, head.create, node.state) is None:
                event.soft_failed = False
                self.shown.append(event)
        return bool(self.shown)

    def extremities(self, head: RoomHead) -> tuple[EventId, ...]:
        """What no event follows that counts."""
        counting = {event.event_id: event for event in self.events if event.rejected is None and not event.soft_failed}
        hidden = {event.event_id: event for event in self.events if event.event_id not in counting}
        followed: set[EventId] = set()
        stack = [prev_id for event in counting.values() for prev_id in event.pdu.prev_events]
        while stack:
            event_id = stack.pop()
            if event_id not in followed:
                followed.add(event_id)
                stack += hidden[event_id].pdu.prev_events if event_id in hidden else ()
        late = {event_id for event_id in counting if event_id not in head.extremities and event_id not in followed}
        ends = (*head.extremities, *(event.event_id for event in self.shown))
        kept = [event_id for event_id in ends if event_id in counting and event_id not in followed]
        # An event that came late is behind others, unless what stood before it was taken away.
        found = kept or sorted(late, key=lambda event_id: counting[event_id].pdu.depth)[-1:]
        return tuple(found) or (self.partial.event_id,)


def _placed(arrival: Arrival) -> NewEvent:
    """Its states are stored already."""
    before = arrival.before.snapshot
    return NewEvent(arrival.event, before, before, redacts=arrival.redacts, was_outlier=True)


def _saving_all(arrivals: Sequence[Arrival]) -> Callable[[Connection, int], None]:
    def save(conn: Connection, position: int) -> None:
        for arrival in arrivals:
            save_arrival(arrival)(conn, position)

    return save


def _membership(change: StateChange) -> MembershipChange:
    if change.event is not None:
        return membership_change(change.event.pdu)
    user_id = UserId(change.key[1])
    assert change.previous is not None
    return MembershipChange(user_id, "leave", change.previous, user_id)
