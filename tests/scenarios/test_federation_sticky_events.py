"""Sticky events (MSC4354) between two servers: who is told of them, and when."""

from __future__ import annotations

import pytest

from tests.kit.client import Client
from tests.kit.peers import PAIRS, Pair
from tests.kit.waiting import until, until_equal
from tests.scenarios.federated_rooms import SharedRoom, both_ways, get_membership, join, make_shared_room

DURATION = "org.matrix.msc4354.sticky_duration_ms"
HOUR_MS = 3_600_000
SMALL = {"room": {"timeline": {"limit": 1}}}


def stick(client: Client, room_id: str, txn: str) -> str:
    path, at = "/rooms/{}/send/{}/{}", (room_id, "x.sticky", txn)
    event_id: str = client.put(path, {"txn": txn}, at=at, query={DURATION: HOUR_MS})["event_id"]
    return event_id


def told(client: Client, room_id: str) -> dict[str, int]:
    """The sticky events that a client is told of at first, and for how long they are so still."""
    joined = client.get("/sync", query={"filter": SMALL}).get("rooms", {}).get("join", {}).get(room_id, {})
    events = [*joined.get("msc4354_sticky", {}).get("events", []), *joined.get("timeline", {}).get("events", [])]
    return {
        event["event_id"]: event["unsigned"]["msc4354_sticky_duration_ttl_ms"]
        for event in events
        if event["type"] == "x.sticky"
    }


@both_ways
def test_what_is_sticky_is_told_on_both_sides(pair: Pair) -> None:
    room = make_shared_room(pair)
    sent = {stick(sender, room.id, f"{n}") for sender in (room.alice, room.bob) for n in range(3)}
    for client in (room.alice, room.bob):
        client.send(room.id, "later")
    for client in (room.alice, room.bob):
        until(client, lambda: told(client, room.id).keys() == sent)  # noqa: B023  called in this round
        assert all(HOUR_MS - 300_000 < left_ms <= HOUR_MS for left_ms in told(client, room.id).values())


# Synapse 1.163 sends none to servers that join.
@pytest.mark.parametrize("pair", [makes for makes in PAIRS if makes.startswith("hearth")], indirect=True)
def test_a_server_that_joins_is_sent_what_is_sticky_then(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room_id = alice.create_room(preset="public_chat")
    sent = {stick(alice, room_id, f"{n}") for n in range(3)}
    for n in range(3):
        alice.send(room_id, f"later {n}")
    join(bob, room_id, pair)
    until_equal(bob, lambda: set(told(bob, room_id)), sent)


@both_ways
def test_who_comes_back_is_heard_with_what_was_sticky_meanwhile(pair: Pair) -> None:
    room: SharedRoom = make_shared_room(pair)
    pair.cut()
    room.alice.kick(room.id, room.bob.user_id)
    event_id = stick(room.bob, room.id, "1")
    pair.heal()
    until(room.bob, lambda: room.id not in room.bob.get("/sync").get("rooms", {}).get("join", {}))
    join(room.bob, room.id, pair)
    until(room.alice, lambda: get_membership(room.alice, room.id, room.bob) == "join")
    until(room.alice, lambda: event_id in told(room.alice, room.id))
