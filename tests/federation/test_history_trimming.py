"""History that was fetched from other servers is kept within bounds, and fetched again by whoever reads back so far."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import func, select
from twisted.internet.defer import Deferred

from homeserver.store.tables.rooms import events, state_snapshots
from homeserver.store.tables.upkeep import trimmed_events
from tests.federation.resident import MEMBER, V1, PeerRoom
from tests.federation.test_backfill import join, read_back
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

KEPT = 20
SETTINGS = {"rooms": {"kept_history_events": KEPT}}


@pytest.fixture(autouse=True)
def no_grudge(monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody could fill is asked for again at once."""
    monkeypatch.setattr("federation.backfill.FAILED_MS", 0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.rooms.history_trimming.BATCH_EVENTS", 17)
    monkeypatch.setattr("homeserver.rooms.history_trimming.BATCH_ROWS", 17)
    monkeypatch.setattr("homeserver.rooms.history_trimming.PAUSE_MS", 0)


def trim(hearth: Any) -> None:
    """A round of upkeep."""
    trims = hearth.running.services.rooms.upkeep.trims
    run_in_reactor(lambda: Deferred.fromCoroutine(trims.run()))


def count(hearth: Any, table: Any, *where: Any) -> int:
    database = hearth.running.services.core.database
    statement = select(func.count()).select_from(table).where(*where)
    number: int = run_in_reactor(lambda: database.read(lambda conn: conn.execute(statement).scalar_one()))
    return number


def count_history(hearth: Any) -> int:
    return count(hearth, events, events.c.timeline_order < 0)


def is_stored(hearth: Any, event_id: str) -> bool:
    return count(hearth, events, events.c.event_id == event_id) == 1


def asked(room: PeerRoom) -> int:
    return len(room.peer.received(f"{V1}/backfill/"))


def long_room(room: PeerRoom) -> PeerRoom:
    """With changes of state all along, and forks, one of them where it is trimmed."""
    for number in range(120):
        if number % 10 == 5:
            room.send("m.room.topic", {"topic": f"topic {number}"}, "")
        elif number % 15 == 2:
            room.join(f"user{number}")
        elif number in (40, 94, 97):
            tips = list(room.tips)
            left = room.send("m.room.message", {"msgtype": "m.text", "body": "left"}, prev=tips)
            right = room.send("m.room.message", {"msgtype": "m.text", "body": "right"}, prev=tips)
            room.tips = [left.event_id, right.event_id]
        else:
            room.say(f"message {number}")
    return room


def ids(page: list[dict[str, Any]]) -> list[str]:
    return [event["event_id"] for event in page]


def state_at(hearth: Any, room: PeerRoom, event_id: str) -> set[str]:
    """As the Hearth tells it to other servers."""
    path = f"{V1}/state_ids/{quote(room.room_id)}?event_id={quote(event_id)}"
    return set(room.peer.get(hearth, path).json()["pdu_ids"])


@pytest.mark.parametrize("version", ["1", "11"])
def test_trimmed_history_is_read_again_as_before(start_federated: Any, start_peer: Any, version: str) -> None:
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), long_room(PeerRoom.create(start_peer(), version)).serve()
    join(alice, room)
    before = read_back(alice, room)
    assert set(ids(before)) == set(room.events)
    probe = next(event for event in before if event["content"].get("body") == "message 30")["event_id"]
    state = state_at(hearth, room, probe)
    assert state == set(room.before[probe].values())
    known, snapshots = count(hearth, events), count(hearth, state_snapshots)
    for _ in range(3):
        trim(hearth)
        assert count_history(hearth) == KEPT
        trim(hearth)
        assert count(hearth, events) < known - 60
        assert count(hearth, state_snapshots) < snapshots
        was_asked = asked(room)
        assert set(ids(read_back(alice, room, limit=30))) == set(room.events)
        assert asked(room) > was_asked
        assert (count(hearth, events), count(hearth, state_snapshots)) == (known, snapshots)
        assert state_at(hearth, room, probe) == state
    assert alice.send(room.room_id, "still here")


def test_page_goes_on_behind_what_was_trimmed_meanwhile(start_federated: Any, start_peer: Any) -> None:
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), PeerRoom.create(start_peer()).serve()
    for number in range(120):
        room.say(f"message {number}")
    join(alice, room)
    read_back(alice, room)
    page = alice.messages(room.room_id, limit=50)
    trim(hearth)
    trim(hearth)
    rest = read_back(alice, room, from_=page["end"])
    assert ids(page["chunk"]) + ids(rest) == list(reversed(room.events))


def test_redacted_message_comes_back_redacted(start_federated: Any, start_peer: Any) -> None:
    """Though the other server tells it with all that it said."""
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), PeerRoom.create(start_peer()).serve()
    secret = room.say("secret")
    for number in range(60):
        room.say(f"message {number}")
    room.send("m.room.redaction", {"redacts": secret.event_id})
    join(alice, room)
    for _ in range(2):
        found = {event["event_id"]: event for event in read_back(alice, room)}
        assert found[secret.event_id]["content"] == {}
        trim(hearth)
        trim(hearth)
        assert not is_stored(hearth, secret.event_id)


def test_what_local_users_sent_and_what_others_rest_on_stays_stored(start_federated: Any, start_peer: Any) -> None:
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), PeerRoom.create(start_peer()).serve()
    old, key = f"@old:{hearth.server_name}", hearth.running.services.core.signing_key
    room.send(MEMBER, {"membership": "join"}, old, old, key=key)
    own = room.send("m.room.message", {"msgtype": "m.text", "body": "mine"}, sender=old, key=key)
    visitor = room.join("visitor")
    levels = [room.state["m.room.power_levels", ""]]
    room.send("m.room.power_levels", {"users": {room.creator: 100, visitor: 50}}, "")
    for number in range(60):
        room.say(f"message {number}")
    join(alice, room)
    other = next(event for event in read_back(alice, room) if event["content"].get("body") == "message 5")["event_id"]
    trim(hearth)
    trim(hearth)
    assert not is_stored(hearth, other)
    assert is_stored(hearth, own.event_id)
    # The power levels before: the newer ones have them in their auth chain.
    assert all(is_stored(hearth, event_id) for event_id in [*room.state.values(), *levels])
    assert count(hearth, trimmed_events, trimmed_events.c.is_swept.is_(False)) == 0


def test_history_that_nobody_else_has_is_kept(start_federated: Any, start_peer: Any) -> None:
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), PeerRoom.create(start_peer()).serve()
    for number in range(60):
        room.say(f"message {number}")
    join(alice, room)
    stored = len(read_back(alice, room))
    leave = room.send(MEMBER, {"membership": "leave"}, room.creator)
    room.peer.put(hearth, f"{V1}/send/1", {"origin": room.peer.server_name, "pdus": [leave.json], "edus": []})
    until(alice, lambda: alice.get("/rooms/{}/event/{}", at=(room.room_id, leave.event_id)))
    trim(hearth)
    assert len(read_back(alice, room)) == stored + 1


def test_little_more_than_the_bound_is_kept(start_federated: Any, start_peer: Any) -> None:
    """A room is not trimmed for each page that somebody fetches."""
    hearth = start_federated(settings=SETTINGS)
    alice, room = hearth.register("alice"), PeerRoom.create(start_peer()).serve()
    while len(room.events) < KEPT + KEPT // 10:
        room.say("again")
    join(alice, room)
    read_back(alice, room)
    trim(hearth)
    assert count_history(hearth) == KEPT + KEPT // 10
