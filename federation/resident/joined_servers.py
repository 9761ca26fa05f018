"""Which servers are in a room: asked with each request about one, and counted only when its members have changed."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Final

from attrs import define, field

from federation.bounded import Bounded
from homeserver.matrix.ids import RoomId, ServerName
from homeserver.rooms.head import RoomHead

ROOMS_KEPT: Final = 1_000


@define(eq=False)
class JoinedServers:
    _known: Bounded[RoomId, tuple[object, AbstractSet[ServerName]]] = field(
        init=False, factory=lambda: Bounded(ROOMS_KEPT)
    )

    def get(self, head: RoomHead) -> AbstractSet[ServerName]:
        """The servers of the joined users, this one among them."""
        known = self._known.get(head.room_id)
        if known is not None and known[0] is head.members:
            return known[1]
        servers = frozenset(head.joined_servers())
        self._known.put(head.room_id, (head.members, servers))
        return servers
