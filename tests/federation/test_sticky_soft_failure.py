"""Sticky events (MSC4354) that the room's state forbids when they come, and allows while they are sticky."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest

from homeserver.matrix.ids import EventId, RoomId
from homeserver.rooms.second_looks import SecondLooks
from tests.federation.peer_room import PeerRoom
from tests.federation.test_policy_servers import SIGN, signed_by, use_policy_server
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

DURATION = "org.matrix.msc4354.sticky_duration_ms"
HOUR_MS = 3_600_000
SMALL = {"room": {"timeline": {"limit": 1}}}
LEVELS = "m.room.power_levels"
_numbers = count(1)


@pytest.fixture
def room(start_federated: Callable[..., Any], start_peer: Callable[..., Any]) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def told(client: Client, room_id: str, since: str | None = None) -> list[str]:
    """What sticky events a client has behind a token, with room for one event in the timeline."""
    answer = client.get("/sync", query={"filter": SMALL, "since": since})
    joined = answer.get("rooms", {}).get("join", {}).get(room_id, {})
    events = [*joined.get("msc4354_sticky", {}).get("events", []), *joined.get("timeline", {}).get("events", [])]
    return [event["event_id"] for event in events if event["type"].startswith("x.sticky")]


def take_in(room: PeerRoom, *pdus: Any) -> None:
    """They are soft failed, which no answer says."""
    answer = room.send(*pdus).json()
    assert answer == {"pdus": {pdu.event_id: {} for pdu in pdus}}
    room.wait_until_idle()
    assert [pdu.event_id for pdu in pdus if room.sees(pdu.event_id)] == []


def stick(room: PeerRoom, duration_ms: int | None = HOUR_MS, **about: Any) -> Any:
    """An event of bob's that does not know what comes next."""
    return room.build(
        about.pop("type", "x.sticky"), {"n": next(_numbers)}, advance=False, sticky_ms=duration_ms, **about
    )


def come_back(room: PeerRoom) -> None:
    room.catch_up()
    take = room.build("m.room.member", {"membership": "join"}, state_key=room.bob)
    assert room.send(take).json() == {"pdus": {take.event_id: {}}}
    room.wait_for_member(room.bob, "join")


def test_who_comes_back_is_heard_with_what_was_sticky_meanwhile(room: PeerRoom) -> None:
    early, plain, short = stick(room), stick(room, None), stick(room, 1)
    late = stick(room, type="x.sticky.late")
    room.alice.kick(room.room_id, room.bob)
    take_in(room, early, plain, short, late)
    since = room.alice.get("/sync")["next_batch"]
    come_back(room)
    room.wait_for_event(late.event_id)
    room.alice.send(room.room_id, "welcome")
    assert told(room.alice, room.room_id, since) == [early.event_id, late.event_id]
    assert told(room.alice, room.room_id) == [early.event_id, late.event_id]
    assert not room.sees(plain.event_id)


def test_levels_that_are_lowered_let_in_what_was_sticky_meanwhile(room: PeerRoom) -> None:
    message = stick(room)
    levels = room.alice.get_state(room.room_id, LEVELS)
    room.alice.set_state(room.room_id, LEVELS, {**levels, "events": {"x.sticky": 50}})
    take_in(room, message)
    room.alice.set_state(room.room_id, LEVELS, {**levels, "events": {"x.sticky": 51}})
    room.alice.send(room.room_id, "still not")
    assert told(room.alice, room.room_id) == []
    room.alice.set_state(room.room_id, LEVELS, levels)
    room.wait_for_event(message.event_id)
    room.alice.send(room.room_id, "now")
    assert told(room.alice, room.room_id) == [message.event_id]


def test_what_the_policy_server_does_not_recommend_is_never_sticky(room: PeerRoom) -> None:
    use_policy_server(room)
    levels = room.alice.get_state(room.room_id, LEVELS)
    spam, good = stick(room), signed_by(room, stick(room).json)
    server = room.peer.server_name
    room.peer.answer(
        "POST",
        SIGN,
        lambda asked: (
            {} if asked.json["type"] == "x.sticky" else {server: signed_by(room, asked.json)["signatures"][server]}
        ),
    )
    room.alice.set_state(room.room_id, LEVELS, {**levels, "events": {"x.sticky": 50}})
    (event_id,) = room.send(good).json()["pdus"]
    take_in(room, spam)
    room.alice.set_state(room.room_id, LEVELS, levels)
    room.wait_for_event(event_id)
    assert told(room.alice, room.room_id) == [event_id]
    assert not room.sees(spam.event_id)


