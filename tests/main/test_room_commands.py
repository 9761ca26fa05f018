"""`hearth room`, beside a running server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from homeserver.runtime.db import engine_url
from tests.kit.client import Client
from tests.kit.servers import CHECKOUT
from tests.kit.waiting import until

TIMEOUT_S = 120


@pytest.fixture
def server(start_subprocess: Any) -> Any:
    return start_subprocess()


def hearth(server: Any, *arguments: str, code: int = 0) -> str:
    """What a command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "homeserver.main", "room", *arguments, "--config", str(server.config_file)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def damage(server: Any, database_url: str, *statements: str, **values: Any) -> None:
    """Change the stopped server's database."""
    server.kill()
    engine = create_engine(engine_url(database_url, server.folder / "data"))
    with engine.begin() as conn:
        for statement in statements:
            conn.execute(text(statement), values)
    engine.dispose()
    server.start()


def room_with_state(server: Any) -> tuple[Client, Client, str]:
    alice, bob = server.register("alice"), server.register("bob")
    room_id = alice.create_room(preset="public_chat", name="Before")
    bob.join(room_id)
    alice.put(f"/_matrix/client/v3/rooms/{room_id}/state/m.room.name", {"name": "After"})
    alice.send(room_id, "hello")
    return alice, bob, room_id


def state_ids(client: Client, room_id: str) -> list[str]:
    return sorted(event["event_id"] for event in client.get(f"/_matrix/client/v3/rooms/{room_id}/state"))


def test_room_is_shown_and_listed(server: Any) -> None:
    alice, bob, room_id = room_with_state(server)
    shown = hearth(server, "show", room_id)
    for words in (
        "made by " + alice.user_id,
        "2 join",
        f"{alice.user_id}, {bob.user_id}",
        "m.room.message of",
        "1 servers",
    ):
        assert words in shown
    assert "!" + " " not in shown
    assert room_id in hearth(server, "list")
    assert room_id not in hearth(server, "list", "--empty")
    assert "does not know" in hearth(server, "show", "!nothing:test", code=1)
    assert "room" in hearth(server, "show", "nonsense", code=1)


def test_nothing_is_repaired_where_nothing_is_wrong(server: Any) -> None:
    alice, _, room_id = room_with_state(server)
    before = state_ids(alice, room_id)
    assert "Nothing was wrong" in hearth(server, "repair", room_id)
    assert state_ids(alice, room_id) == before
    alice.send(room_id, "on it goes")


def test_damaged_state_is_made_anew_from_the_events(server: Any, database_url: str) -> None:
    alice, bob, room_id = room_with_state(server)
    damage(
        server,
        database_url,
        "DELETE FROM current_state WHERE room_id = :room AND type = 'm.room.name'",
        "UPDATE memberships SET membership = 'leave' WHERE room_id = :room AND user_id = :bob",
        room=room_id,
        bob=bob.user_id,
    )
    shown = hearth(server, "show", room_id, code=1)
    assert "m.room.name" in shown
    assert f"memberships of 1 users are wrong: {bob.user_id}" in shown
    assert bob.get("/_matrix/client/v3/joined_rooms")["joined_rooms"] == []
    alice.sync()
    assert room_id not in bob.sync(since=None).get("rooms", {}).get("join", {})
    assert "Put right." in hearth(server, "repair", room_id)
    hearth(server, "show", room_id)
    told = alice.sync(timeout=60_000)["rooms"]["join"][room_id]["state"]["events"]
    assert [(event["type"], event["content"]) for event in told] == [("m.room.name", {"name": "After"})]
    came_back = bob.sync(timeout=60_000)["rooms"]["join"][room_id]
    assert ("m.room.name", {"name": "After"}) in [
        (event["type"], event["content"]) for event in came_back["state"]["events"] + came_back["timeline"]["events"]
    ]
    assert alice.get(f"/_matrix/client/v3/rooms/{room_id}/state/m.room.name") == {"name": "After"}
    assert bob.get("/_matrix/client/v3/joined_rooms")["joined_rooms"] == [room_id]
    bob.send(room_id, "here again")


def test_extremity_that_is_not_stored_is_left_out(server: Any, database_url: str) -> None:
    alice, _, room_id = room_with_state(server)
    damage(server, database_url, "UPDATE rooms SET extremities = '[\"$gone\"]' WHERE room_id = :room", room=room_id)
    assert "the extremity $gone is not stored" in hearth(server, "show", room_id, code=1)
    assert "Put right." in hearth(server, "repair", room_id)
    hearth(server, "show", room_id)
    alice.create_room()
    alice.send(room_id, "on it goes")


def test_several_extremities_are_resolved_and_merged(server: Any, database_url: str) -> None:
    """A fork as another server makes it: two names that follow the same event, of which the newer one counts."""
    alice, bob, room_id = room_with_state(server)
    names = [alice.set_state(room_id, "m.room.name", {"name": name}) for name in ("Left", "Right")]
    extremities = json.dumps(names)
    damage(
        server,
        database_url,
        "UPDATE rooms SET extremities = :extremities WHERE room_id = :room",
        "DELETE FROM current_state WHERE room_id = :room AND type = 'm.room.name'",
        room=room_id,
        extremities=extremities,
    )
    alice.sync()
    shown = hearth(server, "show", room_id, code=1)
    assert "2 extremities" in shown and "m.room.name" in shown
    assert "Put right." in hearth(server, "repair", room_id)
    assert hearth(server, "show", room_id).count("at depth") == 1
    until(alice, lambda: alice.get_state(room_id, "m.room.name") == {"name": "Right"})
    told = alice.sync(timeout=60_000)["rooms"]["join"][room_id]["state"]["events"]
    assert [event["event_id"] for event in told] == [names[1]]
    bob.send(room_id, "on it goes")
    assert "Nothing was wrong" in hearth(server, "repair", room_id)


def test_room_that_is_only_forked_is_merged(server: Any, database_url: str) -> None:
    alice, _, room_id = room_with_state(server)
    said = [alice.send(room_id, f"said {n}") for n in range(3)]
    damage(
        server,
        database_url,
        "UPDATE rooms SET extremities = :extremities WHERE room_id = :room",
        room=room_id,
        extremities=json.dumps(said),
    )
    assert "the room has 3 extremities" in hearth(server, "show", room_id)
    assert "Put right." in hearth(server, "repair", room_id)
    assert hearth(server, "show", room_id).count("at depth") == 1
    alice.send(room_id, "on it goes")


def test_room_is_purged_when_nobody_is_in_it_or_by_force(server: Any) -> None:
    alice, bob, room_id = room_with_state(server)
    assert "are in the room" in hearth(server, "purge", room_id, code=1)
    alice.send(room_id, "still there")
    assert "Deleted" in hearth(server, "purge", room_id, "--force")
    other = alice.create_room()
    alice.request("GET", f"/rooms/{room_id}/state", expect="M_FORBIDDEN")
    assert bob.get("/_matrix/client/v3/joined_rooms")["joined_rooms"] == []
    assert room_id not in hearth(server, "list")
    assert other in hearth(server, "list")
