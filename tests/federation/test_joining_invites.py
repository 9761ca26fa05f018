"""Invites to users of other servers: their server signs, then the invite is in the room."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.hashing import compute_event_id
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.matrix.versions import ROOM_VERSIONS, room_version
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.kit.federation import Answer, Received

OTHER_KEY = SigningKey("peer", bytes(reversed(range(32))))


@pytest.mark.parametrize("version", ROOM_VERSIONS)
def test_invite_bears_both_signatures(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice = hearth.register("alice")
    PeerRoom.create(peer).serve()
    room_id = alice.create_room(room_version=version, name="Here")
    bob = f"@bob:{peer.server_name}"
    alice.invite(room_id, bob)
    assert alice.get_state(room_id, MEMBER, bob)["membership"] == "invite"
    sent = peer.received(f"{V2}/invite/")[-1].json
    assert sent["room_version"] == version
    shown = {event["type"] for event in sent["invite_room_state"]}
    assert {"m.room.create", "m.room.join_rules", "m.room.name", MEMBER} <= shown
    assert all("signatures" in event for event in sent["invite_room_state"])
    event_id = compute_event_id(sent["event"], room_version(version))
    stored = hearth.running.services.core.events.get(event_id)
    assert set(stored.pdu.json["signatures"]) == {hearth.server_name, peer.server_name}


def test_room_goes_on_while_the_other_server_signs(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, resident = hearth.register("alice"), PeerRoom.create(peer)
    room_id = alice.create_room()
    other = alice.another_device()

    def slow(received: Received) -> Any:
        other.send(room_id, "meanwhile", txn_id="meanwhile")
        return resident.on_invite(received)

    peer.answer("PUT", f"{V2}/invite/", slow)
    bob = f"@bob:{peer.server_name}"
    alice.invite(room_id, bob)
    assert alice.get_state(room_id, MEMBER, bob)["membership"] == "invite"
    alice.send(room_id, "after")
    assert alice.messages(room_id, limit=3)["chunk"][0]["content"]["body"] == "after"


def test_inviter_who_is_demoted_meanwhile_invites_nobody(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, carol, resident = hearth.register("alice"), hearth.register("carol"), PeerRoom.create(peer)
    room_id = alice.create_room(preset="public_chat")
    carol.join(room_id)

    def slow(received: Received) -> Any:
        levels = alice.get_state(room_id, "m.room.power_levels")
        alice.set_state(room_id, "m.room.power_levels", {**levels, "invite": 50})
        return resident.on_invite(received)

    peer.answer("PUT", f"{V2}/invite/", slow)
    bob = f"@bob:{peer.server_name}"
    carol.invite(room_id, bob, expect=403)
    alice.get("/rooms/{}/state/m.room.member/{}", at=[room_id, bob], expect=404)


def test_old_server_gets_the_first_version_in_old_rooms(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, resident = hearth.register("alice"), PeerRoom.create(peer)

    def sign(received: Received) -> Any:
        event = received.json
        assert event.pop("unsigned")["invite_room_state"]
        return [200, resident.on_invite_event(event, "1")]

    peer.answer("PUT", f"{V1}/invite/", sign)
    bob = f"@bob:{peer.server_name}"
    old, new = alice.create_room(room_version="1"), alice.create_room(room_version="10")
    alice.invite(old, bob)
    assert alice.get_state(old, MEMBER, bob)["membership"] == "invite"
    alice.invite(new, bob, expect=502)
    assert len(peer.received(f"{V1}/invite/")) == 1


def unsigned(event: dict[str, Any]) -> Any:
    return {"event": event}


def wrongly_signed(event: dict[str, Any]) -> Any:
    return {"event": sign_event(event, room_version("11"), event["state_key"].partition(":")[2], OTHER_KEY)}


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (unsigned, 502),
        (wrongly_signed, 502),
        (lambda event: {"event": "x"}, 502),
        (lambda event: [], 502),
        (lambda event: Answer({"errcode": "M_FORBIDDEN", "error": "no"}, 403), 403),
        (lambda event: Answer({"errcode": "M_INVITE_BLOCKED", "error": "no"}, 403), "M_INVITE_BLOCKED"),
        (lambda event: Answer({"errcode": "M_INVALID_PARAM", "error": "no"}, 400), 502),
        (
            lambda event: Answer({"errcode": "M_INCOMPATIBLE_ROOM_VERSION", "error": "no", "room_version": "11"}, 400),
            400,
        ),
    ],
)
def test_invite_that_is_not_signed_is_not_in_the_room(
    start_federated: Any, start_peer: Any, reply: Any, told: Any
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice = hearth.register("alice")
    room_id = alice.create_room(room_version="11")
    peer.answer("PUT", f"{V2}/invite/", lambda received: reply(received.json["event"]))
    bob = f"@bob:{peer.server_name}"
    alice.invite(room_id, bob, expect=told)
    alice.get("/rooms/{}/state/m.room.member/{}", at=[room_id, bob], expect=404)


def test_invites_of_a_new_room_reach_other_servers(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice = hearth.register("alice")
    PeerRoom.create(peer).serve()
    bob = f"@bob:{peer.server_name}"
    room_id = alice.create_room(invite=[bob], is_direct=True)
    member = alice.get_state(room_id, MEMBER, bob)
    assert (member["membership"], member["is_direct"]) == ("invite", True)
