"""The kit itself: what every other test leans on must be able to fail."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from typing import Any

import pytest
import requests

from tests.kit.certificates import TestCa
from tests.kit.client import Unexpected, bodies, timeline
from tests.kit.federation import ScriptedPeer
from tests.kit.servers import LocalServer, SubprocessServer, to_toml
from tests.kit.specification import NotAsSpecified, Specification

SPECIFICATION = Specification()
needs_specification = pytest.mark.skipif(not SPECIFICATION.is_present, reason=f"{SPECIFICATION.file} is absent")


def test_two_people_talk(hearth: LocalServer) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room_id = alice.create_room(preset="public_chat")
    bob.join(room_id)
    bob.sync()
    alice.send(room_id, "hello")
    assert bodies(timeline(bob.sync(), room_id)) == ["hello"]


def test_unexpected_answers_are_raised(hearth: LocalServer) -> None:
    alice = hearth.register("alice")
    with pytest.raises(Unexpected, match="M_FORBIDDEN"):
        alice.send("!none:test.example", "hello")
    with pytest.raises(Unexpected, match="expected M_LIMIT_EXCEEDED"):
        alice.get("/joined_rooms", expect="M_LIMIT_EXCEEDED")


def test_killed_server_comes_back_with_its_data(start_subprocess: Callable[..., SubprocessServer]) -> None:
    server = start_subprocess()
    alice = server.register("alice")
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello")
    server.restart()
    assert alice.get("/rooms/{}/event/{}", at=(room_id, event_id))["content"]["body"] == "hello"


def test_stopped_server_exits_with_0(start_subprocess: Callable[..., SubprocessServer]) -> None:
    assert start_subprocess().stop() == 0


def test_stopped_peer_answers_no_more_on_connections_that_were_open(
    start_peer: Callable[..., ScriptedPeer], test_ca: TestCa
) -> None:
    peer = start_peer()
    with requests.Session() as session:
        session.get(f"https://{peer.server_name}/one", verify=str(test_ca.file))
        peer.stop()
        with pytest.raises(requests.ConnectionError):
            session.get(f"https://{peer.server_name}/two", verify=str(test_ca.file))
    assert [each.path for each in peer.requests] == ["/one"]


@needs_specification
def test_response_of_another_shape_is_refused() -> None:
    with pytest.raises(NotAsSpecified, match="joined_rooms"):
        SPECIFICATION.check_response("GET", "/_matrix/client/v3/joined_rooms", 200, {"joined_rooms": 1})
    with pytest.raises(NotAsSpecified, match="errcode"):
        SPECIFICATION.check_response("GET", "/_matrix/client/r0/joined_rooms", 403, {"error": "no"})


@needs_specification
@pytest.mark.parametrize(
    "path", ["/_matrix/client/v3/joined_rooms", "/_matrix/client/v3/rooms/!a:b/state/m.room.name/"]
)
def test_paths_are_found(path: str) -> None:
    before = SPECIFICATION.checked
    SPECIFICATION.check_response("GET", path, 500, {"errcode": "M_UNKNOWN", "error": ""})
    assert SPECIFICATION.checked == before + 1


def test_settings_are_written_as_toml() -> None:
    settings: dict[str, Any] = {"a": 1, "b": {"c": True, "d": {"e": ['"', "ü"]}}, "f": [{"g": "h"}]}
    assert tomllib.loads(to_toml(settings)) == settings