def test_a_sticky_state_event_becomes_the_room_s_state_when_it_is_allowed(room: PeerRoom) -> None:
    levels = room.alice.get_state(room.room_id, LEVELS)
    room.alice.set_state(room.room_id, LEVELS, {**levels, "state_default": 0})
    room.catch_up()
    state = stick(room, type="x.sticky.state", state_key="")
    room.alice.set_state(room.room_id, LEVELS, levels)
    take_in(room, state)
    room.alice.get("/rooms/{}/state/{}/", at=(room.room_id, "x.sticky.state"), expect="M_NOT_FOUND")
    room.alice.set_state(room.room_id, LEVELS, {**levels, "state_default": 0})
    room.wait_for_event(state.event_id)
    room.alice.send(room.room_id, "now")
    assert told(room.alice, room.room_id) == [state.event_id]
    assert room.alice.get_state(room.room_id, "x.sticky.state") == state.content


def test_what_a_crash_left_undone_is_done_at_the_next_start(room: PeerRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    message = stick(room)
    room.alice.kick(room.room_id, room.bob)
    take_in(room, message)
    with monkeypatch.context() as patched:
        patched.setattr(SecondLooks, "_want", lambda *_: None)
        come_back(room)
        assert told(room.alice, room.room_id) == []
        room.hearth.stop()
    room.hearth.start()
    room.alice.base_url = room.hearth.url
    room.wait_for_event(message.event_id)
    assert told(room.alice, room.room_id) == [message.event_id]


def test_it_is_sticky_from_when_it_came_and_not_from_when_it_was_let_in(room: PeerRoom) -> None:
    ahead = stick(room, HOUR_MS // 4, origin_server_ts=int(time.time() * 1000) + HOUR_MS // 2)
    room.alice.kick(room.room_id, room.bob)
    before_ms = int(time.time() * 1000)
    take_in(room, ahead)
    after_ms = int(time.time() * 1000)
    come_back(room)
    room.wait_for_event(ahead.event_id)
    for _ in range(2):
        [event] = room.alice.get("/sync")["rooms"]["join"][room.room_id]["timeline"]["events"][-1:]
        until_ms = int(time.time() * 1000) + event["unsigned"]["msc4354_sticky_duration_ttl_ms"]
        assert event["event_id"] == ahead.event_id
        assert before_ms + HOUR_MS // 4 <= until_ms <= after_ms + HOUR_MS // 4 + 1_000
        room.hearth.restart()
        room.alice.base_url = room.hearth.url


def is_soft_failed(server: Any, room_id: str, event_id: str) -> bool:
    core = server.running.services.core

    async def load() -> Any:
        head = await core.heads.load(RoomId(room_id))
        return await core.events.load(EventId(event_id), RoomId(room_id), head.version)

    event = run_in_reactor(load)
    return event is not None and event.soft_failed


def test_two_hearths_agree_when_who_was_kicked_comes_back(peers: Any, impatient: None) -> None:
    mesh = peers.mesh(2)
    here = mesh.servers[0]
    alice, bob = mesh.person(0, "alice"), mesh.person(1, "bob")
    room_id = alice.create_room(preset="public_chat")
    bob.post("/join/{}", {}, at=[room_id], query={"via": here.server_name})
    until(alice, lambda: bob.user_id in alice.get("/rooms/{}/joined_members", at=[room_id])["joined"])
    mesh.cut(0, 1)
    alice.kick(room_id, bob.user_id)
    path = "/rooms/{}/send/{}/{}"
    event_id = bob.put(path, {}, at=(room_id, "x.sticky", "1"), query={DURATION: HOUR_MS})["event_id"]
    mesh.heal()
    until(bob, lambda: room_id not in bob.get("/sync").get("rooms", {}).get("join", {}))
    until(alice, lambda: is_soft_failed(here, room_id, event_id))
    assert told(alice, room_id) == []
    bob.post("/join/{}", {}, at=[room_id], query={"via": here.server_name})
    until(alice, lambda: told(alice, room_id) == [event_id])
    assert told(bob, room_id) == [event_id]
