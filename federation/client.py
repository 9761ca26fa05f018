"""Signed requests to other servers.

    answer = await client.get(server, quote_path(V1 + "/make_join", room_id, user_id), {"ver": ["10", "11"]})

Each is bounded in time and size, and in how many run at once for each server. A server that can't be reached is left alone for
a while (destinations.py); whoever acts for a waiting user says `patient` and tries nevertheless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, NoReturn, TypedDict, Unpack
from urllib.parse import quote, urlencode

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from federation.allowed import AllowedServers
from federation.destinations import Destinations
from federation.discovery import Discovery
from federation.errors import RemoteRefused, RemoteTooLarge, RemoteUnreachable
from federation.xmatrix import build_header
from homeserver.matrix.canonical import canonical_json, decode_json
from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import SigningKey
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.http_client import Fault, HttpAnswer, HttpClient, HttpFailure

V1: Final = "/_matrix/federation/v1"
V2: Final = "/_matrix/federation/v2"

DEFAULT_MAX_BYTES: Final = 10 * 1024 * 1024
# PERF(60 ms for each megabyte): decoding more than this is no work for the reactor's thread.
LARGE_BYTES: Final = 256 * 1024
MAX_IN_FLIGHT: Final = 10
MAX_WAITING: Final = 200

Query = Mapping[str, str | int | Sequence[str | int]]
# What reverse proxies answer for a server that is down; 520 to 530 are Cloudflare's.
_NOBODY_BEHIND: Final = frozenset((502, 503, 504, *range(520, 531)))
TOO_MANY: Final = 429
_SECONDS: Final = re.compile(r"[0-9]{1,9}")
_ANOTHER_TARGET: Final = (Fault.NAME, Fault.ADDRESS, Fault.CONNECT, Fault.TLS)


class Asking(TypedDict, total=False):
    """How a request is made."""

    timeout_ms: int | None  # the client's default_timeout_ms if None
    max_bytes: int  # of the answer
    patient: bool  # also a server that is backed off from
    signed: bool  # False for the few endpoints that ask for no proof (keys, version)


@frozen
class _Request:
    """One request, whoever of the server's targets gets it. `into` is for the body of a success that is a file."""

    server: ServerName
    method: str
    uri: str
    body: Any
    timeout_ms: int
    max_bytes: int
    signed: bool
    into: IO[bytes] | None


def quote_path(prefix: str, *segments: str) -> str:
    """`prefix` as it is, and the segments percent-encoded below it."""
    return "/".join([prefix, *(quote(segment, safe="") for segment in segments)])


async def _acquire(slot: DeferredSemaphore) -> None:
    await slot.acquire()


