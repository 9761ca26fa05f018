"""What other servers, and clients that set up rooms, ask a policy server. Served only where this one is configured as one.

Spec: server-server-api#policy-servers
"""

from __future__ import annotations

from federation.authentication import ServerRequester
from federation.policy_server import PolicyServer
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

# An event of 64 KiB, escaped generously.
MAX_EVENT_BODY_BYTES = 512 * 1024


class PolicyEndpoints:
    def __init__(self, policy_server: PolicyServer) -> None:
        self._policy_server = policy_server

    @endpoint(
        "POST",
        "/_matrix/policy/v1/sign",
        auth=Auth.SERVER,
        resource="federation",
        tag="Federation: policy server",
        spec="server-server-api#post_matrixpolicyv1sign",
        max_body_bytes=MAX_EVENT_BODY_BYTES,
    )
    async def sign(self, requester: ServerRequester, body: JsonObject) -> JsonObject:
        """The policy server's signature, by server and key."""
        return await self._policy_server.sign(requester.server_name, body)

    @endpoint(
        "GET",
        "/.well-known/matrix/policy_server",
        auth=Auth.NONE,
        tag="Server administration",
        spec="client-server-api#getwell-knownmatrixpolicy_server",
    )
    def get_keys(self) -> JsonObject:
        """What a room's m.room.policy has to name."""
        return {"public_keys": {"ed25519": self._policy_server.key.verify_key.to_base64()}}
