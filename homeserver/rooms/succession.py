"""What a user has set for a room goes along to the room that replaces it, when the user creates or joins that.

Spec: client-server-api#room-upgrades
"""

from __future__ import annotations

import logging
from typing import Any, Protocol

import orjson
from attrs import define

from homeserver.accounts.account_data import AccountData
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.heads import RoomHeads

logger = logging.getLogger(__name__)

DIRECT = "m.direct"


class RoomRules(Protocol):
    """Implemented by push/rules.py."""

    async def copy_room_rules(self, user_id: UserId, old_room: RoomId, new_room: RoomId) -> None: ...


@define(eq=False)
class Succession:
    heads: RoomHeads
    memberships: Memberships
    account_data: AccountData
    rules: RoomRules

    async def on_joined(self, user_id: UserId, room_id: RoomId) -> None:
        """Carry tags, push rules and m.direct over, if the room replaces one that the user was in. A fault is logged."""
        try:
            old_room = await self._load_predecessor(user_id, room_id)
            if old_room is not None:
                await self._copy_tags(user_id, old_room, room_id)
                await self._copy_direct(user_id, old_room, room_id)
                await self.rules.copy_room_rules(user_id, old_room, room_id)
        except MatrixError as error:
            logger.warning("The settings of %s were not brought into %s: %s", user_id, room_id, error.error)

    async def _load_predecessor(self, user_id: UserId, room_id: RoomId) -> RoomId | None:
        head = await self.heads.load(room_id)
        predecessor = head.create.content.get("predecessor")
        old_room = predecessor.get("room_id") if isinstance(predecessor, dict) else None
        rooms = await self.memberships.load(user_id)
        return RoomId(old_room) if isinstance(old_room, str) and old_room in rooms else None

    async def _copy_tags(self, user_id: UserId, old_room: RoomId, new_room: RoomId) -> None:
        for tag, value in (await self.account_data.load_tags(user_id, old_room)).items():
            await self.account_data.set_tag(user_id, new_room, tag, value if isinstance(value, dict) else {})

    async def _copy_direct(self, user_id: UserId, old_room: RoomId, new_room: RoomId) -> None:
        try:
            direct: dict[str, Any] = orjson.loads(await self.account_data.load(user_id, None, DIRECT))
        except NotFound:
            return
        changed = {
            other: [*rooms, new_room]
            for other, rooms in direct.items()
            if isinstance(rooms, list) and old_room in rooms and new_room not in rooms
        }
        if changed:
            await self.account_data.set(user_id, None, DIRECT, {**direct, **changed})
