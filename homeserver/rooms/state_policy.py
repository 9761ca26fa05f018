"""What this server asks of state events beyond the authorisation rules.

Spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import BadJson, InvalidParam, NotFound
from homeserver.matrix.ids import RoomAlias, RoomId, parse_room_alias
from homeserver.matrix.state_map import CREATE, POWER_LEVELS
from homeserver.rooms.aliases import CANONICAL_ALIAS, Aliases
from homeserver.rooms.defaults import check_power_levels
from homeserver.rooms.errors import BadAlias
from homeserver.rooms.head import RoomHead


@define(eq=False)
class StatePolicy:
    """Asked before a state event is sent."""

    aliases: Aliases

    async def check_state_event(
        self, requester: Requester, room_id: RoomId, type: str, state_key: str, content: Mapping[str, Any]
    ) -> None:
        """Raises: BadAlias, BadJson, InvalidParam."""
        if type == CREATE[0]:
            raise InvalidParam("eventType", "m.room.create is the first event of a room only")
        if (type, state_key) == CANONICAL_ALIAS:
            await self._check_canonical_alias(room_id, content)
        if (type, state_key) == POWER_LEVELS:
            await self._check_power_levels(room_id, content)

    async def _check_power_levels(self, room_id: RoomId, content: Mapping[str, Any]) -> None:
        """The authorisation rules would refuse them too, but as something that is not allowed."""
        head = await self._load_head(room_id)
        if head is not None:
            check_power_levels(content, head.version, "content")
            if head.version.creators_have_infinite_power:
                for user_id in head.power_levels.creators.intersection(content.get("users", ())):
                    raise InvalidParam(f"content.users.{user_id}", "a creator of the room has all power already")

    async def _check_canonical_alias(self, room_id: RoomId, content: Mapping[str, Any]) -> None:
        """Aliases that are new in the event must lead to the room; those that were in it may have moved since.

        Spec: client-server-api#mroomcanonical_alias
        """
        named = _named(content)
        known = set(_named_loosely(await self._load_current(room_id)))
        for alias in named:
            if alias in known:
                continue
            try:
                found = await self.aliases.resolve(alias)  # at most MAX_ALIASES, and rarely more than one new one
            except NotFound:
                raise BadAlias(f"Room alias {alias} does not exist") from None
            if found.room_id != room_id:
                raise BadAlias(f"Room alias {alias} is of another room")

    async def _load_head(self, room_id: RoomId) -> RoomHead | None:
        return (await self.aliases.writer.heads.load_many([room_id])).get(room_id)

    async def _load_current(self, room_id: RoomId) -> Mapping[str, Any]:
        head = await self._load_head(room_id)
        event_id = head.state.get(CANONICAL_ALIAS) if head is not None else None
        if head is None or event_id is None:
            return {}
        event = await self.aliases.writer.events.load(event_id, room_id, head.version)
        return event.pdu.content if event is not None else {}


MAX_ALIASES = 100


def _named(content: Mapping[str, Any]) -> list[RoomAlias]:
    """All aliases in the content. Raises: BadJson, InvalidParam."""
    main = content.get("alias")
    alternatives = content.get("alt_aliases")
    if main is not None and not isinstance(main, str):
        raise BadJson("alias: must be a string")
    if alternatives is None:
        alternatives = []
    if not isinstance(alternatives, list) or not all(isinstance(alias, str) for alias in alternatives):
        raise BadJson("alt_aliases: must be a list of strings")
    if len(alternatives) > MAX_ALIASES:
        raise InvalidParam("alt_aliases", f"more than {MAX_ALIASES} aliases")
    # An empty alias is how some clients say that there is none.
    parsed = [parse_room_alias(main, "alias")] if main else []
    return [*parsed, *(parse_room_alias(alias, "alt_aliases") for alias in alternatives)]


def _named_loosely(content: Mapping[str, Any]) -> list[str]:
    alternatives = content.get("alt_aliases")
    named = [content.get("alias"), *(alternatives if isinstance(alternatives, list) else ())]
    return [alias for alias in named if isinstance(alias, str)]
