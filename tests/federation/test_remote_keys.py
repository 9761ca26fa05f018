"""Keys of users elsewhere, asked for over the network; and what a Hearth sends by itself."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.writer import Draft
from tests.e2ee.key_maker import V3, Device, SigningKeys, one_time_keys
from tests.federation.outbox import Peers
from tests.kit.federation import FederatedServer, Received, ScriptedPeer
from tests.kit.reactor import run_in_reactor

SEND = "/_matrix/federation/v1/send/"


@pytest.fixture
def hearth(start_federated: Callable[..., Any]) -> FederatedServer:
    server: FederatedServer = start_federated()
    return server


@pytest.fixture
def peer(start_peer: Callable[..., Any]) -> ScriptedPeer:
    server: ScriptedPeer = start_peer()
    server.answer("PUT", SEND, {"pdus": {}})
    return server


def let_join(hearth: FederatedServer, room_id: str, user_id: str) -> None:
    """As if the event had come from the user's server."""
    draft = Draft("m.room.member", UserId(user_id), {"membership": "join"}, user_id)
    run_in_reactor(hearth.running.services.core.writer.write, RoomId(room_id), lambda _head: [draft])


def test_keys_are_asked_of_the_user_s_server(start_federated: Callable[..., Any]) -> None:
    here, there = start_federated("here"), start_federated("there")
    alice, bob = here.register("alice"), there.register("bob")
    device, signing = Device(bob.user_id, bob.device_id), SigningKeys(bob.user_id).upload()
    keys = {"device_keys": device.keys(), "one_time_keys": one_time_keys("A", "B")}
    bob.post(f"{V3}/keys/upload", keys)
    bob.post(f"{V3}/keys/device_signing/upload", signing)
    found = alice.post(f"{V3}/keys/query", {"device_keys": {bob.user_id: []}})
    assert found["device_keys"][bob.user_id][bob.device_id]["keys"] == device.keys()["keys"]
    assert found["master_keys"][bob.user_id]["keys"] == signing["master_key"]["keys"]
    assert bob.user_id not in found.get("user_signing_keys", {}) and not found["failures"]
    wanted = {"one_time_keys": {bob.user_id: {bob.device_id: "signed_curve25519"}}}
    claimed = [alice.post(f"{V3}/keys/claim", wanted)["one_time_keys"] for _ in range(2)]
    names = [next(iter(each[bob.user_id][bob.device_id])) for each in claimed]
    assert names == ["signed_curve25519:A", "signed_curve25519:B"]
    assert not alice.post(f"{V3}/keys/claim", wanted)["one_time_keys"].get(bob.user_id)


def test_list_is_fetched_once_from_a_server_one_shares_a_room_with(hearth: FederatedServer, peer: ScriptedPeer) -> None:
    alice, carol = hearth.register("alice"), f"@carol:{peer.server_name}"
    let_join(hearth, alice.create_room(preset="public_chat"), carol)
    device = {"device_id": "PHONE", "keys": Device(carol, "PHONE").keys()}
    peer.answer("GET", "/_matrix/federation/v1/user/devices/", {"user_id": carol, "stream_id": 3, "devices": [device]})
    for _ in range(2):
        assert alice.post(f"{V3}/keys/query", {"device_keys": {carol: []}})["device_keys"][carol].keys() == {"PHONE"}
    (asked,) = peer.received("/_matrix/federation/v1/user/")
    assert asked.path.endswith("/user/devices/%40carol%3Alocalhost%3A" + str(peer.port))


@pytest.mark.parametrize("answer", [[], 7, {"device_keys": []}, {"device_keys": {"@x:y": 7}}, b"no json"])
def test_answers_without_sense_give_no_keys(hearth: FederatedServer, peer: ScriptedPeer, answer: Any) -> None:
    alice, carol = hearth.register("alice"), f"@carol:{peer.server_name}"
    peer.answer("POST", "/_matrix/federation/v1/user/keys/", answer)
    found = alice.post(f"{V3}/keys/query", {"device_keys": {carol: []}})
    assert not found["device_keys"].get(carol)
    assert list(found["failures"]) == ([] if isinstance(answer, dict) else [peer.server_name])
    wanted = {"one_time_keys": {carol: {"PHONE": "signed_curve25519"}}}
    assert not alice.post(f"{V3}/keys/claim", wanted)["one_time_keys"]


def test_a_silent_server_is_waited_for_as_long_as_the_client_says(hearth: FederatedServer) -> None:
    """Where nobody speaks TLS; the hearth's own patience is a minute."""
    alice = hearth.register("alice")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = f"localhost:{listening.getsockname()[1]}"
        began = time.monotonic()
        user = f"@carol:{silent}"
        queried = alice.post(f"{V3}/keys/query", {"device_keys": {user: []}, "timeout": 500})
        wanted = {"one_time_keys": {user: {"PHONE": "signed_curve25519"}}, "timeout": 500}
        claimed = alice.post(f"{V3}/keys/claim", wanted)
        assert time.monotonic() - began < 30
    told = {silent: {"errcode": "M_UNKNOWN", "error": f"{silent} did not answer in time"}}
    assert queried["failures"] == claimed["failures"] == told


def test_events_and_edus_reach_a_server_and_outlast_its_absence(hearth: FederatedServer, peer: ScriptedPeer) -> None:
    arrived, known = Peers(), set[str]()

    def take(received: Received) -> Any:
        """A transaction that comes again, as the answer was cut off when the peer went away, is the same."""
        with arrived.changed:
            if received.path not in known:
                known.add(received.path)
                arrived.transactions.setdefault(peer.server_name, []).append((received.path, received.json))
            arrived.changed.notify_all()
        return {"pdus": {}}

    peer.answer("PUT", SEND, take)
    alice, carol = hearth.register("alice"), f"@carol:{peer.server_name}"
    room_id = alice.create_room(preset="public_chat")
    let_join(hearth, room_id, carol)
    alice.send(room_id, "one")
    arrived.wait_for(lambda: arrived.bodies(peer.server_name) == ["one"])
    peer.stop()
    alice.send(room_id, "two")
    alice.put("/sendToDevice/{}/{}", {"messages": {carol: {"*": {"n": 1}}}}, at=("m.test", "1"))
    peer.start()
    assert peer.get(hearth, "/_matrix/federation/v1/query/directory?room_alias=%23x:y").status_code == 404
    arrived.wait_for(lambda: arrived.bodies(peer.server_name) == ["one", "two"])
    arrived.wait_for(lambda: arrived.contents("m.direct_to_device", peer.server_name))
