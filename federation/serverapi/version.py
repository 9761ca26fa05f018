"""Which software this is, for people who look for a fault.

Spec: server-server-api#server-implementation
"""

from __future__ import annotations

from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint


class VersionEndpoint:
    def __init__(self, version: str) -> None:
        self._answer = {"server": {"name": "Hearth", "version": version}}

    @endpoint(
        "GET",
        "/_matrix/federation/v1/version",
        auth=Auth.NONE,
        resource="federation",
        tag="Federation",
        spec="server-server-api#get_matrixfederationv1version",
    )
    def get_version(self) -> JsonObject:
        return self._answer
