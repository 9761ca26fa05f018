"""The head of a room: enough to build and to authorise an event, and to answer for its current state, with no query.

A head is a value. `advance` gives the head after an event; both share structure, so a chain of speculative heads (events
built on events that are not committed yet) costs little, and whoever holds a head holds a consistent view of the room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import immutables
from attrs import evolve, frozen

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import PowerLevels, power_levels
from homeserver.matrix.state_map import CREATE, JOIN_RULES, POWER_LEVELS, StateKey, StateMap
from homeserver.matrix.versions import RoomVersion
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange, StateDelta
from homeserver.store.room_writes import NewEvent
from homeserver.store.snapshots import Change, Snapshot, empty_snapshot

MEMBER = "m.room.member"
HISTORY_VISIBILITY: StateKey = ("m.room.history_visibility", "")
# State whose events a head keeps at hand: what authorisation and visibility ask for each time.
PINNED = frozenset({CREATE, POWER_LEVELS, JOIN_RULES, HISTORY_VISIBILITY})

_NO_MEMBERS: immutables.Map[UserId, str] = immutables.Map()
_NO_STATE: StateMap = immutables.Map()


@frozen(eq=False)
class RoomHead:
    """The state of a room after its newest event.

    number: raised by each write to the room (the compare-and-swap's version). members: the membership of everybody who
    has an m.room.member event. pinned: the events of the PINNED state that there is.
    """

    room_id: RoomId
    version: RoomVersion
    number: int
    extremities: tuple[EventId, ...]
    depth: int
    state: StateMap
    members: immutables.Map[UserId, str]
    joined: int
    invited: int
    pinned: Mapping[StateKey, StoredEvent]
    snapshot: Snapshot

    @property
    def create(self) -> Pdu:
        return self.pinned[CREATE].pdu

    @property
    def power_levels(self) -> PowerLevels:
        event = self.pinned.get(POWER_LEVELS)
        return power_levels(self.version, self.create, event.pdu if event is not None else None)

    @property
    def join_rule(self) -> str:
        """public, invite, knock, restricted, knock_restricted, private; "invite" where it is not set."""
        event = self.pinned.get(JOIN_RULES)
        rule = event.pdu.content.get("join_rule") if event is not None else None
        return rule if isinstance(rule, str) else "invite"

    @property
    def history_visibility(self) -> str:
        event = self.pinned.get(HISTORY_VISIBILITY)
        value = event.pdu.content.get("history_visibility") if event is not None else None
        return value if value in ("world_readable", "invited", "joined") else "shared"

    def membership(self, user_id: UserId) -> str | None:
        return self.members.get(user_id)

    def is_joined(self, user_id: UserId) -> bool:
        return self.members.get(user_id) == "join"

    def joined_users(self) -> list[UserId]:
        return [user_id for user_id, membership in self.members.items() if membership == "join"]

    def joined_servers(self) -> set[ServerName]:
        return {domain_of(user_id) for user_id in self.joined_users()}

    def next_depth(self) -> int:
        return min(self.depth + 1, self.version.max_depth)

    def advance(self, event: StoredEvent) -> tuple[RoomHead, NewEvent]:
        """The head after an event that was built on this one, and the event as the log writer takes it."""
        pdu = event.pdu
        head = evolve(self, extremities=(pdu.event_id,), depth=max(self.depth, pdu.depth))
        if pdu.state_key is None:
            return head, NewEvent(event, self.snapshot, self.snapshot)
        event.replaces = self.state.get(pdu.key)
        return head.with_state(event, [StateChange(pdu.key, event, event.replaces)])

    def with_state(
        self, event: StoredEvent, changes: Sequence[StateChange], before: Snapshot | None = None
    ) -> tuple[RoomHead, NewEvent]:
        """The head with keys of its state changed, all of them at `event`."""
        before = before or self.snapshot
        snapshot = Snapshot(self.room_id, parent=before, changes=[change.named for change in changes])
        head = self
        membership = None
        for change in changes:
            head = head._with_change(change)
            if change.key[0] == MEMBER and change.event is not None and change.event is event:
                membership = _membership_change(change.event.pdu)
        deltas = [change.delta for change in changes]
        return evolve(head, snapshot=snapshot), NewEvent(event, before, snapshot, deltas, membership)

    def _with_change(self, change: StateChange) -> RoomHead:
        key, event = change.key, change.event
        state = self.state.set(key, event.event_id) if event is not None else self.state.delete(key)
        head = evolve(self, state=state)
        if key in PINNED:
            pinned = {**self.pinned, key: event} if event is not None else _without(self.pinned, key)
            head = evolve(head, pinned=pinned)
        if key[0] == MEMBER:
            head = head._with_member(UserId(key[1]), membership_of(event.pdu) if event is not None else None)
        return head

    def _with_member(self, user_id: UserId, membership: str | None) -> RoomHead:
        was = self.members.get(user_id)
        members = self.members.set(user_id, membership) if membership else self.members.delete(user_id)
        return evolve(
            self,
            members=members,
            joined=self.joined + (membership == "join") - (was == "join"),
            invited=self.invited + (membership == "invite") - (was == "invite"),
        )


@frozen(eq=False)
class StateChange:
    """One key of the state gets another event, or (None) loses it. Then `removed_nid` names the event that goes."""

    key: StateKey
    event: StoredEvent | None
    previous: EventId | None
    removed_nid: int = 0

    @property
    def named(self) -> Change:
        return self.event if self.event is not None else -self.removed_nid

    @property
    def delta(self) -> StateDelta:
        return StateDelta(self.key, self.event.event_id if self.event is not None else None, self.previous)


def new_head(room_id: RoomId, version: RoomVersion) -> RoomHead:
    """The head of a room before its create event."""
    return RoomHead(room_id, version, 0, (), 0, _NO_STATE, _NO_MEMBERS, 0, 0, {}, empty_snapshot(room_id))


def membership_of(pdu: Pdu) -> str:
    """The membership that an m.room.member event gives its state key; "leave" where it names none."""
    membership = pdu.content.get("membership")
    return membership if isinstance(membership, str) else "leave"


def _membership_change(pdu: Pdu) -> MembershipChange:
    assert pdu.state_key is not None
    return MembershipChange(UserId(pdu.state_key), membership_of(pdu), pdu.event_id, pdu.sender)


def _without(pinned: Mapping[StateKey, StoredEvent], key: StateKey) -> Mapping[StateKey, StoredEvent]:
    return {other: event for other, event in pinned.items() if other != key}


__all__ = ["HISTORY_VISIBILITY", "MEMBER", "PINNED", "RoomHead", "StateChange", "membership_of", "new_head"]
