"""Which entries of the room state give a sender the permission to send an event.

Spec: server-server-api#auth-events-selection
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.matrix.state_map import CREATE, JOIN_RULES, POWER_LEVELS, StateKey, member_key
from homeserver.matrix.versions import RoomVersion

_MEMBERSHIPS_UNDER_JOIN_RULES = frozenset({"join", "invite", "knock"})


def auth_types_for(
    version: RoomVersion, type: str, sender: str, state_key: str | None, content: Mapping[str, Any]
) -> list[StateKey]:
    """Keys of the state events that an event must name in auth_events, if they are in the state; no
    duplicates.

    Never raises, whatever the content is: wrong types count as absent.

    Spec: server-server-api#auth-events-selection
    """
    if type == "m.room.create":
        return []
    # "Depending on the room version, the m.room.create event": from version 12 on, room_id says it already.
    keys = [POWER_LEVELS, member_key(sender)]
    if version.create_in_auth_events:
        keys.append(CREATE)
    if type == "m.room.member" and state_key is not None:
        keys += _keys_for_member(version, sender, state_key, content)
    return keys


def _keys_for_member(version: RoomVersion, sender: str, target: str, content: Mapping[str, Any]) -> list[StateKey]:
    keys = [] if target == sender else [member_key(target)]
    membership = content.get("membership")
    if not isinstance(membership, str):
        return keys
    if membership in _MEMBERSHIPS_UNDER_JOIN_RULES:
        keys.append(JOIN_RULES)
    if membership == "invite":
        token = third_party_token(content)
        if token is not None:
            keys.append(("m.room.third_party_invite", token))
    if membership == "join" and version.restricted_join:
        authoriser = content.get("join_authorised_via_users_server")
        if isinstance(authoriser, str) and authoriser not in (sender, target):
            keys.append(member_key(authoriser))
    return keys


def third_party_token(content: Mapping[str, Any]) -> str | None:
    """content.third_party_invite.signed.token, or None where that is not there or not a string."""
    invite = content.get("third_party_invite")
    signed = invite.get("signed") if isinstance(invite, dict) else None
    token = signed.get("token") if isinstance(signed, dict) else None
    return token if isinstance(token, str) else None
