"""Finding out what is wrong with a room, and putting it right: for admins.

What counts are the states after the room's extremities. From them follow the current state, the memberships and the head. An
extremity that is not stored, or that nobody may see, is none; a room without any goes on from its newest event. Clients are
told what changes as they are when a room's full state has come (rooms/ingest_completion.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import immutables
from attrs import define, evolve, frozen
from sqlalchemy import Connection

from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import EventId, RoomId, UserId, domain_of
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.extremities import Extremities
from homeserver.rooms.head import MEMBER, RoomHead, membership_change
from homeserver.rooms.heads import Room
from homeserver.rooms.ingest import Ingest
from homeserver.rooms.state_nodes import StateNode
from homeserver.rooms.writer import RoomBusy
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange, StateDelta
from homeserver.store.log_writer import LogItem, LostCompare
from homeserver.store.room_repair import (
    REPAIRED,
    Repair,
    RoomFacts,
    StoredState,
    delete_stray_memberships,
    load_newest_event,
    load_room_facts,
    load_stored_state,
)
from homeserver.store.room_writes import NewState, RoomWrite
from homeserver.store.snapshots import Snapshot, load_state


@frozen
class RoomReport:
    """What a room is, and what is wrong with it in words."""

    facts: RoomFacts
    extremities: Sequence[StoredEvent]
    faults: Sequence[str]


@frozen(eq=False)
class RepairedHead:
    """What a room's row keeps of its head (store/room_writes.py)."""

    number: int
    extremities: tuple[EventId, ...]
    depth: int
    joined: int
    snapshot: Snapshot


@define(eq=False)
class RoomRepair:
    ingest: Ingest
    extremities: Extremities

    async def examine(self, room_id: RoomId) -> RoomReport:
        """Raises: NotFound."""
        facts = await self.ingest.database.read(load_room_facts, room_id)
        if facts is None:
            raise NotFound(f"This server does not know the room {room_id}")
        head = await self.ingest.heads.load(room_id)
        tips = await self._load_events(head, facts.extremities)
        stored, repair = await self._work_out(head)
        return RoomReport(facts, tips, _faults(stored, repair, tips))

    async def repair(self, room_id: RoomId) -> list[str]:
        """Put right what `examine` finds, and merge the extremities if a local member can; what was wrong.

        Raises: NotFound, RoomBusy.
        """
        async with self.ingest.turns.take(room_id):
            head = await self.ingest.heads.load(room_id)
            stored, repair = await self._work_out(head)
            faults = _faults(stored, repair, await self._load_events(head, stored.extremities))
            if any(not fault.startswith(_FORKED) for fault in faults):
                await self._write(head, stored, repair)
        await self.extremities.merge(room_id)
        return faults

    async def _write(self, head: RoomHead, stored: StoredState, repair: Repair) -> None:
        """Raises: RoomBusy."""
        moved = _moved_members(stored, repair)
        local = [change for change in moved if domain_of(change.user_id) == self.ingest.server_name]
        others = [change for change in moved if domain_of(change.user_id) != self.ingest.server_name]
        joined = sum(change.membership == "join" for change in repair.members.values())
        after = RepairedHead(stored.head_version + 1, repair.extremities, head.depth, joined, repair.snapshot)

        def save(conn: Connection, _: int) -> None:
            delete_stray_memberships(conn, head.room_id, stored.members.keys() - repair.members.keys())

        state = NewState([_delta(stored, repair, key) for key in _wrong_keys(stored, repair)], local)
        write = RoomWrite(head.room_id, stored.head_version, [], after, save=save, unsaid=others, state=state)
        log = self.ingest.log
        try:
            await log.submit(write)
        except LostCompare:
            raise RoomBusy("The room was written meanwhile, try again") from None
        # Memory may hold what no row of the log corrects.
        await log.submit(LogItem(REPAIRED, head.room_id, {}, lambda conn, position: None))

    async def _work_out(self, head: RoomHead) -> tuple[StoredState, Repair]:
        stored = await self.ingest.database.read(load_stored_state, head.room_id)
        if stored is None:
            raise NotFound(f"This server does not know the room {head.room_id}")
        tips = [event for event in await self._load_events(head, stored.extremities) if _counts(event)]
        if not tips:
            newest = await self.ingest.database.read(load_newest_event, head.room_id)
            tips = await self._load_events(head, [newest] if newest is not None else [])
        if not tips:
            raise NotFound("No event of the room is stored with its state: it can only be purged, and joined anew")
        node = await self._resolve(head, tips)
        extremities = tuple(event.event_id for event in tips)
        members = await self._load_members(head, node)
        return stored, Repair(extremities, node.snapshot, node.state, members)

    async def _resolve(self, head: RoomHead, tips: Sequence[StoredEvent]) -> StateNode:
        """From the snapshots, whatever memory and the table of the current state say."""
        snapshot_id = tips[0].snapshot_after
        assert snapshot_id is not None
        state = await self.ingest.database.read(load_state, head.room_id, snapshot_id)
        base = StateNode(Snapshot(head.room_id, snapshot_id=snapshot_id), immutables.Map(state))
        room = Room(evolve(head, node=base, tips={}))
        room.nodes.put(base)
        nodes = [await self.ingest.states.load_after(room, event) for event in tips]
        return await self.ingest.states.resolve(room, nodes)

    async def _load_members(self, head: RoomHead, node: StateNode) -> dict[UserId, MembershipChange]:
        wanted = [event_id for key, event_id in node.state.items() if key[0] == MEMBER]
        changes = [membership_change(event.pdu) for event in await self._load_events(head, wanted)]
        return {change.user_id: change for change in changes}

    async def _load_events(self, head: RoomHead, ids: Sequence[EventId]) -> list[StoredEvent]:
        found = await self.ingest.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version})
        return list(found.values())


