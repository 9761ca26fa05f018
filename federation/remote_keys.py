"""Keys of users elsewhere: asked of their servers.

Spec: server-server-api#end-to-end-encryption
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

from attrs import define

from federation.client import V1, FederationClient, quote_path
from federation.errors import RemoteUnreachable
from homeserver.matrix.ids import DeviceId, ServerName, UserId, domain_of

# A client waits for the answer no longer than that: what takes longer is of use to nobody.
TIMEOUT_MS: Final = 10_000
MAX_KEYS_BYTES: Final = 20 * 1024 * 1024
MAX_DEVICES_BYTES: Final = 10 * 1024 * 1024


@define(eq=False)
class FederatedKeys:
    """RemoteKeys over federation. Answers are objects; what is in them is for the caller to judge."""

    client: FederationClient

    async def fetch_keys(self, server: ServerName, user_ids: Collection[UserId], /) -> dict[str, Any]:
        """Raises: RemoteUnreachable, RemoteRefused.

        Spec: server-server-api#post_matrixfederationv1userkeysquery
        """
        body: dict[str, Any] = {"device_keys": {user_id: [] for user_id in user_ids}}
        path = V1 + "/user/keys/query"
        answer = await self.client.post(server, path, body, timeout_ms=TIMEOUT_MS, max_bytes=MAX_KEYS_BYTES)
        return _object(server, answer)

    async def fetch_devices(self, user_id: UserId, /) -> dict[str, Any]:
        """Raises: RemoteUnreachable, RemoteRefused.

        Spec: server-server-api#get_matrixfederationv1userdevicesuserid
        """
        server, path = domain_of(user_id), quote_path(V1 + "/user/devices", user_id)
        answer = await self.client.get(server, path, timeout_ms=TIMEOUT_MS, max_bytes=MAX_DEVICES_BYTES)
        return _object(server, answer)

    async def claim_keys(
        self, server: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]], /
    ) -> dict[str, Any]:
        """Raises: RemoteUnreachable, RemoteRefused.

        Spec: server-server-api#post_matrixfederationv1userkeysclaim
        """
        body = {"one_time_keys": wanted}
        path = V1 + "/user/keys/claim"
        answer = await self.client.post(server, path, body, timeout_ms=TIMEOUT_MS, max_bytes=MAX_KEYS_BYTES)
        return _object(server, answer)


def _object(server: ServerName, answer: object) -> dict[str, Any]:
    if not isinstance(answer, dict):
        raise RemoteUnreachable(server, "its answer is no object")
    return answer
