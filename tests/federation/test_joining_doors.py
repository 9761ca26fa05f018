"""Before the door of a room of another server: knocking, taking it back, invites accepted and refused."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.build import add_signature
from homeserver.matrix.format import stripped_state
from homeserver.store.untold_leaves import load_untold_leaves
from tests.federation.resident import MEMBER, V1, V2, PeerRoom
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

KNOCKABLE = ["7", "9", "10", "11", "12"]


def knock(client: Client, room: PeerRoom, **about: Any) -> Any:
    return client.post(
        "/knock/{}", {"reason": "Let me in"}, at=[room.room_id], query={"via": room.peer.server_name}, **about
    )


def be_invited(hearth: Any, client: Client, room: PeerRoom) -> None:
    """The peer's creator invites the user."""
    invite = room.build(MEMBER, {"membership": "invite"}, client.user_id, room.creator, prev=list(room.tips))
    core = hearth.running.services.core
    invite = add_signature(invite, core.signing_key, core.server_name)
    room.add(invite)
    state = [stripped_state(event) for event in room.shown()]
    run_in_reactor(lambda: core.outside.receive_invite(invite, state))


def rooms_of(client: Client, section: str) -> dict[str, Any]:
    rooms: dict[str, Any] = client.sync(since=None).get("rooms", {}).get(section, {})
    return rooms


@pytest.mark.parametrize("version", KNOCKABLE)
def test_knock_is_shown_and_taken_back(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version, join_rule="knock").serve()
    assert knock(alice, room) == {"room_id": room.room_id}
    member = room.events[room.state[(MEMBER, alice.user_id)]]
    assert (member.content["membership"], member.content["reason"]) == ("knock", "Let me in")
    shown = rooms_of(alice, "knock")[room.room_id]["knock_state"]["events"]
    assert {"m.room.create", "m.room.name", MEMBER} <= {event["type"] for event in shown}
    knock(alice, room)
    assert len(peer.received(f"{V1}/send_knock/")) == 2
    assert room.room_id in rooms_of(alice, "knock")
    alice.leave(room.room_id)
    assert room.events[room.state[(MEMBER, alice.user_id)]].content["membership"] == "leave"
    assert room.room_id not in rooms_of(alice, "knock")


def test_knock_that_is_refused_leaves_no_trace(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="knock").serve()
    peer.answer("PUT", f"{V1}/send_knock/", {"errcode": "M_FORBIDDEN", "error": "no"}, status=403)
    knock(alice, room, expect=403)
    assert rooms_of(alice, "knock") == {}


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_invite_is_accepted_through_the_inviters_server(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version, join_rule="invite").serve()
    be_invited(hearth, alice, room)
    assert room.room_id in rooms_of(alice, "invite")
    alice.join(room.room_id)
    assert room.room_id in rooms_of(alice, "join")
    assert rooms_of(alice, "invite") == {}


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_invite_is_refused(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version, join_rule="invite").serve()
    be_invited(hearth, alice, room)
    alice.leave(room.room_id)
    assert room.events[room.state[(MEMBER, alice.user_id)]].content["membership"] == "leave"
    assert rooms_of(alice, "invite") == {}
    alice.leave(room.room_id)


def test_old_server_is_told_by_the_first_version_of_send_leave(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="invite").serve()
    peer.answer("PUT", f"{V2}/send_leave/", {"errcode": "M_UNRECOGNIZED", "error": "?"}, status=404)
    be_invited(hearth, alice, room)
    alice.leave(room.room_id)
    assert len(peer.received(f"{V1}/send_leave/")) == 1


@pytest.mark.parametrize("version", ["1", "6", "11", "12"])
def test_invite_is_refused_though_the_other_server_is_down(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, version, join_rule="invite").serve()
    be_invited(hearth, alice, room)
    peer.stop()
    alice.leave(room.room_id)
    assert rooms_of(alice, "invite") == {}
    hearth.restart()
    alice = Client(hearth.url, alice.token, alice.user_id)
    assert rooms_of(alice, "invite") == {}


@pytest.fixture
def quick_retries(monkeypatch: Any) -> None:
    monkeypatch.setattr("federation.joining.leaving.FIRST_PAUSE_MS", 20)
    monkeypatch.setattr("federation.joining.leaving.MAX_PAUSE_MS", 200)


def membership_of(client: Client, room: PeerRoom) -> Any:
    return room.events[room.state[(MEMBER, client.user_id)]].content["membership"]


def untold(hearth: Any) -> list[Any]:
    database = hearth.running.services.core.database
    leaves: list[Any] = run_in_reactor(lambda: database.read(load_untold_leaves))
    return leaves


def refuse_while_down(hearth: Any, peer: Any) -> tuple[Client, PeerRoom]:
    """Who refused an invite to the room of a server that is down since."""
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="invite").serve()
    be_invited(hearth, alice, room)
    peer.stop()
    alice.leave(room.room_id)
    return alice, room


def test_server_that_was_down_is_told_later_of_a_refusal(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = refuse_while_down(hearth, peer)
    assert rooms_of(alice, "invite") == {}
    peer.start()
    until(alice, lambda: membership_of(alice, room) == "leave")
    until(alice, lambda: untold(hearth) == [])


def test_server_that_was_down_is_told_after_a_restart(start_federated: Any, start_peer: Any, monkeypatch: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = refuse_while_down(hearth, peer)
    hearth.stop()
    peer.start()
    monkeypatch.setattr("federation.joining.leaving.FIRST_PAUSE_MS", 20)
    hearth.start()
    alice.base_url = hearth.url
    until(alice, lambda: membership_of(alice, room) == "leave")


def test_server_is_not_told_of_a_refusal_of_an_older_invite(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = refuse_while_down(hearth, peer)
    (leave,), leaving = untold(hearth), hearth.federation.joining.leaving
    peer.start()
    be_invited(hearth, alice, room)
    assert run_in_reactor(lambda: leaving._try(leave)) is True
    assert room.room_id in rooms_of(alice, "invite")
    assert peer.received(f"{V1}/make_leave/") == []


def test_server_that_refuses_the_leave_is_not_asked_again(
    start_federated: Any, start_peer: Any, quick_retries: None
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, join_rule="invite").serve()
    be_invited(hearth, alice, room)
    peer.answer("GET", f"{V1}/make_leave/", {"errcode": "M_FORBIDDEN", "error": "Not invited"}, status=403)
    alice.leave(room.room_id)
    assert rooms_of(alice, "invite") == {}
    assert untold(hearth) == []


def test_leave_that_nobody_takes_is_given_up(
    start_federated: Any, start_peer: Any, quick_retries: None, monkeypatch: Any
) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, _ = refuse_while_down(hearth, peer)
    assert len(untold(hearth)) == 1
    monkeypatch.setattr("federation.joining.leaving.GIVE_UP_AFTER_MS", 0)
    until(alice, lambda: untold(hearth) == [])


def test_leaving_a_room_that_nobody_knows_is_not_found(start_federated: Any) -> None:
    start_federated().register("alice").leave("!" + "a" * 43, expect=404)
