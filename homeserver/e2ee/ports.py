"""What end-to-end encryption needs of other servers, and what stands there while a server does not federate."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from typing import Any, Protocol

from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import DeviceId, ServerName, UserId


class RemoteKeys(Protocol):
    """Implemented by federation. All raise a MatrixError when the server can't be asked."""

    def fetch_keys(self, server: ServerName, user_ids: Collection[UserId], /) -> Awaitable[dict[str, Any]]:
        """The answer of POST /user/keys/query."""
        ...

    def fetch_devices(self, user_id: UserId, /) -> Awaitable[dict[str, Any]]:
        """The answer of GET /user/devices/{userId}."""
        ...

    def claim_keys(
        self, server: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]], /
    ) -> Awaitable[dict[str, Any]]:
        """The answer of POST /user/keys/claim."""
        ...


class NoRemoteKeys:
    """RemoteKeys of a server that talks to no other."""

    async def fetch_keys(self, server: ServerName, user_ids: Collection[UserId], /) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {server} is out of reach")

    async def fetch_devices(self, user_id: UserId, /) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {user_id} is out of reach")

    async def claim_keys(
        self, server: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]], /
    ) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {server} is out of reach")
