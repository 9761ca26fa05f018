"""Servers that are away for a while, and servers cut off from each other: nothing is lost, and both end with the same."""

from __future__ import annotations

from tests.kit.client import Client
from tests.kit.peers import Pair, Side
from tests.kit.waiting import get_current_state, get_history, get_texts, until, until_equal
from tests.scenarios.federated_rooms import SharedRoom, both_ways, every_version, join, make_shared_room

HISTORY = 500
AWAY = 30


@both_ways
def test_history_from_before_the_join_is_read_page_by_page(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = alice.create_room(preset="public_chat")
    for number in range(HISTORY):
        alice.send(room, f"{number}")
    join(bob, room, pair)
    assert get_texts(bob, room) == [f"{number}" for number in range(HISTORY)]
    ids = [event["event_id"] for event in get_history(bob, room)]
    assert len(ids) == len(set(ids))


@both_ways
def test_the_far_server_catches_up_after_an_outage(pair: Pair) -> None:
    room = make_shared_room(pair)
    room.alice.send(room.id, "before")
    until(room.bob, lambda: get_texts(room.bob, room.id) == ["before"])
    _talk_while_away(room, pair.far, room.alice, room.bob)


@both_ways
def test_the_near_server_catches_up_after_an_outage(pair: Pair) -> None:
    room = make_shared_room(pair)
    room.alice.send(room.id, "before")
    until(room.bob, lambda: get_texts(room.bob, room.id) == ["before"])
    _talk_while_away(room, pair.near, room.bob, room.alice)


def _talk_while_away(room: SharedRoom, away: Side, here: Client, gone: Client) -> None:
    away.stop()
    said = ["before"]
    for number in range(AWAY):
        said.append(f"you missed {number}")
        here.send(room.id, said[-1])
    here.put("/profile/{}/displayname", {"displayname": "Changed"}, at=[here.user_id])
    away.start()
    said.append("there you are")
    here.send(room.id, said[-1])
    until_equal(gone, lambda: get_texts(gone, room.id), said)
    until(gone, lambda: gone.get_state(room.id, "m.room.member", here.user_id).get("displayname") == "Changed")
    until(gone, lambda: get_current_state(gone, room.id) == get_current_state(here, room.id))
    gone.send(room.id, "sorry")
    until_equal(here, lambda: get_texts(here, room.id), [*said, "sorry"])


def meet_again(room: SharedRoom) -> None:
    """Heals the wires; both have all that was said on either side, and the same state."""
    room.pair.heal()
    here, there = room.alice.send(room.id, "hello again"), room.bob.send(room.id, "hello you")
    until(room.bob, lambda: room.bob.get("/rooms/{}/event/{}", at=(room.id, here)))
    until(room.alice, lambda: room.alice.get("/rooms/{}/event/{}", at=(room.id, there)))
    until(room.bob, lambda: get_current_state(room.bob, room.id) == get_current_state(room.alice, room.id))


@both_ways
@every_version
def test_forks_with_changes_of_all_kinds_end_in_one_state(pair: Pair, version: str) -> None:
    room = make_shared_room(pair, room_version=version)
    carol, dora = pair.near.person("carol"), pair.far.person("dora")
    room.set_level(room.bob, 60)
    room.join(carol)
    pair.cut()
    for client, other in ((room.alice, "near"), (room.bob, "far")):
        for number in range(5):
            client.send(room.id, f"{other} {number}")
        client.set_state(room.id, "m.room.topic", {"topic": f"from {other}"})
        client.set_state(room.id, f"org.example.{other}", {"only": "here"})
        client.put("/profile/{}/displayname", {"displayname": other}, at=[client.user_id])
    room.alice.set_state(room.id, "m.room.name", {"name": "Renamed"})
    dora.join(room.id)
    meet_again(room)

    said = {f"{side} {number}" for side in ("near", "far") for number in range(5)}
    for client in (room.alice, room.bob):
        until(client, lambda: said <= set(get_texts(client, room.id)))  # noqa: B023  called in this round
        assert client.get_state(room.id, "m.room.name") == {"name": "Renamed"}
        assert client.get_state(room.id, "org.example.near") == client.get_state(room.id, "org.example.far")
        assert client.get_state(room.id, "m.room.member", room.bob.user_id)["displayname"] == "far"
        assert client.get_state(room.id, "m.room.member", dora.user_id)["membership"] == "join"


@both_ways
@every_version
def test_ban_on_one_side_of_a_fork_holds_on_the_other(pair: Pair, version: str) -> None:
    room = make_shared_room(pair, room_version=version)
    dora = pair.far.person("dora")
    room.join(dora)
    room.set_level(dora, 50)
    pair.cut()
    room.alice.ban(room.id, dora.user_id)
    dora.set_state(room.id, "m.room.topic", {"topic": "still here"})
    dora.send(room.id, "still talking")
    meet_again(room)
    for client in (room.alice, room.bob):
        assert client.get_state(room.id, "m.room.member", dora.user_id)["membership"] == "ban"
    dora.send(room.id, "and now?", expect=403)


@both_ways
@every_version
def test_levels_changed_on_both_sides_of_a_fork_end_alike(pair: Pair, version: str) -> None:
    room = make_shared_room(pair, room_version=version)
    levels = room.alice.get_state(room.id, "m.room.power_levels")
    room.alice.set_state(
        room.id, "m.room.power_levels", {**levels, "events": {**levels["events"], "m.room.power_levels": 90}}
    )
    room.set_level(room.bob, 90)
    levels = room.alice.get_state(room.id, "m.room.power_levels")
    pair.cut()
    users = {**levels.get("users", {}), room.bob.user_id: 0}
    room.alice.set_state(room.id, "m.room.power_levels", {**levels, "users": users})
    room.bob.set_state(room.id, "m.room.power_levels", {**levels, "events_default": 10})
    room.bob.set_state(room.id, "m.room.name", {"name": "Bob's"})
    room.alice.set_state(room.id, "m.room.name", {"name": "Alice's"})
    room.pair.heal()
    # bob may no longer be allowed to speak: only what is sent by alice must arrive.
    event_id = room.alice.send(room.id, "hello again")
    until(room.bob, lambda: room.bob.get("/rooms/{}/event/{}", at=(room.id, event_id)))
    until(room.bob, lambda: get_current_state(room.bob, room.id) == get_current_state(room.alice, room.id))
    assert room.alice.get_state(room.id, "m.room.name") == room.bob.get_state(room.id, "m.room.name")
