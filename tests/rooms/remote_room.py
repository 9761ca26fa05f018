"""A room as other servers see it: events that they sign, with forks wherever a test wants them.

The state around each event is computed here over whole states, so that it can stand against what Hearth makes of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import build_pdu
from homeserver.matrix.hashing import encode_base64, reference_hash
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.state_res import resolve
from homeserver.matrix.versions import RoomVersion, room_version

KEY = SigningKey("1", b"\1" * 32)
MEMBER = "m.room.member"
NEVER = 1_000


class RemoteRoom:
    """`events` in the order of their making; `states[id]` is the state after an event."""

    def __init__(self, creator: str, version: str = "11", **create: Any) -> None:
        self.version: RoomVersion = room_version(version)
        self.events: dict[EventId, Pdu] = {}
        self.states: dict[EventId, dict[StateKey, EventId]] = {}
        self.tips: list[EventId] = []
        self.now_ms = 1_700_000_000_000
        self.room_id = None if self.version.room_id_is_create_hash else RoomId(f"!room:{domain_of(creator)}")
        content = {"room_version": version, **create}
        if not self.version.creator_is_sender:
            content["creator"] = creator
        self.create = self.send("m.room.create", creator, content, "")
        self.room_id = self.create.room_id
        self.join(creator)

    def open(self, creator: str, *, power: Mapping[str, int] | None = None, join_rule: str = "public") -> RemoteRoom:
        """Power levels and join rules, as most rooms have them."""
        users = dict(power or {}) if self.version.creators_have_infinite_power else {creator: 100, **(power or {})}
        self.send("m.room.power_levels", creator, {"users": users}, "")
        self.send("m.room.join_rules", creator, {"join_rule": join_rule}, "")
        return self

    def state_before(self, prev_events: Sequence[EventId]) -> dict[StateKey, EventId]:
        states = [self.states[event_id] for event_id in prev_events]
        if not states:
            return {}
        assert self.room_id is not None
        return resolve(self.version, states, self._load, room_id=self.room_id)

    def _load(self, ids: Collection[EventId]) -> dict[EventId, Pdu]:
        return {event_id: self.events[event_id] for event_id in ids if event_id in self.events}

    def send(
        self,
        type_: str,
        sender: str,
        content: dict[str, Any],
        state_key: str | None = None,
        *,
        after: Sequence[Pdu] | None = None,
        auth: Sequence[Pdu] | None = None,
        redacts: EventId | None = None,
        ts_ms: int | None = None,
        depth: int | None = None,
    ) -> Pdu:
        """A new event behind `after` (by default: all tips, which it replaces), with the auth events that are right there."""
        prev_events = [event.event_id for event in after] if after is not None else list(self.tips)
        state = self.state_before(prev_events)
        self.now_ms += 1000
        if auth is None:
            keys = auth_types_for(self.version, type_, sender, state_key, content)
            auth_ids = [state[key] for key in keys if key in state]
        else:
            auth_ids = [event.event_id for event in auth]
        depths = [self.events[event_id].depth for event_id in prev_events]
        pdu = build_pdu(
            self.version,
            type=type_,
            sender=UserId(sender),
            room_id=self.room_id,
            content=content,
            state_key=state_key,
            redacts=redacts,
            prev_events=prev_events,
            auth_events=auth_ids,
            depth=depth if depth is not None else max(depths, default=0) + 1,
            origin_server_ts=ts_ms if ts_ms is not None else self.now_ms,
            signing_key=KEY,
            server_name=ServerName(domain_of(sender)),
            event_id=EventId(f"$e{len(self.events)}:{domain_of(sender)}") if self.version.event_id_on_wire else None,
            hashes_of=self._hash if self.version.references_carry_hashes else None,
        )
        self.events[pdu.event_id] = pdu
        self.states[pdu.event_id] = {**state, pdu.key: pdu.event_id} if state_key is not None else state
        self.tips = [tip for tip in self.tips if tip not in prev_events] + [pdu.event_id]
        return pdu

    def _hash(self, event_id: EventId) -> str:
        return encode_base64(reference_hash(self.events[event_id].json, self.version))

    def join(self, user: str, **options: Any) -> Pdu:
        return self.member(user, user, "join", **options)

    def member(self, sender: str, target: str, membership: str, **options: Any) -> Pdu:
        return self.send(MEMBER, sender, {"membership": membership}, target, **options)

    def say(self, sender: str, text: str = "hello", **options: Any) -> Pdu:
        return self.send("m.room.message", sender, {"msgtype": "m.text", "body": text}, **options)

    def state_events(self, before: Pdu) -> list[Pdu]:
        """The state before an event, as send_join and /state tell it."""
        return [self.events[event_id] for event_id in self.state_before(before.prev_events).values()]

    def auth_chain(self, events: Collection[Pdu]) -> list[Pdu]:
        found: dict[EventId, Pdu] = {}
        stack = [auth_id for event in events for auth_id in event.auth_events]
        while stack:
            event_id = stack.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                stack += self.events[event_id].auth_events
        return list(found.values())

    @property
    def current(self) -> dict[StateKey, EventId]:
        return self.state_before(self.tips)

    def forget_tip(self, pdu: Pdu) -> None:
        """The event is no tip of the room: nobody builds on it."""
        self.tips = [tip for tip in self.tips if tip != pdu.event_id] or [*pdu.prev_events]
