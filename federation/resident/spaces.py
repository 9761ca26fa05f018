"""Spaces as other servers may see them: one level at a time, and only rooms that one of their users could get into.

Spec: server-server-api#spaces
"""

from __future__ import annotations

from typing import Any

from attrs import define

from federation.resident.access import ServerAccess, is_in_room
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import RoomId, ServerName, domain_of
from homeserver.rooms.head import RoomHead
from homeserver.rooms.hierarchy import MAX_ROOMS, SpaceHierarchies, Walk
from homeserver.rooms.restricted_joins import allowed_rooms
from homeserver.rooms.summary import is_open


@define(eq=False)
class SpaceReader:
    access: ServerAccess
    hierarchies: SpaceHierarchies

    async def load(self, room_id: RoomId, origin: ServerName, *, suggested_only: bool) -> dict[str, Any]:
        """A room, the rooms of it if it is a space, and those of them that the server can't see.

        Raises: NotFound.

        Spec: server-server-api#get_matrixfederationv1hierarchyroomid
        """
        head = await self._load_visible(room_id, origin)
        if head is None:
            raise NotFound("This server does not know that room, or you can't see it")
        room, child_ids = await self.hierarchies.load_entry(head, Walk(suggested_only))
        children: list[dict[str, Any]] = []
        hidden: list[RoomId] = []
        for child_id in child_ids[:MAX_ROOMS]:
            try:
                child = await self._load_visible(child_id, origin)
            except NotFound:
                continue
            if child is None:
                hidden.append(child_id)
                continue
            entry, _ = await self.hierarchies.load_entry(child, Walk(suggested_only))
            children.append({name: value for name, value in entry.items() if name != "children_state"})
        return {"room": room, "children": children, "inaccessible_children": hidden}

    async def _load_visible(self, room_id: RoomId, origin: ServerName) -> RoomHead | None:
        """None for a room that the server can't see. Raises: NotFound for one that nobody of ours is in."""
        try:
            head = await self.access.load_head(room_id, origin)
        except Forbidden:
            return None
        return head if await self._may_see(head, origin) else None

    async def _may_see(self, head: RoomHead, origin: ServerName) -> bool:
        if is_open(head):
            return True
        if any(
            membership in ("join", "invite", "knock") and domain_of(user_id) == origin
            for user_id, membership in head.members.items()
        ):
            return True
        allowed = await self.access.heads.load_many(allowed_rooms(head))
        return any(is_in_room(room, origin) for room in allowed.values())
