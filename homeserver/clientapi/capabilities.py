"""What the server can do, and lets this user do.

Spec: client-server-api#capabilities-negotiation
"""

from __future__ import annotations

from homeserver.accounts.requester import Requester
from homeserver.matrix.push_conditions import RELATED_EVENT
from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.rooms.delayed_events import MAX_DELAY_MS, MAX_OF_USER
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class Capabilities:
    def __init__(self, default_room_version: str, *, login_tokens: bool) -> None:
        self._default_room_version = default_room_version
        self._login_tokens = login_tokens

    @endpoint(
        "GET",
        "/_matrix/client/v3/capabilities",
        auth=Auth.GUEST_OK,
        limit="other",
        tag="Capabilities",
        spec="client-server-api#get_matrixclientv3capabilities",
    )
    def get_capabilities(self, requester: Requester) -> JsonObject:
        is_member = not requester.is_guest
        fields = {"enabled": True} if is_member else {"enabled": True, "allowed": ["displayname"]}
        versions = {
            "default": self._default_room_version,
            "available": dict.fromkeys(ROOM_VERSIONS, "stable"),
        }
        delayed_events = {"max_delay_ms": MAX_DELAY_MS, "max_scheduled": MAX_OF_USER}
        capabilities: JsonObject = {
            "m.change_password": {"enabled": is_member},
            "m.forget_forced_upon_leave": {"enabled": False},
            "m.room_versions": versions,
            "m.profile_fields": fields,
            "m.set_displayname": {"enabled": True},
            "m.set_avatar_url": {"enabled": is_member},
            "m.3pid_changes": {"enabled": False},
            "m.get_login_token": {"enabled": self._login_tokens and is_member},
            RELATED_EVENT: {"enabled": True},
            "m.delayed_events": delayed_events,
            "org.matrix.msc4140.delayed_events": delayed_events,
        }
        if requester.is_admin:
            capabilities["m.account_moderation"] = {"suspend": True, "lock": True}
        return {"capabilities": capabilities}
