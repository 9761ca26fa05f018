"""What is known of rooms, in memory from the first use on, where the log does not tell it but which rooms may have changed.

These, and only these, are read again before the next use, in one read. So nothing is written for its sake, nobody pays who
does not ask, and whoever changed a room sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Final, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import DeferredLock

from homeserver.matrix.ids import RoomId

# With more changed rooms than that, all is given up, and read whole at the next use.
MAX_CHANGED: Final = 2_000

V = TypeVar("V")
D = TypeVar("D")


@define(eq=False)
class Reread(Generic[V, D]):
    """read: what there is to know of some rooms, or of all (None). derive: what users want of all that is known."""

    read: Callable[[Collection[RoomId] | None], Awaitable[Mapping[RoomId, V]]]
    derive: Callable[[Mapping[RoomId, V]], D]
    known: dict[RoomId, V] | None = field(default=None, init=False)
    """None before the first use."""
    _derived: D | None = field(default=None, init=False)
    _changed: set[RoomId] = field(factory=set, init=False)
    _reading: DeferredLock = field(factory=DeferredLock, init=False)

    def note_changed(self, room_ids: Collection[RoomId]) -> None:
        """These may have changed. Nothing is noted before the first use."""
        if self.known is None:
            return
        self._changed.update(room_ids)
        if len(self._changed) > MAX_CHANGED:
            self.known = self._derived = None
            self._changed.clear()

    async def load(self) -> D:
        """True at the time of the call."""
        await self._reading.acquire()
        try:
            while self.known is None or self._changed:
                await self._read_changed()
        finally:
            self._reading.release()
        if self._derived is None:
            self._derived = self.derive(self.known)
        return self._derived

    async def _read_changed(self) -> None:
        """Rooms that change while it is read are in `_changed` again afterwards."""
        changed, self._changed = self._changed, set()
        is_whole = self.known is None
        if is_whole:
            self.known = {}
        try:
            found = await self.read(None if is_whole else changed)
        except BaseException:
            self.known = self._derived = None
            raise
        if self.known is None:  # given up in the meantime
            return
        for room_id in changed:
            self.known.pop(room_id, None)
        self.known.update(found)
        self._derived = None
