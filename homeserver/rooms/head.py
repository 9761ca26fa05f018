"""The head of a room: enough to build and to authorise an event, and to answer for its current state, with no query.

A head is a value. `advance` gives the head after an event; both share structure, so a chain of speculative heads (events
built on events that are not committed yet) costs little, and whoever holds a head holds a consistent view of the room.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import immutables
from attrs import evolve, frozen

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import PowerLevels, power_levels
from homeserver.matrix.state_map import CREATE, JOIN_RULES, POWER_LEVELS, StateKey, StateMap
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.state_nodes import StateNode
from homeserver.store.events import StoredEvent
from homeserver.store.log import MembershipChange, StateDelta
from homeserver.store.room_writes import NewEvent
from homeserver.store.snapshots import Snapshot, empty_snapshot

MEMBER = "m.room.member"
MAX_PREV_EVENTS = 20  # Spec: server-server-api#pdus
HISTORY_VISIBILITY: StateKey = ("m.room.history_visibility", "")
# State whose events a head keeps at hand: what authorisation and visibility ask for each time.
PINNED = frozenset({CREATE, POWER_LEVELS, JOIN_RULES, HISTORY_VISIBILITY})

ServerCounts = immutables.Map[ServerName, int]

_NO_MEMBERS: immutables.Map[UserId, str] = immutables.Map()
_NO_SERVERS: ServerCounts = immutables.Map()
_NO_STATE: StateMap = immutables.Map()


@frozen(eq=False)
class RoomHead:
    """The state of a room after its newest event.

    number: raised by each write to the room (the compare-and-swap's version). members: the membership of everybody who
    has an m.room.member event. pinned: the events of the PINNED state that there is. tips: the states after the
    extremities, as far as memory has them; with several of them, `node` is the resolution of all. servers: how many users
    of each are joined.
    """

    room_id: RoomId
    version: RoomVersion
    number: int
    extremities: tuple[EventId, ...]
    depth: int
    node: StateNode
    members: immutables.Map[UserId, str]
    joined: int
    invited: int
    pinned: Mapping[StateKey, StoredEvent]
    tips: Mapping[EventId, StateNode] = {}
    servers: ServerCounts = _NO_SERVERS

    @property
    def state(self) -> StateMap:
        return self.node.state

    @property
    def snapshot(self) -> Snapshot:
        return self.node.snapshot

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
        return set(self.servers)

    def is_server_joined(self, server: ServerName) -> bool:
        """Whether any of its users is joined."""
        return server in self.servers

    def next_depth(self) -> int:
        return min(self.depth + 1, self.version.max_depth)

    def advance(self, event: StoredEvent) -> tuple[RoomHead, NewEvent]:
        """The head after an event that was built on this one, and the event as the log writer takes it."""
        pdu = event.pdu
        if pdu.state_key is None:
            return self._after(pdu), NewEvent(event, self.snapshot, self.snapshot)
        event.replaces = self.state.get(pdu.key)
        node = self.node.child({pdu.key: pdu.event_id}, [event])
        change = StateChange(pdu.key, event, event.replaces)
        head = self.with_state(node, [change])._after(pdu)
        new = NewEvent(event, self.snapshot, node.snapshot, [change.delta])
        new.membership = membership_change(pdu) if pdu.type == MEMBER else None
        return head, new

    def merge(
        self,
        pdu: Pdu,
        extremities: tuple[EventId, ...],
        tips: Mapping[EventId, StateNode],
        node: StateNode,
        changes: Sequence[StateChange],
    ) -> RoomHead:
        """The head after an event that another server made: its extremities, and the state that they resolve to."""
        head = self.with_state(node, changes)
        return head._moved(self.number + 1, extremities, max(self.depth, pdu.depth), tips)

    def with_state(self, node: StateNode, changes: Sequence[StateChange]) -> RoomHead:
        """The head with another state; `changes` are the differences."""
        pinned, members, servers, moved = self.pinned, self.members, self.servers, []
        for change in changes:
            if change.key in PINNED:
                pinned = _without(pinned, change.key) if change.event is None else {**pinned, change.key: change.event}
            if change.key[0] == MEMBER:
                user_id = UserId(change.key[1])
                now = membership_of(change.event.pdu) if change.event is not None else None
                was = members.get(user_id)
                moved.append((was, now))
                if (was == "join") != (now == "join"):
                    servers = _with_one(servers, domain_of(user_id), 1 if now == "join" else -1)
                members = members.set(user_id, now) if now is not None else members.delete(user_id)
        return evolve(
            self,
            node=node,
            pinned=pinned,
            members=members,
            joined=self.joined + _count("join", moved),
            invited=self.invited + _count("invite", moved),
            servers=servers,
        )

    def numbered(self, number: int) -> RoomHead:
        """The head as the write of that number leaves it."""
        return self._moved(number, self.extremities, self.depth, self.tips)

    def _after(self, pdu: Pdu) -> RoomHead:
        """Behind an event that left this state."""
        extremities = (pdu.event_id, *self.extremities[MAX_PREV_EVENTS:])
        tips = {known: tip for known, tip in self.tips.items() if known in extremities}
        tips[pdu.event_id] = self.node
        return self._moved(self.number, extremities, max(self.depth, pdu.depth), tips)

    def _moved(
        self, number: int, extremities: tuple[EventId, ...], depth: int, tips: Mapping[EventId, StateNode]
    ) -> RoomHead:
        """With the same state. PERF(2 % of a send's CPU): evolve() takes more than twice as long."""
        state = (self.node, self.members, self.joined, self.invited, self.pinned)
        return RoomHead(self.room_id, self.version, number, extremities, depth, *state, tips, self.servers)


def count_servers(members: Mapping[UserId, str]) -> ServerCounts:
    """How many users of each server are joined."""
    return immutables.Map(Counter(domain_of(user_id) for user_id, each in members.items() if each == "join"))


def _with_one(servers: ServerCounts, server: ServerName, more: int) -> ServerCounts:
    count = servers.get(server, 0) + more
    return servers.set(server, count) if count > 0 else servers.delete(server)


def _count(membership: str, moved: Sequence[tuple[str | None, str | None]]) -> int:
    return sum((now == membership) - (was == membership) for was, now in moved)


@frozen(eq=False)
class StateChange:
    """One key of the state gets another event, or (None) loses it."""

    key: StateKey
    event: StoredEvent | None
    previous: EventId | None

    @property
    def delta(self) -> StateDelta:
        return StateDelta(self.key, self.event.event_id if self.event is not None else None, self.previous)


def new_head(room_id: RoomId, version: RoomVersion) -> RoomHead:
    """The head of a room before its create event."""
    empty = StateNode(empty_snapshot(room_id), _NO_STATE)
    return RoomHead(room_id, version, 0, (), 0, empty, _NO_MEMBERS, 0, 0, {})


def membership_of(pdu: Pdu) -> str:
    """The membership that an m.room.member event gives its state key; "leave" where it names none."""
    membership = pdu.content.get("membership")
    return membership if isinstance(membership, str) else "leave"


def membership_change(pdu: Pdu) -> MembershipChange:
    assert pdu.state_key is not None
    return MembershipChange(UserId(pdu.state_key), membership_of(pdu), pdu.event_id, pdu.sender)


def _without(pinned: Mapping[StateKey, StoredEvent], key: StateKey) -> Mapping[StateKey, StoredEvent]:
    return {other: event for other, event in pinned.items() if other != key}


__all__ = [
    "HISTORY_VISIBILITY",
    "MAX_PREV_EVENTS",
    "MEMBER",
    "PINNED",
    "RoomHead",
    "StateChange",
    "count_servers",
    "membership_change",
    "membership_of",
    "new_head",
]
