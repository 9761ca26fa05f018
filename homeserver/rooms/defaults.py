"""What a new room has by default: the state of each preset, and the power levels.

Spec: client-server-api#post_matrixclientv3createroom
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from homeserver.matrix.errors import BadJson
from homeserver.matrix.ids import UserId
from homeserver.matrix.power_levels import DEFAULT_LEVELS, parse_level
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.versions import RoomVersion

PRESETS: Final = ("private_chat", "public_chat", "trusted_private_chat")
CREATOR_LEVEL: Final = 100
# Above what anybody but a creator has, so that only creators replace the room (from version 12 on).
TOMBSTONE_LEVEL_UNDER_CREATORS: Final = 150

_EVENT_LEVELS: Final[Mapping[str, int]] = {
    "m.room.name": 50,
    "m.room.avatar": 50,
    "m.room.canonical_alias": 50,
    "m.room.power_levels": 100,
    "m.room.history_visibility": 100,
    "m.room.server_acl": 100,
    "m.room.encryption": 100,
    "m.room.tombstone": 100,
    # Members say by state events that they are in a call (MatrixRTC).
    "org.matrix.msc3401.call.member": 0,
    "m.rtc.slot": 0,
}


def preset_state(preset: str) -> dict[StateKey, dict[str, Any]]:
    """The preset's events, in their order."""
    public = preset == "public_chat"
    return {
        ("m.room.join_rules", ""): {"join_rule": "public" if public else "invite"},
        ("m.room.history_visibility", ""): {"history_visibility": "shared"},
        ("m.room.guest_access", ""): {"guest_access": "forbidden" if public else "can_join"},
    }


def default_power_levels(
    version: RoomVersion, creator: UserId, preset: str, trusted: Collection[UserId]
) -> dict[str, Any]:
    """The power levels of a new room. `trusted` get the creator's level (from version 12 on they are creators)."""
    events = dict(_EVENT_LEVELS)
    users = dict.fromkeys([creator, *trusted], CREATOR_LEVEL)
    if version.creators_have_infinite_power:
        events["m.room.tombstone"] = TOMBSTONE_LEVEL_UNDER_CREATORS
        users = {}
    return {
        "users": users,
        "users_default": 0,
        "events": events,
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": 50 if preset == "public_chat" else 0,
        "notifications": {"room": 50},
    }


def check_power_levels(content: Mapping[str, Any], version: RoomVersion, field: str) -> None:
    """Raises: BadJson naming what is no level, or no object, where one belongs."""
    for name in DEFAULT_LEVELS:
        if name in content and parse_level(content[name], version) is None:
            raise BadJson(f"{field}.{name}: must be an integer")
    for table in ("events", "users", "notifications"):
        levels = content.get(table, {})
        if not isinstance(levels, dict):
            raise BadJson(f"{field}.{table}: must be an object")
        for key, level in levels.items():
            if parse_level(level, version) is None:
                raise BadJson(f"{field}.{table}.{key}: must be an integer")


def topic_content(topic: str) -> dict[str, Any]:
    """The content of m.room.topic, with its rich form.

    Spec: client-server-api#mroomtopic
    """
    return {"topic": topic, "m.topic": {"m.text": [{"body": topic, "mimetype": "text/plain"}]}}
