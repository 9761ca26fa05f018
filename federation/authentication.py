"""Who sends a request: the check of X-Matrix for endpoints declared `auth=Auth.SERVER`.

The order keeps what strangers may cost us small: the header is parsed, the lists of the configuration asked, a key in memory used
(a verification takes 50 us). Only an unknown key makes us ask somebody, and how often an address may cause that is limited. What
the origin itself may do is limited after it is proven, so that nobody uses up another's share.

Spec: server-server-api#request-authentication
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from federation.allowed import AllowedServers
from federation.destinations import Destinations
from federation.inbound.large_bodies import LARGE_BYTES, Line
from federation.inbound.pieces import canonical_body
from federation.keys.key_ring import KeyRequest, KeyRing
from federation.xmatrix import Credentials, Unauthorized, parse_header, signed_bytes, signed_object
from homeserver.matrix.canonical import canonical_json, decode_json
from homeserver.matrix.errors import Forbidden, LimitExceeded
from homeserver.matrix.hashing import decode_base64
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import VerifyKey
from homeserver.runtime.clock import Clock

MAX_AT_ONCE: Final = 100
RETRY_AFTER_MS: Final = 1_000


class Limiter(Protocol):
    def check(self, kind: str, key: str, cost: float = 1.0) -> None: ...


class SignedRequest(Protocol):
    """What is needed of runtime.http's Request."""

    @property
    def method(self) -> str: ...
    @property
    def uri(self) -> bytes: ...
    @property
    def content(self) -> bytes: ...
    @property
    def client_ip(self) -> str: ...
    def header(self, name: str, /) -> str | None: ...
    def on_end(self, callback: Any, /) -> None: ...


@frozen
class ServerRequester:
    """Another server, proven."""

    server_name: ServerName
    is_guest: bool = False

    @property
    def rate_limit_key(self) -> str:
        return self.server_name


@define(eq=False)
class ServerAuth:
    """Proves who sends a request."""

    server_name: ServerName
    ring: KeyRing
    destinations: Destinations
    allowed: AllowedServers
    limiter: Limiter
    clock: Clock
    large: Line = field(init=False, factory=Line)
    _running: dict[ServerName, int] = field(init=False, factory=dict)

    async def authenticate(self, request: SignedRequest) -> ServerRequester:
        """Raises: Unauthorized, Forbidden, NotJson, LimitExceeded."""
        header = request.header("authorization")
        if header is None:
            raise Unauthorized("Missing Authorization header")
        credentials = parse_header(header)
        origin = credentials[0].origin
        self._check_parties(origin, credentials)
        keys = await self._load_keys(credentials, request.client_ip)
        await self._check_signed(request, origin, keys)
        self.limiter.check("federation", origin)
        self.destinations.note_alive(origin)
        await self._enter(origin, request)
        return ServerRequester(origin)

    def _check_parties(self, origin: ServerName, credentials: list[Credentials]) -> None:
        if origin == self.server_name:
            raise Unauthorized("The origin is this server itself")
        if any(each.destination not in (None, self.server_name) for each in credentials):
            raise Unauthorized(f"The request is for another server than {self.server_name}")
        if not self.allowed.is_allowed(origin):
            raise Forbidden(f"This server does not talk to {origin}")

    async def _load_keys(self, credentials: list[Credentials], address: str) -> list[tuple[VerifyKey, Credentials]]:
        """With each key the credentials that name it, one at least. Raises: Unauthorized, LimitExceeded."""
        now_ms = self.clock.time_ms()
        wanted = {KeyRequest(each.origin, each.key_id, now_ms): each for each in credentials}
        in_memory = {request: self.ring.get_verify_key(request) for request in wanted}
        keys: dict[KeyRequest, VerifyKey] = {request: key for request, key in in_memory.items() if key is not None}
        if not keys:
            self.limiter.check("server_keys", address)
            keys = dict(await self.ring.load_verify_keys(list(wanted), patient=True))
        if not keys:
            raise Unauthorized(f"No valid key {credentials[0].key_id} of {credentials[0].origin} is known")
        return [(key, wanted[request]) for request, key in keys.items()]

    async def _check_signed(
        self, request: SignedRequest, origin: ServerName, keys: Sequence[tuple[VerifyKey, Credentials]]
    ) -> None:
        """Most send the very bytes that they signed; only for others the body has to be decoded, which may take 30 times the
        memory of the body. Raises: Unauthorized, NotJson, BadJson, TooLarge."""
        about = signed_object(request.method, request.uri.decode("latin-1"), origin, self.server_name, None)
        body = request.content
        if body and _is_signed(signed_bytes(about, body), keys):
            return
        if len(body) > LARGE_BYTES:
            body = await canonical_body(body, self.clock)
        elif body:
            body = canonical_json(decode_json(body))
        if not _is_signed(signed_bytes(about, body), keys):
            raise Unauthorized(f"The signature of the request by {origin} is wrong")

    async def _enter(self, origin: ServerName, request: SignedRequest) -> None:
        running = self._running.get(origin, 0)
        if running >= MAX_AT_ONCE:
            raise LimitExceeded(RETRY_AFTER_MS, "Too many requests at once")
        is_large = len(request.content) > LARGE_BYTES
        if is_large:
            await self.large.enter(origin)
        self._running[origin] = self._running.get(origin, 0) + 1
        request.on_end(lambda: self._leave(origin, is_large))

    def _leave(self, origin: ServerName, is_large: bool) -> None:
        if is_large:
            self.large.leave(origin)
        left = self._running[origin] - 1
        if left:
            self._running[origin] = left
        else:
            del self._running[origin]


def _is_signed(message: bytes, keys: Sequence[tuple[VerifyKey, Credentials]]) -> bool:
    """By one of the keys."""
    for key, credentials in keys:
        try:
            if key.is_signature(message, decode_base64(credentials.signature)):
                return True
        except ValueError:
            continue
    return False
