"""Invites and knocks that somebody in the room ends, where this server is not in the room."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import quote

import pytest
from attrs import define

from homeserver.matrix.build import add_signature
from homeserver.matrix.ids import RoomId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from tests.federation.quiet import Log, log
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

__all__ = ["log"]

VERSIONS = ["1", "6", "11", "12"]
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_txn_ids = itertools.count(1)


@define(eq=False)
class Door:
    """alice of the Hearth before a room of the peer."""

    hearth: Any
    room: PeerRoom
    alice: Client

    def invite(self) -> Pdu:
        core = self.hearth.running.services.core
        room = self.room
        content = {"membership": "invite"}
        pdu = room.build(MEMBER, content, self.alice.user_id, room.creator, prev=list(room.tips))
        pdu = add_signature(pdu, core.signing_key, core.server_name)
        room.add(pdu)
        body = {
            "event": pdu.json,
            "room_version": room.version.identifier,
            "invite_room_state": [event.json for event in room.shown()],
        }
        path = f"{V2}/invite/{room.room_id}/{quote(pdu.event_id, safe='')}"
        response = room.peer.put(self.hearth, path, body)
        assert response.status_code == 200, response.text
        return pdu

    def knock(self) -> None:
        self.alice.post("/knock/{}", {}, at=[self.room.room_id], query={"via": self.room.peer.server_name})

    def end(self, membership: str = "leave", **about: Any) -> Pdu:
        sender = about.pop("sender", self.room.creator)
        return self.room.send(MEMBER, {"membership": membership}, self.alice.user_id, sender, **about)

    def send(self, *pdus: Any) -> Any:
        """What became of the events."""
        body = {
            "origin": self.room.peer.server_name,
            "origin_server_ts": self.room.ts_ms,
            "pdus": [pdu.json if isinstance(pdu, Pdu) else pdu for pdu in pdus],
        }
        response = self.room.peer.put(self.hearth, f"{V1}/send/end{next(_txn_ids)}", body)
        assert response.status_code == 200, response.text
        return response.json()["pdus"]

    def standing(self) -> str | None:
        rooms = self.alice.sync(since=None, filter={"room": {"include_leave": True}}).get("rooms", {})
        return next((part for part, found in rooms.items() if self.room.room_id in found), None)

    def slide(self, pos: str | None) -> Any:
        body = {
            "conn_id": "c",
            "lists": {"all": {"ranges": [[0, 9]], "required_state": [], "timeline_limit": 1}},
        }
        return self.alice.post(SLIDING, body, query={"pos": pos} if pos else {"timeout": 0})


@pytest.fixture
def start_door(start_federated: Any, start_peer: Any) -> Any:
    def start(version: str = "11", join_rule: str = "invite") -> Door:
        hearth = start_federated()
        room = PeerRoom.create(start_peer(), version, join_rule=join_rule).serve()
        return Door(hearth, room, hearth.register("alice"))

    return start


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("membership", ["leave", "ban"])
def test_invite_that_is_taken_back_is_told_as_left(start_door: Any, version: str, membership: str) -> None:
    door: Door = start_door(version)
    door.invite()
    assert door.room.room_id in door.alice.sync()["rooms"]["invite"]
    kick = door.end(membership)
    assert door.send(kick) == {kick.event_id: {}}
    left = door.alice.sync()["rooms"]["leave"][door.room.room_id]
    assert [event["event_id"] for event in left["timeline"]["events"]] == [kick.event_id]
    assert door.standing() == "leave"
    assert door.send(kick) == {kick.event_id: {}}
    assert door.room.room_id not in door.alice.sync().get("rooms", {}).get("leave", {})


def test_knock_that_is_refused_may_be_made_again(start_door: Any) -> None:
    door: Door = start_door(join_rule="knock")
    door.knock()
    assert door.room.room_id in door.alice.sync()["rooms"]["knock"]
    door.send(door.end())
    assert door.room.room_id in door.alice.sync()["rooms"]["leave"]
    door.knock()
    assert door.room.room_id in door.alice.sync()["rooms"]["knock"]


def test_sliding_sync_tells_it(start_door: Any) -> None:
    door: Door = start_door()
    door.invite()
    answer = door.slide(None)
    assert "invite_state" in answer["rooms"][door.room.room_id]
    door.send(door.end())
    told = door.slide(answer["pos"])["rooms"][door.room.room_id]
    assert "invite_state" not in told
    assert [event["content"]["membership"] for event in told["timeline"]] == ["leave"]


def test_end_of_an_older_invite_does_not_end_a_newer_one(start_door: Any) -> None:
    door: Door = start_door()
    door.invite()
    kick = door.end()
    door.send(kick)
    door.invite()
    assert door.send(kick)[kick.event_id]["error"]
    assert door.standing() == "invite"


def test_nobody_else_ends_an_invite(start_door: Any, start_peer: Any, log: Log) -> None:
    door: Door = start_door()
    door.invite()
    stranger = start_peer()
    foreign = door.end(sender=f"@mallory:{stranger.server_name}", key=stranger.key)
    forged = door.end(key=SigningKey("peer", bytes(range(1, 33))))
    other_hash = {**door.end().json, "depth": 5}
    no_member = {**forged.json, "content": {"membership": 5}}
    nul = {**forged.json, "state_key": door.alice.user_id.replace("alice", "a\0lice")}
    answers = door.send(foreign, forged, other_hash, no_member, nul, {"room_id": door.room.room_id}, 5)
    assert not any(answer == {} for answer in answers.values())
    assert door.standing() == "invite"
    assert log.faults() == []


def test_events_of_a_room_without_a_waiting_user_are_dropped(start_door: Any) -> None:
    door: Door = start_door()
    kick = door.end()
    door.send(kick)
    assert door.standing() is None
    said = door.room.say("hello")
    door.send(said)
    heads = door.hearth.running.services.core.heads
    room_id: RoomId = door.room.room_id
    assert run_in_reactor(lambda: heads.load_many([room_id])) == {}


def test_invite_into_a_room_that_everybody_here_left_is_taken_back(start_door: Any) -> None:
    door: Door = start_door(join_rule="public")
    carol = door.hearth.register("carol")
    carol.post("/join/{}", {}, at=[door.room.room_id], query={"via": door.room.peer.server_name})
    carol.leave(door.room.room_id)
    door.invite()
    assert door.standing() == "invite"
    kick = door.end()
    assert door.send(kick) == {kick.event_id: {}}
    assert door.standing() == "leave"
