"""Who types where: in memory only, gone when its time is up.

Spec: client-server-api#typing-notifications
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from homeserver.matrix.ids import RoomId, UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.serial import Serial

MAX_TIMEOUT_MS = 120_000
# How many rooms' last changes are remembered after nobody types there any more.
MAX_QUIET_ROOMS = 10_000


class Typing:
    """`serial` numbers the changes of all ephemeral data, not of typing alone."""

    def __init__(self, clock: Clock, serial: Serial) -> None:
        self._clock = clock
        self._serial = serial
        self._rooms: dict[RoomId, dict[UserId, Any]] = {}
        # Room -> serial of its newest change; in the order of the changes.
        self._changed: dict[RoomId, int] = {}
        self._followers: list[Callable[[Collection[RoomId]], object]] = []

    @property
    def serial(self) -> int:
        """Of the newest change of ephemeral data anywhere."""
        return self._serial.value

    def follow(self, follower: Callable[[Collection[RoomId]], object]) -> None:
        """Call `follower` with the rooms of each change."""
        self._followers.append(follower)

    def start(self, room_id: RoomId, user_id: UserId, timeout_ms: int) -> None:
        """The user types, for timeout_ms at most; said again, the time begins anew."""
        users = self._rooms.setdefault(room_id, {})
        timer = users.get(user_id)
        if timer is not None:
            timer.cancel()
        delay_ms = min(timeout_ms, MAX_TIMEOUT_MS)
        users[user_id] = self._clock.call_later(delay_ms, self._time_out, room_id, user_id)
        if timer is None:
            self._change(room_id)

    def stop(self, room_id: RoomId, user_id: UserId) -> None:
        """The user does not type (any more)."""
        timer = self._rooms.get(room_id, {}).get(user_id)
        if timer is not None:
            timer.cancel()
            self._time_out(room_id, user_id)

    def close(self) -> None:
        """The server stops: no time runs out any more."""
        for users in self._rooms.values():
            for timer in users.values():
                timer.cancel()
        self._rooms.clear()

    def typing(self, room_id: RoomId, /) -> tuple[int, Collection[UserId]]:
        """The serial of the room's newest change, and who types now."""
        return self._changed.get(room_id, 0), tuple(self._rooms.get(room_id, ()))

    def rooms_changed_since(self, serial: int, /) -> Collection[RoomId]:
        if serial >= self.serial:
            return ()
        rooms = []
        for room_id, changed in reversed(self._changed.items()):
            if changed <= serial:
                break
            rooms.append(room_id)
        return rooms

    def _time_out(self, room_id: RoomId, user_id: UserId) -> None:
        users = self._rooms[room_id]
        del users[user_id]
        if not users:
            del self._rooms[room_id]
        self._change(room_id)

    def _change(self, room_id: RoomId) -> None:
        self._changed.pop(room_id, None)
        self._changed[room_id] = self._serial.raise_it()
        if len(self._changed) > MAX_QUIET_ROOMS:
            oldest = next(iter(self._changed))
            if oldest not in self._rooms:
                del self._changed[oldest]
        for follower in self._followers:
            follower((room_id,))
