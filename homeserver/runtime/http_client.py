"""Outgoing HTTP, to servers that may be slow, wrong or hostile.

What every request is bounded by: one time limit from the look-up of the name to the last byte, a limit for the body which
is applied while it arrives, one for the head, and a policy for the addresses that may be connected to. Redirects are never
followed here; who wants to, asks again, and every check is made anew.

Connections are kept and used again for the same name, port and scheme: a connection belongs to whoever proved with a
certificate to be that name, however its address was found.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import Enum
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError, ConnectingCancelledError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    FileBodyProducer,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.outbound_addresses import AddressPolicy, Resolve, SystemResolver
from homeserver.runtime.outbound_connections import (
    AddressRefused,
    Dialer,
    HostUnknown,
    Limited,
    Proxy,
    ProxyRefused,
)
from homeserver.runtime.outbound_tls import CertificateRefused, OnCertificate, OutboundTls

KEPT_CONNECTIONS_PER_HOST: Final = 4
KEEP_S: Final = 60
DEFAULT_TIMEOUT_MS: Final = 30_000
DEFAULT_MAX_BYTES: Final = 1024 * 1024

logger = logging.getLogger(__name__)

_failure: Any = Failure  # it has no annotations


class Fault(Enum):
    """Why there is no answer."""

    NAME = "name"  # no such host
    ADDRESS = "address"  # it is at an address that may not be connected to
    CONNECT = "connect"  # nobody listens, or the proxy refuses
    TLS = "tls"  # not who it should be, or no TLS at all
    TIMEOUT = "timeout"
    TOO_LARGE = "too_large"
    PROTOCOL = "protocol"  # no HTTP, or broken off


class HttpFailure(Exception):
    """There is no usable answer. The text says why, in words for an admin."""

    def __init__(self, fault: Fault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


@frozen
class Target:
    """Whom to ask: `host` and `port` are connected to, `name` is what the certificate must be for."""

    host: str
    port: int
    name: str
    host_header: str
    scheme: str = "https"

    @classmethod
    def at(cls, host: str, port: int, scheme: str = "https") -> Target:
        """A host that is called by its own name."""
        shown = f"[{host}]" if ":" in host else host
        default = 443 if scheme == "https" else 80
        return cls(host, port, host, shown if port == default else f"{shown}:{port}", scheme)


@frozen
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    """By lower-case name; the last of several."""
    body: bytes


@frozen
class HttpPolicy:
    """What the configuration says of outgoing requests."""

    verify_certificates: bool = True
    ca_file: Path | None = None
    addresses: AddressPolicy = field(factory=AddressPolicy)
    proxy: Proxy | None = None


@frozen
class _Sent:
    """A request as it goes out, perhaps a second time."""

    method: str
    target: Target
    path: str
    headers: Headers
    body: bytes | None


@define(eq=False)
class HttpClient:
    """Sends requests under one policy, over connections that are kept."""

    reactor: Any
    clock: Clock
    policy: HttpPolicy
    user_agent: str = "Hearth"
    resolve: Resolve | None = None
    on_certificate: OnCertificate | None = None
    _pool: Any = field(init=False)
    _dialer: Dialer = field(init=False)
    _tls: OutboundTls | None = field(init=False, default=None)
    _resolver: SystemResolver = field(init=False)

    def __attrs_post_init__(self) -> None:
        pool: Any = HTTPConnectionPool
        self._pool = pool(self.reactor, persistent=True)
        self._pool.maxPersistentPerHost = KEPT_CONNECTIONS_PER_HOST
        self._pool.cachedConnectionTimeout = KEEP_S
        self._pool.retryAutomatically = False
        self._resolver = SystemResolver(self.reactor)
        resolve = self.resolve or self._resolver
        self._dialer = Dialer(self.reactor, self.policy.addresses, resolve, self.policy.proxy)

    async def stop(self) -> None:
        """Close the connections that are kept."""
        await self._pool.closeCachedConnections()
        self._resolver.stop()

    async def request(
        self,
        method: str,
        target: Target,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        max_bytes: int = DEFAULT_MAX_BYTES,
        again: bool = True,
        into: IO[bytes] | None = None,
    ) -> HttpAnswer:
        """The answer, whatever its status. `path` is percent-encoded and holds the query.

        `again`: when a kept connection turns out to be closed, the request is sent once more. With `into`, the body of a
        success is written there as it comes, and is empty in the answer. Raises: HttpFailure.
        """
        sent = _Sent(method, target, path, _headers(target, self.user_agent, headers or {}), body)
        try:
            return await within(self.clock, timeout_ms, self._attempts(sent, max_bytes, again, into))
        except TimeoutError:
            raise HttpFailure(Fault.TIMEOUT, f"{target.name} did not answer within {timeout_ms} ms") from None
        except (HttpFailure, CancelledError):
            raise
        except Exception as error:
            raise _to_failure(error, target) from error

    async def _attempts(self, sent: _Sent, max_bytes: int, again: bool, into: IO[bytes] | None) -> HttpAnswer:
        try:
            return await self._attempt(sent, max_bytes, into)
        except (RequestTransmissionFailed, ResponseNeverReceived) as error:
            if not again or _certificate_refused(error) is not None:
                raise
        return await self._attempt(sent, max_bytes, into)

    async def _attempt(self, sent: _Sent, max_bytes: int, into: IO[bytes] | None) -> HttpAnswer:
        target = sent.target
        by_endpoint: Any = Agent.usingEndpointFactory
        agent = by_endpoint(self.reactor, _ToTarget(self, target), pool=self._pool)
        producer: Any = None
        if sent.body is not None:
            file_body: Any = FileBodyProducer
            producer = file_body(BytesIO(sent.body))
        shown = f"[{target.name}]" if ":" in target.name else target.name
        url = f"{target.scheme}://{shown}:{target.port}{sent.path}".encode("ascii")
        try:
            response = await agent.request(sent.method.encode("ascii"), url, sent.headers, producer)
        except (ConnectingCancelledError, RequestGenerationFailed) as error:
            if _is_cancelled(error):
                raise CancelledError from error
            raise
        if not 200 <= response.code < 300:
            into, max_bytes = None, max_bytes if into is None else DEFAULT_MAX_BYTES
        if isinstance(response.length, int) and response.length > max_bytes:
            _drop(response)
            raise HttpFailure(Fault.TOO_LARGE, f"{target.name} answers with {response.length} bytes")
        content = await _read_body(response, target, max_bytes, into)
        return HttpAnswer(response.code, _plain(response.headers), content)

    def endpoint(self, target: Target) -> Any:
        """Where a new connection to the target comes from."""
        tcp: Any = self._dialer.endpoint(target.host, target.port)
        if target.scheme != "https":
            return Limited(tcp)
        if self._tls is None:
            policy = self.policy
            self._tls = OutboundTls(
                verify=policy.verify_certificates, ca_file=policy.ca_file, on_certificate=self.on_certificate
            )
        wrap: Any = wrapClientTLS
        return Limited(wrap(self._tls.creator(target.name), tcp))


@frozen
class _ToTarget:
    """The Agent's way to ask for an endpoint; the target is known already."""

    client: HttpClient
    target: Target

    def endpointForURI(self, _uri: object) -> Any:
        return _Started(self.client.endpoint(self.target))


