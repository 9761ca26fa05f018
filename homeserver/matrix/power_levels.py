"""A typed view of who may do what in a room: the create event and the power-levels event read together.

Nothing is parsed ahead: a question looks into the content, so making a view is nearly free, a room with ten
thousand entries in `users` costs no more than one with two, and no cache has to be kept true. (Rejected: a
parsed copy cached per event; it needs module state or a slot in Pdu, and is slower for the one question a
message asks.)

A value that is not a level in this room version reads as absent, so the default holds. From version 10 on the
authorisation rules let no such value into a room; before that, strings that hold an integer and floats are
levels.

Spec: client-server-api#mroompower_levels
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion

# The level of a room's creators from version 12 on: above every integer that canonical JSON can carry.
INFINITE: Final = 1 << 62

DEFAULT_LEVELS: Final[Mapping[str, int]] = {
    "users_default": 0,
    "events_default": 0,
    "state_default": 50,
    "ban": 50,
    "kick": 50,
    "redact": 50,
    "invite": 0,
}
_DEFAULT_NOTIFICATION_LEVEL = 50
_CREATOR_WITHOUT_POWER_LEVELS = 100
_EMPTY: Final[dict[str, Any]] = {}
_STRINGY_LEVEL = re.compile(r"[+-]?[0-9]{1,300}", re.ASCII)


def parse_level(value: object, version: RoomVersion) -> int | None:
    """The level that a JSON value stands for in this room version, or None when it is none.

    Spec: rooms/v1#mroompower_levels-events-accept-values-as-strings
    """
    if type(value) is int:
        return value
    if isinstance(value, str) and version.string_power_levels:
        text = value.strip()
        return int(text) if _STRINGY_LEVEL.fullmatch(text) else None
    if isinstance(value, float) and version.float_power_levels and math.isfinite(value):
        return math.trunc(value)
    return None


class PowerLevels:
    """The levels in force; see `power_levels` for how to get one.

    Spec: server-server-api#definitions
    """

    __slots__ = ("_content", "_create", "_has_event", "_version")

    def __init__(self, version: RoomVersion, create: Pdu | None, content: dict[str, Any] | None) -> None:
        self._version = version
        self._create = create
        self._has_event = content is not None
        self._content = _EMPTY if content is None else content

    @property
    def creators(self) -> frozenset[str]:
        """One user before version 12; since then the create event's sender and `additional_creators`."""
        return creators_of(self._create) if self._create is not None else frozenset()

    def user(self, user_id: str) -> int:
        """The user's level; INFINITE for creators from version 12 on."""
        if self._version.creators_have_infinite_power:
            if self._is_creator(user_id):
                return INFINITE
        elif not self._has_event:
            return _CREATOR_WITHOUT_POWER_LEVELS if user_id in self.creators else 0
        level = self._entry("users", user_id)
        return self.users_default if level is None else level

    def event(self, type: str, is_state: bool) -> int:
        """The level required to send such an event, membership apart."""
        level = self._entry("events", type)
        if level is not None:
            return level
        return self._level("state_default" if is_state else "events_default")

    def notification(self, key: str) -> int:
        """The level required for such a notification, such as "room" for @room."""
        level = self._entry("notifications", key)
        return _DEFAULT_NOTIFICATION_LEVEL if level is None else level

    def users_with_power(self, at_least: int | None = None) -> dict[str, int]:
        """The users named in the levels, and creators, who have `at_least` that much.

        Without `at_least`: those who have more than the default.
        """
        floor = self.users_default + 1 if at_least is None else at_least
        users = self._content.get("users")
        named = set(users if isinstance(users, dict) else ()) | self.creators
        levels = {user_id: self.user(user_id) for user_id in named}
        return {user_id: level for user_id, level in levels.items() if level >= floor}

    @property
    def users_default(self) -> int:
        return self._level("users_default")

    @property
    def invite(self) -> int:
        return self._level("invite")

    @property
    def kick(self) -> int:
        return self._level("kick")

    @property
    def ban(self) -> int:
        return self._level("ban")

    @property
    def redact(self) -> int:
        return self._level("redact")

    def _level(self, name: str) -> int:
        level = parse_level(self._content.get(name), self._version)
        return DEFAULT_LEVELS[name] if level is None else level

    def _entry(self, table: str, key: str) -> int | None:
        entries = self._content.get(table)
        if not isinstance(entries, dict):
            return None
        value = entries.get(key)
        return None if value is None else parse_level(value, self._version)

    def _is_creator(self, user_id: str) -> bool:
        create = self._create
        if create is None:
            return False
        return user_id == create.sender or user_id in _additional_creators(create)


def power_levels(version: RoomVersion, create: Pdu | None, power_levels: Pdu | None) -> PowerLevels:
    """The levels that hold in a room with this state; `create` may be None only where a malformed event
    names none.

    Spec: client-server-api#mroompower_levels
    """
    return PowerLevels(version, create, None if power_levels is None else power_levels.content)


def creators_of(create: Pdu) -> frozenset[str]:
    """Who made the room, as its version reads the create event.

    Spec: rooms/v12#event-format
    """
    version = create.version
    if version.additional_creators:
        return frozenset({create.sender, *_additional_creators(create)})
    if version.creator_is_sender:
        return frozenset({create.sender})
    creator = create.content.get("creator")
    return frozenset({creator}) if isinstance(creator, str) else frozenset()


def _additional_creators(create: Pdu) -> list[str]:
    extra = create.content.get("additional_creators")
    return [user_id for user_id in extra if isinstance(user_id, str)] if isinstance(extra, list) else []
