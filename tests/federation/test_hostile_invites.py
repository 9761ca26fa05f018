"""What a hostile server can make of invites, knocks and other member events that it hands over by itself."""

from __future__ import annotations

import time
from typing import Any

import pytest

from homeserver.matrix.build import build_pdu
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import room_version
from tests.federation.peer_room import PeerRoom, message
from tests.federation.quiet import Log, log
from tests.federation.visitor import Visitor

__all__ = ["log"]


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def invite(room: PeerRoom, version: str, target: str, **about: Any) -> Pdu:
    """An invite by bob, in the format of the version, behind the room's events."""
    rules = room_version(version)
    keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", ""), ("m.room.member", room.bob)]
    fields: dict[str, Any] = {
        "prev_events": [EventId(each) for each in room.tips],
        "auth_events": [room.state[key] for key in keys],
        "depth": room.depth + 1,
        "origin_server_ts": int(time.time() * 1000),
        "signing_key": room.peer.key,
        "server_name": room.peer.server_name,
        "event_id": EventId(f"$forged:{room.peer.server_name}") if rules.event_id_on_wire else None,
        "hashes_of": (lambda _: "aaaa") if rules.references_carry_hashes else None,
        **about,
    }
    return build_pdu(
        rules,
        type="m.room.member",
        sender=UserId(room.bob),
        room_id=room.room_id,
        content={"membership": "invite"},
        state_key=target,
        **fields,
    )


def put_invite(room: PeerRoom, pdu: Pdu, version: str, **about: Any) -> Any:
    visitor = Visitor(room.peer, room.hearth)
    body = {"room_version": version, "event": pdu.json, "invite_room_state": []}
    return visitor.put("/v2/invite/{}/{}", body, at=[pdu.room_id, pdu.event_id], **about)


@pytest.mark.parametrize("version", ["1", "6", "10"])
def test_invite_can_not_bring_the_rules_of_another_version_into_a_room(room: PeerRoom, log: Log, version: str) -> None:
    carol = room.hearth.register("carol")
    pdu = invite(room, version, carol.user_id)
    put_invite(room, pdu, version, expect="M_INVALID_PARAM")
    assert room.head().membership(carol.user_id) is None
    room.hearth.restart()
    room.alice.base_url = room.hearth.url
    assert room.sees(room.alice.send(room.room_id, "still here"))
    assert log.faults() == []
