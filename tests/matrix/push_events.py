"""Events and rooms for the tests of push rules."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from homeserver.matrix.push_conditions import EventContext

ALICE = "@alice:example.com"
BOB = "@bob:example.org"
ROOM = "!room:example.com"


@frozen
class Event:
    type: str = "m.room.message"
    content: dict[str, Any] = field(factory=lambda: {"msgtype": "m.text", "body": "Hello"})
    state_key: str | None = None
    sender: str = BOB
    room_id: str = ROOM
    event_id: str = "$event"
    origin_server_ts: int = 1432735824653
    redacts: str | None = None


@frozen
class Levels:
    levels: dict[str, int] = field(factory=dict)

    def notification(self, key: str) -> int:
        return self.levels.get(key, 50)


def message(body: object = "Hello", **content: Any) -> Event:
    return Event(content={"msgtype": "m.text", "body": body, **content})


def room(members: int = 5, power: int = 0, **levels: int) -> EventContext:
    return EventContext(members, power, Levels(levels))
