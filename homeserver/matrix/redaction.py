"""The redaction algorithm of every room version.

Spec: client-server-api#redactions
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from homeserver.matrix.versions import RoomVersion

_TOP_LEVEL = frozenset(
    {
        "event_id",
        "type",
        "room_id",
        "sender",
        "state_key",
        "content",
        "hashes",
        "signatures",
        "depth",
        "prev_events",
        "auth_events",
        "origin_server_ts",
    }
)
_LEGACY_TOP_LEVEL = frozenset({"origin", "membership", "prev_state"})
_POWER_LEVELS = (
    "ban",
    "events",
    "events_default",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
)


def redact(json: dict[str, Any], version: RoomVersion) -> dict[str, Any]:
    """The event in its redacted form: a new dict that shares the values it keeps. `unsigned` goes.

    Spec: rooms/v11#redactions
    """
    kept_keys = _kept_top_level(version)
    redacted = {key: value for key, value in json.items() if key in kept_keys}
    content = json.get("content")
    redacted["content"] = redact_content(json.get("type"), content, version) if isinstance(content, dict) else {}
    return redacted


def redact_content(event_type: object, content: dict[str, Any], version: RoomVersion) -> dict[str, Any]:
    """The content that an event of that type has after redaction: a new dict.

    Spec: rooms/v11#redactions
    """
    if event_type == "m.room.create" and version.redaction_keeps_create_content:
        return dict(content)
    kept_keys = _kept_content(version).get(event_type, ()) if isinstance(event_type, str) else ()
    redacted = {key: content[key] for key in kept_keys if key in content}
    if event_type == "m.room.member" and version.redaction_keeps_third_party_signed:
        _keep_third_party_signed(content, redacted)
    return redacted


def _keep_third_party_signed(content: dict[str, Any], redacted: dict[str, Any]) -> None:
    invite = content.get("third_party_invite")
    if isinstance(invite, dict):
        # COMPAT(Synapse): without `signed` an empty object stays; leaving it out would give another event id.
        redacted["third_party_invite"] = {"signed": invite["signed"]} if "signed" in invite else {}


@lru_cache
def _kept_top_level(version: RoomVersion) -> frozenset[str]:
    return _TOP_LEVEL | _LEGACY_TOP_LEVEL if version.redaction_keeps_legacy_top_level else _TOP_LEVEL


@lru_cache
def _kept_content(version: RoomVersion) -> dict[str, tuple[str, ...]]:
    """Content keys that stay, by event type, but for two cases that redact_content sees to."""
    kept: dict[str, tuple[str, ...]] = {
        "m.room.member": ("membership",),
        "m.room.create": ("creator",),
        "m.room.join_rules": ("join_rule",),
        "m.room.power_levels": _POWER_LEVELS,
        "m.room.history_visibility": ("history_visibility",),
    }
    if version.redaction_keeps_aliases:
        kept["m.room.aliases"] = ("aliases",)
    if version.redaction_keeps_join_rules_allow:
        kept["m.room.join_rules"] += ("allow",)
    if version.redaction_keeps_authorising_user:
        kept["m.room.member"] += ("join_authorised_via_users_server",)
    if version.redaction_keeps_power_levels_invite:
        kept["m.room.power_levels"] += ("invite",)
    if version.redaction_keeps_redacts_content:
        kept["m.room.redaction"] = ("redacts",)
    return kept
