"""What reading endpoints answer at their edges."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def alice(hearth: Any) -> Any:
    return hearth.register("alice")


@pytest.fixture
def bob(hearth: Any) -> Any:
    return hearth.register("bob")


def test_event_of_a_room_that_one_is_not_in_is_not_found(alice: Any, bob: Any) -> None:
    room_id = alice.create_room()
    event_id = alice.send(room_id, "hello")
    bob.get("/rooms/{}/event/{}", at=(room_id, event_id), expect="M_NOT_FOUND")
    bob.get("/rooms/{}/event/{}", at=("!none:test.example", event_id), expect="M_NOT_FOUND")
