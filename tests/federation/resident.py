"""Rooms that a ScriptedPeer is in: real events, hashed and signed, and what a resident server answers about them.

    room = PeerRoom.create(start_peer(), "11")
    room.send("m.room.message", {"body": "hello", "msgtype": "m.text"})
    room.serve()
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": room.peer.server_name})

Tests spoil single answers with `peer.answer(...)`, which wins over what `serve` registered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote

from attrs import define, field

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import add_signature, build_pdu
from homeserver.matrix.hashing import content_hash, encode_base64, reference_hash
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion, room_version
from tests.kit.federation import Answer, Received, ScriptedPeer

V1, V2 = "/_matrix/federation/v1", "/_matrix/federation/v2"
MEMBER = "m.room.member"
NOT_FOUND = Answer({"errcode": "M_NOT_FOUND", "error": "Not here"}, 404)

State = dict[StateKey, EventId]


@define(eq=False)
class PeerRoom:
    """A room on a peer. Its state is that after the newest event; forks are made with `send(..., prev=...)`."""

    peer: ScriptedPeer
    version: RoomVersion
    room_id: RoomId = field(default="")
    creator: UserId = field(default="")
    events: dict[EventId, Pdu] = field(factory=dict)
    before: dict[EventId, State] = field(factory=dict)
    state: State = field(factory=dict)
    tips: list[EventId] = field(factory=list)
    omits_members: bool = False
    vouches: bool = False
    ts_ms: int = field(factory=lambda: int(time.time() * 1000) - 3_600_000)

    @classmethod
    def create(
        cls, peer: ScriptedPeer, version: str = "11", *, join_rule: str = "public", **create_content: Any
    ) -> PeerRoom:
        room = cls(peer, room_version(version))
        room.creator = room.user("creator")
        content = {"room_version": version, **create_content}
        if not room.version.creator_is_sender:
            content["creator"] = room.creator
        if not room.version.room_id_is_create_hash:
            room.room_id = RoomId(f"!room{len(peer.requests)}x:{peer.server_name}")
        create = room.send("m.room.create", content, "")
        room.room_id = create.room_id
        room.send(MEMBER, {"membership": "join", "displayname": "Creator"}, room.creator)
        users = {} if room.version.creators_have_infinite_power else {room.creator: 100}
        room.send("m.room.power_levels", {"users": users}, "")
        room.send("m.room.join_rules", {"join_rule": join_rule}, "")
        room.send("m.room.history_visibility", {"history_visibility": "shared"}, "")
        room.send("m.room.name", {"name": "Peer's room"}, "")
        return room

    def user(self, name: str) -> UserId:
        return UserId(f"@{name}:{self.peer.server_name}")

    # -- events --------------------------------------------------------------------------------------------------------

    def send(
        self,
        type: str,
        content: Mapping[str, Any],
        state_key: str | None = None,
        sender: str | None = None,
        *,
        prev: Iterable[EventId] | None = None,
        key: SigningKey | None = None,
    ) -> Pdu:
        """A new event of the room, on its tips or on `prev`."""
        sender = sender or self.creator
        pdu = self.build(type, content, state_key, sender, prev=list(self.tips if prev is None else prev), key=key)
        self.add(pdu)
        return pdu

    def build(
        self,
        type: str,
        content: Mapping[str, Any],
        state_key: str | None,
        sender: str,
        *,
        prev: list[EventId],
        key: SigningKey | None = None,
        state: State | None = None,
    ) -> Pdu:
        """A signed event that the room does not have yet."""
        self.ts_ms += 1000
        state = self.state if state is None else state
        keys = auth_types_for(self.version, type, sender, state_key, content)
        server = ServerName(sender.partition(":")[2])
        event_id = EventId(f"${len(self.events)}x{self.ts_ms}:{server}") if self.version.event_id_on_wire else None
        is_create = type == "m.room.create" and self.version.room_id_is_create_hash
        return build_pdu(
            self.version,
            type=type,
            sender=UserId(sender),
            room_id=None if is_create else self.room_id,
            content=dict(content),
            state_key=state_key,
            prev_events=prev,
            auth_events=[state[key] for key in keys if key in state],
            depth=1 + max((self.events[each].depth for each in prev), default=0),
            origin_server_ts=self.ts_ms,
            signing_key=key or self.peer.key,
            server_name=server,
            event_id=event_id,
            hashes_of=self._hash if self.version.references_carry_hashes else None,
        )

    def resign(self, json: Mapping[str, Any]) -> dict[str, Any]:
        """The event changed so, hashed and signed anew."""
        bare = {name: value for name, value in json.items() if name not in ("hashes", "signatures", "unsigned")}
        hashed = {**bare, "hashes": {"sha256": encode_base64(content_hash(bare))}}
        return sign_event(hashed, self.version, self.peer.server_name, self.peer.key)

    def id_of(self, json: Mapping[str, Any]) -> EventId:
        return parse_pdu(dict(json), self.version).event_id

    def add(self, pdu: Pdu) -> None:
        """Take an event in, as the room's newest."""
        self.before[pdu.event_id] = dict(self.state)
        self.events[pdu.event_id] = pdu
        self.tips = [tip for tip in self.tips if tip not in pdu.prev_events] + [pdu.event_id]
        if pdu.state_key is not None:
            self.state[pdu.key] = pdu.event_id

    def join(self, name: str) -> UserId:
        user_id = self.user(name)
        self.send(MEMBER, {"membership": "join"}, user_id, user_id)
        return user_id

    def say(self, body: str, sender: str | None = None) -> Pdu:
        return self.send("m.room.message", {"msgtype": "m.text", "body": body}, sender=sender)

    def _hash(self, event_id: EventId) -> str:
        return encode_base64(reference_hash(self.events[event_id].json, self.version))

    def auth_chain(self, ids: Iterable[EventId]) -> list[Pdu]:
        found: dict[EventId, Pdu] = {}
        pending = [auth_id for event_id in ids for auth_id in self.events[event_id].auth_events]
        while pending:
            event_id = pending.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                pending += self.events[event_id].auth_events
        return list(found.values())

    # -- answers -------------------------------------------------------------------------------------------------------

    def serve(self) -> PeerRoom:
        """Answer what a resident server answers."""
        peer = self.peer
        for membership in ("join", "knock", "leave"):
            peer.answer("GET", f"{V1}/make_{membership}/", self._maker(membership))
        peer.answer("PUT", f"{V2}/send_join/", self.on_send_join)
        peer.answer("PUT", f"{V1}/send_join/", lambda received: [200, self.on_send_join(received)])
        peer.answer("PUT", f"{V1}/send_knock/", self.on_send_knock)
        peer.answer("PUT", f"{V2}/send_leave/", self.on_send_leave)
        peer.answer("PUT", f"{V1}/send_leave/", lambda received: [200, self.on_send_leave(received)])
        peer.answer("PUT", f"{V2}/invite/", self.on_invite)
        peer.answer("GET", f"{V1}/event/", self.on_event)
        peer.answer("GET", f"{V1}/event_auth/", self.on_event_auth)
        peer.answer("GET", f"{V1}/state/", self.on_state)
        peer.answer("GET", f"{V1}/state_ids/", self.on_state_ids)
        peer.answer("GET", f"{V1}/backfill/", self.on_backfill)
        peer.answer("GET", f"{V1}/timestamp_to_event/", self.on_timestamp)
        return self

    def _maker(self, membership: str) -> Any:
        def make(received: Received) -> Any:
            room_id, user_id = path_ids(received)
            return self.template(user_id, membership) if room_id == self.room_id else NOT_FOUND

        return make

    def template(self, user_id: str, membership: str) -> dict[str, Any]:
        content: dict[str, Any] = {"membership": membership}
        if membership == "join" and self.vouches:
            content["join_authorised_via_users_server"] = self.creator
        keys = auth_types_for(self.version, MEMBER, user_id, user_id, content)
        auth_events = [self.state[key] for key in keys if key in self.state]
        references = self._references if self.version.references_carry_hashes else list
        event = {
            "type": MEMBER,
            "room_id": self.room_id,
            "sender": user_id,
            "state_key": user_id,
            "content": content,
            "prev_events": references(self.tips),
            "auth_events": references(auth_events),
            "depth": 1 + max(self.events[tip].depth for tip in self.tips),
            "origin": self.peer.server_name,
            "origin_server_ts": self.ts_ms,
        }
        return {"room_version": self.version.identifier, "event": event}

    def _references(self, ids: Iterable[EventId]) -> list[Any]:
        return [[event_id, {"sha256": self._hash(event_id)}] for event_id in ids]

    def accept(self, received: Received) -> Pdu:
        """The event that was sent, in the room now."""
        return self.take(parse_pdu(received.json, self.version))

    def take(self, pdu: Pdu) -> Pdu:
        if pdu.content.get("membership") == "join" and self.vouches:
            pdu = add_signature(pdu, self.peer.key, self.peer.server_name)
        self.add(pdu)
        return pdu

    def on_send_join(self, received: Received) -> Any:
        pdu = self.accept(received)
        state = dict(self.before[pdu.event_id])
        omitted = self.omits_members and "omit_members=true" in received.query
        if omitted:
            state = {key: event_id for key, event_id in state.items() if key[0] != MEMBER}
        chain = self.auth_chain([pdu.event_id, *state.values()])
        answer = {
            "origin": self.peer.server_name,
            "state": [self.events[event_id].json for event_id in state.values()],
            "auth_chain": [event.json for event in chain if not omitted or event.event_id not in state.values()],
            "event": pdu.json,
        }
        return {**answer, "members_omitted": True, "servers_in_room": [self.peer.server_name]} if omitted else answer

    def on_send_knock(self, received: Received) -> Any:
        self.accept(received)
        return {"knock_room_state": [event.json for event in self.shown()]}

    def shown(self) -> list[Pdu]:
        keys = [("m.room.create", ""), ("m.room.join_rules", ""), ("m.room.name", "")]
        return [self.events[self.state[key]] for key in keys if key in self.state]

    def on_send_leave(self, received: Received) -> Any:
        self.accept(received)
        return {}

    def on_invite(self, received: Received) -> Any:
        return self.on_invite_event(received.json["event"], received.json["room_version"])

    def on_invite_event(self, event: dict[str, Any], version: str) -> Any:
        pdu = parse_pdu(event, room_version(version))
        return {"event": add_signature(pdu, self.peer.key, self.peer.server_name).json}

    def on_event(self, received: Received) -> Any:
        event = self.events.get(EventId(path_ids(received)[0]))
        if event is None:
            return NOT_FOUND
        return {"origin": self.peer.server_name, "origin_server_ts": self.ts_ms, "pdus": [event.json]}

    def on_event_auth(self, received: Received) -> Any:
        event_id = EventId(path_ids(received)[1])
        if event_id not in self.events:
            return NOT_FOUND
        return {"auth_chain": [event.json for event in self.auth_chain([event_id])]}

    def on_state(self, received: Received) -> Any:
        state, chain = self._state_at(received)
        return {"pdus": [event.json for event in state], "auth_chain": [event.json for event in chain]}

    def on_state_ids(self, received: Received) -> Any:
        state, chain = self._state_at(received)
        return {"pdu_ids": [event.event_id for event in state], "auth_chain_ids": [event.event_id for event in chain]}

    def _state_at(self, received: Received) -> tuple[list[Pdu], list[Pdu]]:
        ids = list(self.before[EventId(query_of(received)["event_id"][0])].values())
        return [self.events[event_id] for event_id in ids], self.auth_chain(ids)

    def on_backfill(self, received: Received) -> Any:
        query = query_of(received)
        found: dict[EventId, Pdu] = {}
        pending = [EventId(event_id) for event_id in query["v"] if event_id in self.events]
        while pending and len(found) < int(query["limit"][0]):
            pending.sort(key=lambda event_id: self.events[event_id].depth)
            event_id = pending.pop()
            if event_id not in found:
                found[event_id] = self.events[event_id]
                pending += self.events[event_id].prev_events
        return {"origin": self.peer.server_name, "pdus": [event.json for event in found.values()]}

    def on_timestamp(self, received: Received) -> Any:
        query = query_of(received)
        ts_ms, forwards = int(query["ts"][0]), query["dir"][0] == "f"
        times = [(event.origin_server_ts, event.event_id) for event in self.events.values()]
        near = [each for each in times if (each[0] >= ts_ms if forwards else each[0] <= ts_ms)]
        if not near:
            return NOT_FOUND
        at_ms, event_id = min(near) if forwards else max(near)
        return {"event_id": event_id, "origin_server_ts": at_ms}


def path_ids(received: Received) -> list[str]:
    """The ids in a request's path, behind the name of the endpoint."""
    return [unquote(part) for part in received.path.split("/")[5:]]


def query_of(received: Received) -> dict[str, list[str]]:
    return parse_qs(received.query)


def spoiled(json_: Any, **changes: Any) -> Any:
    """A copy with some keys changed; the signature does not fit then."""
    return {**json.loads(json.dumps(json_)), **changes}
