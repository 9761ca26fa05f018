"""Which kinds of ephemeral data this server wants.

Spec: server-server-api#edus
"""

from __future__ import annotations

from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class EduTypesEndpoint:
    """COMPAT(MSC4373, an experiment of Synapse and others: a server that wants no presence is sent none)."""

    def __init__(self, *, presence: bool) -> None:
        self._answer = {"m.presence": presence, "m.receipt": True, "m.typing": True}

    @endpoint(
        "GET",
        "/_matrix/federation/unstable/io.fsky.vel/edutypes",
        auth=Auth.NONE,
        resource="federation",
        tag="Federation",
        spec="server-server-api#edus",
    )
    def get_edu_types(self) -> JsonObject:
        """The kinds that are taken, by name."""
        return self._answer
