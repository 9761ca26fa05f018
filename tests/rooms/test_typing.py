"""Who types, as time passes."""

from __future__ import annotations

from collections.abc import Collection

from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.typing import Typing
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.serial import Serial

ROOM, ALICE = RoomId("!room:test.example"), UserId("@alice:test.example")


def test_time_runs_out_unless_the_server_stops_before() -> None:
    clock = ManualClock()
    typing = Typing(clock, Serial(clock))
    told: list[Collection[RoomId]] = []
    typing.follow(told.append)
    typing.start(ROOM, ALICE, 1_000)
    clock.advance(1_000)
    assert typing.typing(ROOM)[1] == ()
    assert told == [(ROOM,), (ROOM,)]
    typing.start(ROOM, ALICE, 1_000)
    typing.close()
    clock.advance(1_000)
    assert len(told) == 3
