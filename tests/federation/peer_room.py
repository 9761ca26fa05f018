"""A Hearth's room in which a user of a scripted peer takes part; the peer makes its events here.

    room = PeerRoom.open(hearth, peer)           # alice's public room, @bob of the peer has joined
    pdu = room.build("m.room.message", {"body": "hi", "msgtype": "m.text"})
    room.send(pdu).json()                        # in a transaction

`build` chains on the newest event that the room object knows (`tips`); `serve` answers what a resident server is asked.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote, unquote

from attrs import define, field

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import build_pdu
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.versions import RoomVersion, room_version
from tests.kit.client import Client
from tests.kit.federation import FederatedServer, Received, ScriptedPeer
from tests.kit.reactor import run_in_reactor

V1 = "/_matrix/federation/v1"
_txn_ids = itertools.count(1)
WAIT_S = 120


def message(text: str) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": text}


@define(eq=False)
class PeerRoom:
    hearth: FederatedServer
    peer: ScriptedPeer
    alice: Client
    room_id: RoomId
    version: RoomVersion
    bob: UserId
    state: dict[tuple[str, str], EventId]
    tips: list[EventId]
    depth: int
    made: dict[EventId, Pdu] = field(factory=dict)

    @classmethod
    def open(cls, hearth: FederatedServer, peer: ScriptedPeer, version: str = "11", **about: Any) -> PeerRoom:
        """The room, with bob in it."""
        alice = hearth.register(f"alice{next(_txn_ids)}")
        room_id = RoomId(alice.create_room(preset="public_chat", room_version=version, **about))
        bob = UserId(f"@bob:{peer.server_name}")
        room = cls(hearth, peer, alice, room_id, room_version(version), bob, {}, [], 0)
        room.catch_up()
        join = room.build("m.room.member", {"membership": "join"}, state_key=bob)
        assert room.send(join).json() == {"pdus": {join.event_id: {}}}
        room.wait_for_member(bob, "join")
        return room

    # -- what the peer knows -------------------------------------------------------------------------------------------

    def catch_up(self) -> None:
        """Take the Hearth's head for the peer's."""
        head = self.head()
        self.state = dict(head.state)
        self.tips, self.depth = list(head.extremities), head.depth

    def head(self) -> Any:
        heads = self.hearth.running.services.core.heads
        return run_in_reactor(lambda: heads.load(self.room_id))

    def build(
        self,
        type: str,
        content: dict[str, Any],
        *,
        sender: str | None = None,
        state_key: str | None = None,
        prev_events: Sequence[str] | None = None,
        auth_events: Sequence[str] | None = None,
        key: SigningKey | None = None,
        advance: bool = True,
        **about: Any,
    ) -> Pdu:
        """An event after the newest; by bob, if nobody else is named. Without `advance`, the next one does not follow it."""
        user = UserId(sender or self.bob)
        keys = auth_types_for(self.version, type, user, state_key, content)
        auth = [self.state[each] for each in keys if each in self.state] if auth_events is None else auth_events
        fields: dict[str, Any] = {
            "depth": self.depth + 1,
            "origin_server_ts": int(time.time() * 1000),
            "signing_key": key or self.peer.key,
            "server_name": self.peer.server_name,
            **about,
        }
        if self.version.event_id_on_wire:
            fields.setdefault("event_id", EventId(f"$e{next(_txn_ids)}:{self.peer.server_name}"))
            fields.setdefault("hashes_of", lambda _: "aaaa")
        pdu = build_pdu(
            self.version,
            type=type,
            sender=user,
            room_id=self.room_id,
            content=content,
            state_key=state_key,
            prev_events=[EventId(each) for each in (self.tips if prev_events is None else prev_events)],
            auth_events=[EventId(each) for each in auth],
            **fields,
        )
        self.made[pdu.event_id] = pdu
        if advance:
            self.tips, self.depth = [pdu.event_id], self.depth + 1
            if pdu.is_state:
                self.state[pdu.key] = pdu.event_id
        return pdu

    # -- sending -------------------------------------------------------------------------------------------------------

    def send(self, *pdus: Any, edus: Sequence[Any] = (), txn_id: str | None = None) -> Any:
        """A transaction; requests' Response."""
        body = {
            "origin": self.peer.server_name,
            "origin_server_ts": int(time.time() * 1000),
            "pdus": [to_json(pdu) for pdu in pdus],
            "edus": list(edus),
        }
        return self.peer.put(self.hearth, f"{V1}/send/{txn_id or f'txn{next(_txn_ids)}'}", body)

    # -- what the Hearth has -------------------------------------------------------------------------------------------

    def wait_for_member(self, user_id: str, membership: str) -> None:
        self.wait_until(lambda: self.head().membership(UserId(user_id)) == membership)

    def wait_for_event(self, event_id: str) -> Any:
        """The event as alice sees it."""
        path = f"/_matrix/client/v3/rooms/{quote(self.room_id)}/event/{quote(event_id, safe='')}"
        self.wait_until(lambda: self.alice.send_raw("GET", path).ok)
        return self.alice.get(path)

    def sees(self, event_id: str) -> bool:
        return event_id in [each["event_id"] for each in self.alice.messages(self.room_id, limit=100)["chunk"]]

    def wait_until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)  # poll: the Hearth works on in its own time

    def wait_until_idle(self) -> None:
        """Until the Hearth has dealt with all that it was sent."""
        queues = self.hearth.federation.receiving.queues
        self.wait_until(lambda: run_in_reactor(_is_idle, queues))

    # -- answering -----------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer truthfully what a Hearth asks of the events made here."""
        self.peer.answer("GET", f"{V1}/event/", self._event)
        self.peer.answer("POST", f"{V1}/get_missing_events/", self._missing_events)
        self.peer.answer("GET", f"{V1}/event_auth/", {"auth_chain": []})

    def serve_state(self, state: Sequence[str], auth_chain: Sequence[str] = ()) -> None:
        """Say that this is the state before any event."""
        self.peer.answer("GET", f"{V1}/state_ids/", {"pdu_ids": list(state), "auth_chain_ids": list(auth_chain)})

    def _event(self, received: Received) -> Any:
        pdu = self.made.get(EventId(unquote(received.path.rpartition("/")[2])))
        return {"pdus": [pdu.json] if pdu else []}

    def _missing_events(self, received: Received) -> Any:
        body = received.json
        found: list[Pdu] = []
        pending = list(body["latest_events"])
        while pending and len(found) < body["limit"]:
            pdu = self.made.get(pending.pop(0))
            before = [self.made[each] for each in (pdu.prev_events if pdu else ()) if each in self.made]
            new = [each for each in before if each not in found and each.event_id not in body["earliest_events"]]
            found += new
            pending += [each.event_id for each in new]
        return {"events": [each.json for each in reversed(found)]}


async def _is_idle(queues: Any) -> bool:
    """Nor does an event linger until one that it builds on comes: that is no work, but it is not over."""
    return queues.is_idle and not any(room.parked for room in queues._rooms.values())


def to_json(pdu: Any) -> Any:
    return decode_json(pdu.json_bytes) if isinstance(pdu, Pdu) else pdu
