"""Keeping the extremities of rooms few.

Whatever a local user sends merges them. Where nobody does, an event that says nothing is sent for one, so that resolving the
room's state does not grow dear; clients that show it show nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from attrs import define, field

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.writer import Draft, RoomWriter
from homeserver.runtime.background import Background
from homeserver.store.log import LogRow

logger = logging.getLogger(__name__)

MAX_EXTREMITIES = 10
DUMMY = "org.matrix.dummy_event"


@define(eq=False)
class Extremities:
    """Follows the log and merges what is too many."""

    server_name: ServerName
    heads: RoomHeads
    writer: RoomWriter
    background: Background
    _merging: set[RoomId] = field(factory=set, init=False)

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == "event" and (room_id := RoomId(row.key)) not in self._merging:
                head = self.heads.get(room_id)
                if head is not None and len(head.extremities) > MAX_EXTREMITIES:
                    self._merging.add(room_id)
                    self.background.run(self._send_dummy(head), f"The extremities of {room_id} could not be merged")

    async def merge(self, room_id: RoomId) -> None:
        """Merge them, however few; nothing where no local member can. Raises: NotFound."""
        head = await self.heads.load(room_id)
        sender = self._find_sender(head)
        if sender is not None:
            await self.writer.write(room_id, lambda now: _drafts(now, sender))

    async def _send_dummy(self, head: RoomHead) -> None:
        try:
            sender = self._find_sender(head)
            if sender is not None:
                await self.writer.write(head.room_id, lambda now: _drafts(now, sender))
        except MatrixError as error:
            logger.info("The extremities of %s can't be merged: %s", head.room_id, error)
        finally:
            self._merging.discard(head.room_id)

    def _find_sender(self, head: RoomHead) -> UserId | None:
        """A local member who may send events."""
        levels = head.power_levels
        needed = levels.event(DUMMY, False)
        local = (user_id for user_id in head.joined_users() if domain_of(user_id) == self.server_name)
        return next((user_id for user_id in local if levels.user(user_id) >= needed), None)


def _drafts(head: RoomHead, sender: UserId) -> list[Draft]:
    return [Draft(DUMMY, sender, {})] if len(head.extremities) > 1 else []
