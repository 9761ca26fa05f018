"""Entering a room through another server: its state before our join becomes a snapshot, our join the head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import immutables
from attrs import define, evolve
from sqlalchemy import Connection

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import AuthRejected, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, create_event_id_of, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import CREATE, StateKey
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import MEMBER, RoomHead, StateChange, membership_change, new_head
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.receipt_checks import ReceiptChecks
from homeserver.rooms.state_loading import States
from homeserver.rooms.state_nodes import StateNode, changes_between
from homeserver.rooms.writer import ATTEMPTS, RoomBusy
from homeserver.store.event_gaps import save_gaps
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange
from homeserver.store.log_writer import LogWriter, LostCompare
from homeserver.store.outside_rooms import delete_outside_rooms
from homeserver.store.partial_rooms import save_partial_room
from homeserver.store.room_writes import NewEvent, NewRoom, RoomWrite


@define(eq=False)
class RoomStarts:
    """Makes the heads of rooms that are joined, or moves those of rooms that were left, to where the room is now."""

    server_name: ServerName
    heads: RoomHeads
    events: EventCache
    log: LogWriter
    states: States
    checks: ReceiptChecks

    async def start(
        self, version: RoomVersion, join: Pdu, given: Mapping[StateKey, EventId], partial_from: Sequence[ServerName]
    ) -> None:
        """`given` is the state before the join, whose events are stored. Raises: AuthRejected, RoomBusy."""
        known = await self.events.load(join.event_id, join.room_id, version)
        for _ in range(ATTEMPTS):
            head = await self._load_head(join.room_id, version)
            before = await self.states.load_beside(head.node, given)
            create = await self._load_create(join, before, version)
            fault = await self.checks.find_fault(join, create.pdu, before.state)
            if fault is not None:
                raise AuthRejected(fault)
            event = StoredEvent(join, nid=known.nid if known is not None else 0)
            event.replaces = before.state.get(join.key)
            write = await self._build(head, event, before, create, known is not None, partial_from)
            room = self.heads.get_room(join.room_id)
            if head.number and (room is None or room.speculative is not head):
                continue
            if room is not None:
                room.pending.append(write_head(write))
            try:
                await self.log.submit(write)
            except LostCompare:
                continue
            return
        raise RoomBusy("The room is too busy, try again")

    async def _load_head(self, room_id: RoomId, version: RoomVersion) -> RoomHead:
        try:
            return (await self.heads.load_room(room_id)).speculative
        except NotFound:
            return new_head(room_id, version)

    async def _load_create(self, join: Pdu, before: StateNode, version: RoomVersion) -> StoredEvent:
        event_id = before.state.get(CREATE)
        if version.room_id_is_create_hash:
            event_id = create_event_id_of(join.room_id)
        create = await self.events.load(event_id, join.room_id, version) if event_id is not None else None
        if create is None or create.rejected is not None:
            raise AuthRejected("The room has no create event")
        return create

    async def _build(
        self,
        head: RoomHead,
        event: StoredEvent,
        before: StateNode,
        create: StoredEvent,
        was_outlier: bool,
        partial_from: Sequence[ServerName],
    ) -> RoomWrite:
        join = event.pdu
        node = before.child({join.key: join.event_id}, [event])
        changes = await self._load_changes(head, node, event)
        after = (
            evolve(head, members=immutables.Map(), joined=0, invited=0, servers=immutables.Map())
            if not head.number
            else head
        )
        after = after.merge(join, (join.event_id,), {join.event_id: node}, node, changes)
        new = NewEvent(event, before.snapshot, node.snapshot, [change.delta for change in changes])
        new.was_outlier = was_outlier
        new.membership = membership_change(join)
        others = [_membership(change) for change in changes if change.key[0] == MEMBER and change.event is not event]
        new.others = [change for change in others if domain_of(change.user_id) == self.server_name]
        made = None
        if not head.number:
            pdu = create.pdu
            made = NewRoom(head.version.identifier, pdu.sender, pdu.origin_server_ts, False)
        there = await self.events.load_many(dict.fromkeys(join.prev_events, join.room_id), {join.room_id: head.version})
        missing = [prev for prev in join.prev_events if prev not in there or there[prev].is_outlier]
        # Nobody here has a timeline that ends before the first join.
        event.follows_gap = bool(missing and head.number)
        members = [key[1] for key in node.state if key[0] == MEMBER and domain_of(key[1]) == self.server_name]

        def save(conn: Connection, position: int) -> None:
            save_gaps(conn, join.room_id, join.event_id, missing)
            delete_outside_rooms(conn, join.room_id, members)
            save_partial_room(conn, join.room_id, join.event_id, partial_from, position)

        return RoomWrite(
            join.room_id,
            head.number,
            [new],
            after,
            made,
            save=save,
            unsaid=[change for change in others if domain_of(change.user_id) != self.server_name],
        )

    async def _load_changes(self, head: RoomHead, node: StateNode, event: StoredEvent) -> list[StateChange]:
        """What leads from the head's state to the new one; O(n), as all of the room may be new."""
        changed = changes_between(head.node, node)
        wanted = [event_id for event_id in changed.values() if event_id is not None and event_id != event.event_id]
        found = await self.events.load_many(dict.fromkeys(wanted, head.room_id), {head.room_id: head.version})
        found[event.event_id] = event
        return [
            StateChange(key, found[event_id] if event_id is not None else None, head.state.get(key))
            for key, event_id in changed.items()
        ]


def write_head(write: RoomWrite) -> RoomHead:
    assert isinstance(write.head, RoomHead)
    return write.head


def _membership(change: StateChange) -> MembershipChange:
    if change.event is not None:
        return membership_change(change.event.pdu)
    user_id = UserId(change.key[1])
    assert change.previous is not None
    return MembershipChange(user_id, "leave", change.previous, user_id)
