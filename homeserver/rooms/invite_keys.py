"""Whether the key still holds with which an identity server signed that an invite by address is somebody's.

The server that makes the invite of it asks, and only that one: whether an event is accepted must not hang on who can be reached.

Spec: client-server-api#third-party-invites
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from attrs import define

from homeserver.matrix.auth_membership import signing_entries
from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.rooms.identity_servers import MAX_KEYS, IdentityServers

logger = logging.getLogger(__name__)

_REVOKED = "The identity server's key that the invite is signed with is not valid"


@define(eq=False)
class InviteKeys:
    # Set when there is a way to ask them.
    identity: IdentityServers | None = None

    async def check(self, signed: Mapping[str, Any], invite: Mapping[str, Any]) -> None:
        """Whether a key that is valid signed for who takes up the invite; that is the content of m.room.third_party_invite.

        Raises: Forbidden, IdentityServerNotTrusted, IdentityServerFault.
        """
        refused: MatrixError = Forbidden("The invite is not signed with a key that the room knows")
        urls: dict[str, set[str]] = {}
        for entry in signing_entries(signed, invite):
            of_key = urls.setdefault(entry["public_key"], set())
            # A key without an address to ask at is valid for ever.
            if (url := entry.get("key_validity_url")) is not None:
                of_key.add(str(url))
        if not all(urls.values()):
            return
        asked = [(key, url) for key, of_key in urls.items() for url in sorted(of_key)]
        for key, url in asked[:MAX_KEYS]:
            try:
                return await self._check_key(url, key)
            except MatrixError as error:
                refused = error
        raise refused

    async def _check_key(self, url: str, public_key: str) -> None:
        if self.identity is None or not await self.identity.is_key_valid(url, public_key):
            logger.info("A third-party invite is refused: %s does not vouch for its key", url)
            raise Forbidden(_REVOKED)
