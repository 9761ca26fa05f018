"""Which versions of the specification, and what beyond it, this server speaks.

Spec: client-server-api#api-versions
"""

from __future__ import annotations

from collections.abc import Mapping

from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

SPECIFICATION_VERSIONS = tuple(f"v1.{minor}" for minor in range(1, 20))


class Versions:
    """`unstable_features` are those which work: a feature that is not there is not named."""

    def __init__(self, unstable_features: Mapping[str, bool]) -> None:
        features = {name: True for name, works in sorted(unstable_features.items()) if works}
        self._answer = {"versions": list(SPECIFICATION_VERSIONS), "unstable_features": features}

    @endpoint(
        "GET",
        "/_matrix/client/versions",
        auth=Auth.NONE,
        tag="Server administration",
        spec="client-server-api#get_matrixclientversions",
    )
    def get_versions(self) -> JsonObject:
        return self._answer
