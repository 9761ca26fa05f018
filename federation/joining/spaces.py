"""Rooms and spaces that nobody here is in, as other servers describe them; remembered for some minutes.

What a server says, also of the rooms in a space, is believed only by those who would ask that server: others might be shown
something false, or nothing, in the place of a room that it has nothing to do with.

Spec: server-server-api#get_matrixfederationv1hierarchyroomid
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from federation.bounded import Bounded
from federation.errors import BadAnswer, RemoteRefused, RemoteUnreachable
from federation.joining.queries import Queries, is_room_entry
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, ServerName, is_server_name
from homeserver.rooms.ports import RemoteRoom
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import SingleFlight

logger = logging.getLogger(__name__)

KEPT: Final = 2_000
FRESH_MS: Final = 5 * 60_000
FAILED_MS: Final = 60_000
MAX_SERVERS: Final = 3
MAX_CHILDREN: Final = 500
SPACE: Final = "m.space"


@frozen
class _Known:
    """What a server said of a room, None: that there is nothing to see; and until when that is believed."""

    room: RemoteRoom | None
    until_ms: int


@define(eq=False)
class RemoteSpaces:
    """Descriptions of rooms, fetched."""

    queries: Queries
    clock: Clock
    _known: Bounded[tuple[ServerName, RoomId], _Known] = field(init=False, factory=lambda: Bounded(KEPT))
    _fetching: SingleFlight[RemoteRoom | None] = field(init=False, factory=SingleFlight)

    async def fetch(self, room_id: RoomId, via: Sequence[ServerName]) -> RemoteRoom:
        """The room, whoever may see it: the caller asks who may. Raises: NotFound."""
        own = self.queries.client.server_name
        servers = [name for name in dict.fromkeys(via) if name != own and is_server_name(name)]
        for server in servers[:MAX_SERVERS]:
            room = await self._load(server, room_id)
            if room is not None:
                return room
        raise NotFound("Room not found")

    async def _load(self, server: ServerName, room_id: RoomId) -> RemoteRoom | None:
        known = self._known.get((server, room_id))
        if known is not None and self.clock.time_ms() < known.until_ms:
            return known.room
        return await self._fetching.do((server, room_id), lambda: self._fetch_from(server, room_id))

    async def _fetch_from(self, server: ServerName, room_id: RoomId) -> RemoteRoom | None:
        try:
            return self._learn(server, room_id, await self.queries.fetch_hierarchy(server, room_id))
        except (RemoteRefused, RemoteUnreachable, BadAnswer) as error:
            logger.info("%s does not describe %s: %s", server, room_id, error)
            if not isinstance(
                error, RemoteRefused
            ):  # a room that is refused may be told as soon as somebody joins another
                self._keep(server, room_id, None, FAILED_MS)
            return None

    def _learn(self, server: ServerName, room_id: RoomId, answer: dict[str, Any]) -> RemoteRoom:
        room = _parse_room(answer.get("room"))
        if room is None or room.entry["room_id"] != room_id:
            raise BadAnswer(server, "it is not about that room")
        for child in map(_parse_room, _listed(answer.get("children"))):
            # Of a space among the children, its own children are not told: that takes a request of its own.
            if child is not None and child.entry.get("room_type") != SPACE:
                self._keep(server, RoomId(child.entry["room_id"]), child, FRESH_MS, only_new=True)
        for hidden in _listed(answer.get("inaccessible_children")):
            if isinstance(hidden, str):
                self._keep(server, RoomId(hidden), None, FAILED_MS, only_new=True)
        self._keep(server, room_id, room, FRESH_MS)
        return room

    def _keep(
        self, server: ServerName, room_id: RoomId, room: RemoteRoom | None, for_ms: int, *, only_new: bool = False
    ) -> None:
        now_ms = self.clock.time_ms()
        known = self._known.get((server, room_id))
        if only_new and known is not None and now_ms < known.until_ms:
            return
        self._known.put((server, room_id), _Known(room, now_ms + for_ms))


def _listed(value: Any) -> Iterable[Any]:
    return value[:MAX_CHILDREN] if isinstance(value, list) else ()


def _parse_room(room: Any) -> RemoteRoom | None:
    """None for what is no description of a room."""
    if not is_room_entry(room):
        return None
    allowed = room.get("allowed_room_ids")
    allowed = [each for each in allowed if isinstance(each, str)] if isinstance(allowed, list) else []
    told = [child for child in _listed(room.get("children_state")) if _is_child(child)]
    children = [{name: child[name] for name in _CHILD_FIELDS} for child in told]
    entry = {name: room[name] for name in _KEPT_FIELDS if room.get(name) is not None}
    if allowed:
        entry["allowed_room_ids"] = allowed
    return RemoteRoom(entry, children)


_KEPT_FIELDS: Final = (
    "room_id",
    "num_joined_members",
    "world_readable",
    "guest_can_join",
    "name",
    "topic",
    "avatar_url",
    "canonical_alias",
    "join_rule",
    "room_type",
    "room_version",
    "encryption",
)


_CHILD_FIELDS: Final = ("type", "state_key", "sender", "content", "origin_server_ts")


def _is_child(event: Any) -> bool:
    """Spec: client-server-api#mspacechild"""
    return (
        isinstance(event, dict)
        and event.get("type") == "m.space.child"
        and all(isinstance(event.get(name), str) for name in ("state_key", "sender"))
        and isinstance(event.get("content"), dict)
        and type(event.get("origin_server_ts")) is int
    )