@define(eq=False)
class FederationClient:
    """Asks other servers.

    All requests raise RemoteUnreachable (BackingOff, NotAllowed) and RemoteRefused, see errors.py, and nothing else.
    `timeout_ms` is from the moment when the request is sent; it waits for its turn as long at most.
    """

    server_name: ServerName
    signing_key: SigningKey
    http: HttpClient
    discovery: Discovery
    destinations: Destinations
    allowed: AllowedServers
    clock: Clock
    default_timeout_ms: int = 60_000
    # By server, and whether it is for files: these take long, and nothing else is to wait for them.
    _slots: dict[tuple[ServerName, bool], DeferredSemaphore] = field(init=False, factory=dict)

    async def get(self, server: ServerName, path: str, query: Query | None = None, **asking: Unpack[Asking]) -> Any:
        """The decoded answer."""
        return await self._request("GET", server, path, query, None, **asking)

    async def put(
        self, server: ServerName, path: str, body: Any, query: Query | None = None, **asking: Unpack[Asking]
    ) -> Any:
        return await self._request("PUT", server, path, query, body, **asking)

    async def post(
        self, server: ServerName, path: str, body: Any, query: Query | None = None, **asking: Unpack[Asking]
    ) -> Any:
        return await self._request("POST", server, path, query, body, **asking)

    async def download(
        self, server: ServerName, path: str, query: Query, into: IO[bytes], **asking: Unpack[Asking]
    ) -> HttpAnswer:
        """The head of a success, whose body is written to the file as it comes. Raises: also RemoteTooLarge."""
        answer = await self._exchange("GET", server, path, query, None, into, **asking)
        self._check_status(server, answer, _decoded(answer.body))
        return answer

    def check(self, server: ServerName) -> None:
        """Whether the server may be asked now. Raises: NotAllowed, BackingOff."""
        self.allowed.check(server)
        self.destinations.check(server)

    async def _request(
        self,
        method: str,
        server: ServerName,
        path: str,
        query: Query | None,
        body: Any,
        **asking: Unpack[Asking],
    ) -> Any:
        answer = await self._exchange(method, server, path, query, body, None, **asking)
        return self._read(server, answer, await self._decode(answer.body))

    async def _exchange(
        self,
        method: str,
        server: ServerName,
        path: str,
        query: Query | None,
        body: Any,
        into: IO[bytes] | None,
        *,
        timeout_ms: int | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        patient: bool = False,
        signed: bool = True,
    ) -> HttpAnswer:
        if server == self.server_name:
            raise RemoteUnreachable(server, "that is this server itself")
        self.allowed.check(server)
        if not patient:
            self.destinations.check(server)
        uri = f"{path}?{urlencode(query, doseq=True)}" if query else path
        limit_ms = timeout_ms or self.default_timeout_ms
        request = _Request(server, method, uri, body, limit_ms, max_bytes, signed, into)
        try:
            return await self._in_turn(request)
        except TimeoutError:
            self._fail_for(request, HttpFailure(Fault.TIMEOUT, f"no answer within {limit_ms} ms"))
        except HttpFailure as error:
            self._fail_for(request, error)

    async def _decode(self, body: bytes) -> Any:
        """None for what is no JSON."""
        if len(body) < LARGE_BYTES:
            return _decoded(body)
        decoding: Deferred[Any] = deferToThreadPool(
            self.http.reactor, self.http.reactor.getThreadPool(), _decoded, body
        )
        return await decoding

    async def _in_turn(self, request: _Request) -> HttpAnswer:
        server, limit_ms = request.server, request.timeout_ms
        queue = (server, request.into is not None)
        slot = self._slots.setdefault(queue, DeferredSemaphore(MAX_IN_FLIGHT))
        if len(slot.waiting) >= MAX_WAITING:
            raise RemoteUnreachable(server, "too many requests wait for it")
        try:
            await within(self.clock, limit_ms, _acquire(slot))
        except TimeoutError:  # that says nothing of the server
            raise RemoteUnreachable(server, f"its turn did not come within {limit_ms} ms", timed_out=True) from None
        try:
            return await within(self.clock, limit_ms, self._send(request))
        finally:
            slot.release()
            if slot.tokens == slot.limit:
                self._slots.pop(queue, None)

    async def _send(self, request: _Request) -> HttpAnswer:
        server, method, uri, body = request.server, request.method, request.uri, request.body
        try:
            found = await self.discovery.find(server)
        except InvalidParam as error:
            raise RemoteUnreachable(server, error.error) from None
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if request.signed:
            headers["Authorization"] = build_header(self.signing_key, method, uri, self.server_name, server, body)
        content = None if body is None else canonical_json(body)
        failure: HttpFailure | None = None
        for target in found.targets:
            try:
                return await self.http.request(
                    method,
                    target,
                    uri,
                    headers=headers,
                    body=content,
                    timeout_ms=request.timeout_ms,
                    max_bytes=request.max_bytes,
                    into=request.into,
                )
            except HttpFailure as error:
                failure = error
                if error.fault not in _ANOTHER_TARGET:
                    break
        assert failure is not None, "there is always a target"
        raise failure

    def _read(self, server: ServerName, answer: HttpAnswer, body: Any) -> Any:
        self._check_status(server, answer, body)
        if body is None:
            raise RemoteUnreachable(server, "its answer is not JSON")
        return body

    def _check_status(self, server: ServerName, answer: HttpAnswer, body: Any) -> None:
        is_matrix = isinstance(body, dict)
        if answer.status in _NOBODY_BEHIND and not (is_matrix and "errcode" in body):
            self._fail(server, f"what stands before it answers {answer.status}")
        self.destinations.note_alive(server)
        if 200 <= answer.status < 300:
            return
        if answer.status < 400:
            raise RemoteUnreachable(server, f"it answers {answer.status}")
        raise RemoteRefused(server, answer.status, body, _retry_after_ms(answer, body))

    def _fail_for(self, request: _Request, error: HttpFailure) -> NoReturn:
        server = request.server
        if error.fault is Fault.TOO_LARGE:  # it is there, after all
            raise RemoteTooLarge(server, str(error)) from error
        if request.into is not None and error.fault in (Fault.TIMEOUT, Fault.PROTOCOL):  # a large file, a poor line
            raise RemoteUnreachable(server, str(error), timed_out=error.fault is Fault.TIMEOUT) from error
        if error.fault is not Fault.TIMEOUT:
            self.discovery.forget(server)
        self._fail(server, str(error), timed_out=error.fault is Fault.TIMEOUT)

    def _fail(self, server: ServerName, why: str, *, timed_out: bool = False) -> NoReturn:
        self.destinations.note_failure(server, why)
        raise RemoteUnreachable(server, why, timed_out=timed_out)


def _decoded(body: bytes) -> Any:
    if len(body) > DEFAULT_MAX_BYTES and _is_dense(body):
        return None
    try:
        return decode_json(body)
    except MatrixError:
        return None


def _retry_after_ms(answer: HttpAnswer, body: Any) -> int:
    """Of an answer that there were too many requests. 0 where it does not say; a date says nothing, either.

    Spec: client-server-api#rate-limiting
    """
    if answer.status != TOO_MANY:
        return 0
    header = answer.headers.get("retry-after", "")
    in_header = int(header) * 1000 if _SECONDS.fullmatch(header) else 0
    in_body = body.get("retry_after_ms") if isinstance(body, dict) else None
    return max(in_header, in_body if type(in_body) is int else 0)


def _is_dense(body: bytes) -> bool:
    """Whether decoding would take far more memory than states and chains of events do, which have 25 bytes for each value and
    70 for each list or object: `[],[],[]…` takes 30 times its length."""
    return body.count(b",") > len(body) // 8 or body.count(b"[") + body.count(b"{") > len(body) // 24