_FORKED = "the room has"


def _counts(event: StoredEvent) -> bool:
    return not event.is_outlier and event.rejected is None and not event.soft_failed


def _faults(stored: StoredState, repair: Repair, tips: Sequence[StoredEvent]) -> list[str]:
    faults = []
    there = {event.event_id for event in tips}
    for event_id in stored.extremities:
        if event_id not in there:
            faults.append(f"the extremity {event_id} is not stored")
        elif event_id not in repair.extremities:
            faults.append(f"the extremity {event_id} is an event that does not count")
    if not stored.extremities:
        faults.append("the room's head names no extremity")
    wrong = _wrong_keys(stored, repair)
    if wrong:
        faults.append(f"the current state is wrong in {len(wrong)} keys: {_named(wrong)}")
    members = {user_id: (change.membership, change.event_id) for user_id, change in repair.members.items()}
    moved = [user_id for user_id in {*stored.members, *members} if stored.members.get(user_id) != members.get(user_id)]
    if moved:
        faults.append(f"the memberships of {len(moved)} users are wrong: {', '.join(sorted(moved)[:5])}")
    if len(repair.extremities) > 1:
        faults.append(f"{_FORKED} {len(repair.extremities)} extremities: nobody has sent an event that merges them yet")
    return faults


def _wrong_keys(stored: StoredState, repair: Repair) -> list[StateKey]:
    return [key for key in {*stored.state, *repair.state} if stored.state.get(key) != repair.state.get(key)]


def _delta(stored: StoredState, repair: Repair, key: StateKey) -> StateDelta:
    return StateDelta(key, repair.state.get(key), stored.state.get(key))


def _moved_members(stored: StoredState, repair: Repair) -> list[MembershipChange]:
    """What the memberships must become; those that the state does not have end."""
    moved = [
        change
        for user_id, change in repair.members.items()
        if stored.members.get(user_id) != (change.membership, change.event_id)
    ]
    gone = stored.members.keys() - repair.members.keys()
    return moved + [MembershipChange(user_id, "leave", stored.members[user_id][1], user_id) for user_id in gone]


def _named(keys: Sequence[StateKey]) -> str:
    return ", ".join(f"{type_} {state_key!r}" for type_, state_key in sorted(keys)[:5])