@frozen
class _Started:
    endpoint: Any

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.endpoint.connect(factory))


def _headers(target: Target, user_agent: str, more: Mapping[str, str]) -> Headers:
    headers = Headers({"User-Agent": [user_agent], "Host": [target.host_header]})
    for name, value in more.items():
        headers.addRawHeader(name, value)
    return headers


def _plain(headers: Headers) -> dict[str, str]:
    return {name.decode("latin-1").lower(): values[-1].decode("latin-1") for name, values in headers.getAllRawHeaders()}


# -- reading -------------------------------------------------------------------------------------------------------------


class _Body(Protocol):
    """Gathers a body, or writes it to a file, and breaks off where it grows too large."""

    transport: Any = None

    def __init__(self, target: Target, max_bytes: int, into: IO[bytes] | None = None) -> None:
        self.done: Deferred[bytes] = Deferred(lambda _: self.abort())
        self._target = target
        self._max_bytes = max_bytes
        self._into = into
        self._chunks: list[bytes] = []
        self._bytes = 0

    def dataReceived(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > self._max_bytes:
            self._chunks = []
            self._fail(Fault.TOO_LARGE, f"{self._target.name} answers with more than {self._max_bytes} bytes")
            self.abort()
        elif self._into is not None:
            self._into.write(data)
        else:
            self._chunks.append(data)

    def connectionLost(self, reason: Any = None) -> None:
        if reason.check(ResponseDone, PotentialDataLoss):
            if not self.done.called:
                self.done.callback(b"".join(self._chunks))
            return
        self._fail(Fault.PROTOCOL, f"{self._target.name} broke off its answer")

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.stopProducing()

    def _fail(self, fault: Fault, text: str) -> None:
        if not self.done.called:
            self.done.errback(_failure(HttpFailure(fault, text)))


def _read_body(response: Any, target: Target, max_bytes: int, into: IO[bytes] | None) -> Deferred[bytes]:
    body = _Body(target, max_bytes, into)
    response.deliverBody(body)
    return body.done


def _drop(response: Any) -> None:
    body = _Body(Target.at("", 0), 0)
    body.done.addErrback(lambda _: None)
    response.deliverBody(body)
    body.abort()


# -- what went wrong -----------------------------------------------------------------------------------------------------


def _to_failure(error: Exception, target: Target) -> HttpFailure:
    at = f"{target.host} port {target.port}"
    refused = _certificate_refused(error)
    if refused is not None:
        return HttpFailure(Fault.TLS, f"{at}: {refused}")
    match error:
        case HostUnknown():
            return HttpFailure(Fault.NAME, str(error))
        case AddressRefused():
            return HttpFailure(Fault.ADDRESS, str(error))
        case ProxyRefused():
            return HttpFailure(Fault.CONNECT, f"{at}: {error}")
        case ConnectError():
            return HttpFailure(Fault.CONNECT, f"{at} can't be connected to: {_text(error)}")
        case ResponseFailed() | RequestTransmissionFailed():
            return _broken(error, at)
        case _:  # its text is for programmers
            logger.info("A request to %s failed: %r", at, error)
            return HttpFailure(Fault.PROTOCOL, f"the request to {at} failed")


def _broken(error: Exception, at: str) -> HttpFailure:
    from OpenSSL import SSL

    if any(isinstance(reason, SSL.Error) for reason in _reasons(error)):
        return HttpFailure(Fault.TLS, f"{at} does not speak TLS that this server accepts")
    return HttpFailure(Fault.PROTOCOL, f"{at} closed the connection or does not speak HTTP")


def _certificate_refused(error: Exception) -> CertificateRefused | None:
    return next((reason for reason in _reasons(error) if isinstance(reason, CertificateRefused)), None)


def _is_cancelled(error: Exception) -> bool:
    """twisted has errors of its own for a request that is cancelled while it is connecting or being written."""
    return any(isinstance(reason, (CancelledError, ConnectingCancelledError)) for reason in _reasons(error))


def _reasons(error: Any) -> list[BaseException]:
    return [error, *(reason.value for reason in getattr(error, "reasons", ()))]


def _text(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
