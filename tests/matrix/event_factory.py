"""Rooms made by hand, for tests of authorisation and state resolution.

A `Room` keeps its events and its state, and picks auth events as a server would. Event ids are chosen by the
test, so that it can say which event it expects; signatures are empty, as the functions under test do not look
at them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion

ALICE, BOB, CHARLIE, DAVE = "@alice:a.org", "@bob:b.org", "@charlie:c.org", "@dave:d.org"
EVE, ZARA = "@eve:e.org", "@zara:z.org"


def make_event(
    version: RoomVersion,
    type: str,
    sender: str,
    content: dict[str, Any],
    *,
    event_id: str,
    room_id: str | None,
    state_key: str | None = None,
    auth_events: Collection[str] = (),
    prev_events: Collection[str] = ("$previous:a.org",),
    ts: int = 1,
    depth: int = 1,
    redacts: str | None = None,
) -> Pdu:
    json: dict[str, Any] = {
        "type": type,
        "sender": sender,
        "content": content,
        "origin_server_ts": ts,
        "depth": depth,
        "auth_events": _references(version, auth_events),
        "prev_events": _references(version, prev_events),
        "hashes": {"sha256": "x"},
        "signatures": {},
    }
    optional = {"state_key": state_key, "room_id": room_id, "redacts": redacts}
    json.update((key, value) for key, value in optional.items() if value is not None)
    if version.event_id_on_wire:
        json["event_id"] = event_id
    return parse_pdu(json, version, event_id=EventId(event_id))


def _references(version: RoomVersion, ids: Collection[str]) -> list[Any]:
    return [[event_id, {"sha256": "x"}] if version.references_carry_hashes else event_id for event_id in ids]


def padded_id(name: str) -> str:
    """An id with the length of a hash, which the room ids of version 12 need."""
    return "$" + name.ljust(43, "_")


class Room:
    """A room of Alice's: all its events by id, and the state after the last one."""

    def __init__(self, version: RoomVersion, create_content: dict[str, Any] | None = None) -> None:
        self.version = version
        self.events: dict[EventId, Pdu] = {}
        self.state: dict[StateKey, EventId] = {}
        self.clock = 0
        self.hashed = version.room_id_is_create_hash
        create_id = padded_id("create") if self.hashed else "$create:a.org"
        self.room_id = RoomId("!" + create_id[1:] if self.hashed else "!room:a.org")
        content = dict(create_content or {})
        if not version.creator_is_sender:
            content.setdefault("creator", ALICE)
        self._add(
            make_event(
                version,
                "m.room.create",
                ALICE,
                content,
                event_id=create_id,
                room_id=None if self.hashed else self.room_id,
                state_key="",
                prev_events=(),
            )
        )
        self.create = self.events[EventId(create_id)]

    def send(
        self,
        name: str,
        type: str,
        sender: str,
        content: dict[str, Any],
        state_key: str | None = "",
        *,
        state: Mapping[StateKey, EventId] | None = None,
        ts: int | None = None,
        prev: Collection[str] = ("$previous:a.org",),
    ) -> Pdu:
        """Add an event that is authorised by `state`, or else by the room's state, which it then changes."""
        base = self.state if state is None else state
        keys = auth_types_for(self.version, type, sender, state_key, content)
        self.clock += 1
        event = make_event(
            self.version,
            type,
            sender,
            content,
            event_id=f"${name}:a.org",
            room_id=self.room_id,
            state_key=state_key,
            auth_events=[base[key] for key in keys if key in base],
            prev_events=prev,
            ts=self.clock if ts is None else ts,
            depth=self.clock,
        )
        self._add(event, update_state=state is None)
        return event

    def join(self, user_id: str, name: str | None = None, **kwargs: Any) -> Pdu:
        return self.member(user_id, user_id, "join", name or f"join-{user_id[1:-6]}", **kwargs)

    def member(self, sender: str, target: str, membership: str, name: str, **kwargs: Any) -> Pdu:
        extra = kwargs.pop("content", {})
        return self.send(name, "m.room.member", sender, {"membership": membership, **extra}, target, **kwargs)

    def first_join(self) -> Pdu:
        return self.join(ALICE, prev=(self.create.event_id,))

    def levels(self, name: str, sender: str, users: dict[str, int], **content: Any) -> Pdu:
        given = {user_id: level for user_id, level in users.items() if not (self.hashed and user_id == ALICE)}
        kwargs = {key: content.pop(key) for key in ("state", "ts") if key in content}
        return self.send(name, "m.room.power_levels", sender, {"users": given, **content}, **kwargs)

    def join_rule(self, name: str, rule: str, sender: str = ALICE, **kwargs: Any) -> Pdu:
        return self.send(name, "m.room.join_rules", sender, {"join_rule": rule}, **kwargs)

    def opened(self) -> Room:
        """The room after the usual first events, with a public join rule."""
        self.first_join()
        self.levels("levels", ALICE, {ALICE: 100})
        self.join_rule("rule-public", "public")
        return self

    def load(self, event_ids: Collection[EventId]) -> dict[EventId, Pdu]:
        return {event_id: self.events[event_id] for event_id in event_ids if event_id in self.events}

    def auth_state(self) -> dict[StateKey, Pdu]:
        return {key: self.events[event_id] for key, event_id in self.state.items()}

    def _add(self, event: Pdu, *, update_state: bool = True) -> None:
        assert event.event_id not in self.events, f"{event.event_id} is there already"
        self.events[event.event_id] = event
        if update_state and event.is_state:
            self.state = {**self.state, event.key: event.event_id}
