"""What most stories of the client-server API begin with."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def room(alice: Any, bob: Any) -> str:
    """A public room, made by alice, which bob has joined."""
    room_id: str = alice.create_room(preset="public_chat", name="a room")
    bob.join(room_id)
    return room_id
