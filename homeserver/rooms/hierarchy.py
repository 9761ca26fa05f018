"""The rooms of a space, walked depth first.

A page is a part of the walk: the token says how many rooms came before it, and with which parameters. Walking again is cheap,
for heads are in memory, and nothing has to be kept between pages.

Spec: client-server-api#spaces
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from attrs import define, frozen

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.format import stripped_state
from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.summary import RoomSummaries
from homeserver.store.events import StoredEvent

CHILD = "m.space.child"
SPACE = "m.space"
MAX_ROOMS = 1_000  # of one walk
MAX_DEPTH = 20
MAX_ORDER_LENGTH = 50


@frozen
class Walk:
    """What is asked for. skip: rooms that earlier pages had."""

    suggested_only: bool = False
    max_depth: int = MAX_DEPTH
    skip: int = 0

    def token(self, told: int) -> str:
        return f"h{self.skip + told}_{self.max_depth}_{int(self.suggested_only)}"


@frozen
class _Child:
    """stripped: the m.space.child event as people outside see it, with origin_server_ts."""

    room_id: RoomId
    stripped: dict[str, Any]
    via: Sequence[ServerName]


@define(eq=False)
class SpaceHierarchies:
    heads: RoomHeads
    events: EventCache
    summaries: RoomSummaries

    async def load(
        self, room_id: RoomId, user_id: UserId, walk: Walk, limit: int
    ) -> tuple[list[dict[str, Any]], str | None]:
        """At most `limit` rooms of the space, itself first, and the token of the next page.

        Raises: Forbidden for a room that the user may not see.
        """
        found: list[dict[str, Any]] = []
        wanted = walk.skip + limit
        seen: set[RoomId] = set()
        stack: list[tuple[RoomId, Sequence[ServerName], int]] = [(room_id, (), 0)]
        while stack and len(seen) < MAX_ROOMS:
            current, via, depth = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            try:
                entry, remote = await self.summaries.load_with_children(current, user_id, via)
            except NotFound:
                if current == room_id:
                    raise Forbidden("You can't see that room") from None
                continue
            if len(found) == wanted:
                return found[walk.skip :], walk.token(limit)
            is_space = entry.get("room_type") == SPACE
            told = (await self._load_children_of(current) if remote is None else remote) if is_space else ()
            children = _children(told, walk)
            entry.pop("membership", None)
            found.append({**entry, "children_state": [child.stripped for child in children]})
            if depth < walk.max_depth:
                stack += [(child.room_id, child.via, depth + 1) for child in reversed(children)]
        return found[walk.skip :], None

    async def load_entry(self, head: RoomHead, walk: Walk) -> tuple[dict[str, Any], list[RoomId]]:
        """A room of this server as hierarchies have it, for whoever may see it, and its children in their order."""
        entry = await self.summaries.build(head)
        children = _children(await self._load_children(head), walk) if entry.get("room_type") == SPACE else []
        entry["children_state"] = [child.stripped for child in children]
        return entry, [child.room_id for child in children]

    async def _load_children_of(self, room_id: RoomId) -> list[dict[str, Any]]:
        head = (await self.heads.load_many([room_id])).get(room_id)
        return await self._load_children(head) if head is not None else []

    async def _load_children(self, head: RoomHead) -> list[dict[str, Any]]:
        """The stripped m.space.child events of a room."""
        ids = [event_id for (type_, _), event_id in head.state.items() if type_ == CHILD]
        events = await self.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version})
        return [_stripped(event) for event in events.values()]


def parse_walk(token: str) -> Walk:
    """Raises: InvalidParam."""
    parts = token[1:].split("_")
    if not token.startswith("h") or len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise InvalidParam("from", "not a token of this server")
    skip, max_depth, suggested_only = (int(part) for part in parts)
    if skip > MAX_ROOMS or max_depth > MAX_DEPTH or suggested_only > 1:
        raise InvalidParam("from", "not a token of this server")
    return Walk(bool(suggested_only), max_depth, skip)


def _children(stripped: Iterable[dict[str, Any]], walk: Walk) -> list[_Child]:
    """In their order.

    Spec: client-server-api#ordering-of-children-within-a-space
    """
    children = [child for event in stripped if (child := _child(event)) is not None]
    if walk.suggested_only:
        children = [child for child in children if child.stripped["content"].get("suggested") is True]
    return sorted(children, key=lambda child: _order(child.stripped))


def _child(event: dict[str, Any]) -> _Child | None:
    """None for an event that names no child (any more): one without a list of servers."""
    via, room_id = event["content"].get("via"), event["state_key"]
    if not isinstance(via, list) or not room_id or not room_id.startswith("!"):
        return None
    return _Child(RoomId(room_id), event, [ServerName(server) for server in via if isinstance(server, str)])


def _order(event: dict[str, Any]) -> tuple[bool, str, int, str]:
    """Spec: client-server-api#ordering-of-children-within-a-space"""
    order = event["content"].get("order")
    text = order if isinstance(order, str) and len(order) <= MAX_ORDER_LENGTH else ""
    is_valid = isinstance(order, str) and text == order and all(" " <= char <= "~" for char in text)
    return not is_valid, text if is_valid else "", event["origin_server_ts"], event["state_key"]


def _stripped(event: StoredEvent) -> dict[str, Any]:
    return {**stripped_state(event.pdu), "origin_server_ts": event.pdu.origin_server_ts}
