"""Networks that application services bridge to. There is none before application services are.

Spec: client-server-api#third-party-networks
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.matrix.errors import NotFound
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Third-party networks"
BASE = "/_matrix/client/v3/thirdparty"


class ProtocolPath(msgspec.Struct):
    protocol: str


class ThirdPartyEndpoints:
    @endpoint("GET", f"{BASE}/protocols", auth=Auth.USER, tag=TAG, spec="client-server-api#third-party-networks")
    async def get_protocols(self) -> JsonObject:
        return {}

    @endpoint("GET", f"{BASE}/protocol/{{protocol}}", auth=Auth.USER, tag=TAG)
    async def get_protocol(self, path: ProtocolPath) -> JsonObject:
        raise NotFound(f"No bridge to {path.protocol[:100]}")

    @endpoint("GET", f"{BASE}/location/{{protocol}}", auth=Auth.USER, tag=TAG)
    async def get_locations(self, path: ProtocolPath) -> list[Any]:
        raise NotFound(f"No bridge to {path.protocol[:100]}")

    @endpoint("GET", f"{BASE}/user/{{protocol}}", auth=Auth.USER, tag=TAG)
    async def get_users(self, path: ProtocolPath) -> list[Any]:
        raise NotFound(f"No bridge to {path.protocol[:100]}")

    @endpoint("GET", f"{BASE}/location", auth=Auth.USER, tag=TAG)
    async def get_location_aliases(self) -> list[Any]:
        return []

    @endpoint("GET", f"{BASE}/user", auth=Auth.USER, tag=TAG)
    async def get_user_ids(self) -> list[Any]:
        return []
