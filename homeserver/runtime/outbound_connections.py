"""Connections to strangers: looked up, checked against the address policy, through a proxy where there is one."""

from __future__ import annotations

import base64
from itertools import chain, zip_longest
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import implementer  # type: ignore[import-untyped]  # it has none

from homeserver.runtime.config import ConfigError
from homeserver.runtime.outbound_addresses import AddressPolicy, Resolve

MAX_ADDRESSES: Final = 4
# One address that swallows packets must not use up the time for the others.
CONNECT_S: Final = 10.0
CONNECT_FIRST_S: Final = 4.0
MAX_PROXY_HEAD_BYTES: Final = 16 * 1024
MAX_HEAD_BYTES: Final = 64 * 1024

_failure: Any = Failure  # it has no annotations


class AddressRefused(Exception):
    """Every address of the host is one that may not be connected to."""


class HostUnknown(Exception):
    """The name has no address."""


class ProxyRefused(Exception):
    """The proxy makes no connection."""


@frozen
class Proxy:
    """An HTTP proxy, asked with CONNECT."""

    host: str
    port: int
    authorization: str | None = None


def parse_proxy(url: str, where: str) -> Proxy | None:
    """`http://user:password@host:port`; "" is none.

    Raises: ConfigError.
    """
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme != "http":
        raise ConfigError(f"{where}: found {url!r}, allowed: http://host:port")
    return Proxy(host, port or 3128, _authorization(parts.username, parts.password))


def _authorization(user: str | None, password: str | None) -> str | None:
    if user is None:
        return None
    secret = f"{unquote(user)}:{unquote(password or '')}"
    return "Basic " + base64.b64encode(secret.encode()).decode()


@frozen
class Dialer:
    """How TCP connections are made."""

    reactor: Any
    policy: AddressPolicy
    resolve: Resolve
    proxy: Proxy | None = None

    def endpoint(self, host: str, port: int) -> _Endpoint:
        return _Endpoint(self, host, port)

    async def load_addresses(self, host: str) -> list[str]:
        """The addresses of a host that may be connected to, IPv6 and IPv4 taking turns.

        Raises: HostUnknown, AddressRefused.
        """
        try:
            found = [host] if _is_literal(host) else list(await self.resolve(host))
        except (OSError, UnicodeError):
            found = []
        if not found:
            raise HostUnknown(f"the name {host} has no address")
        permitted = [address for address in found if self.policy.permits(address)]
        if not permitted:
            raise AddressRefused(f"{host} is at {found[0]}, an address that may not be connected to")
        return _taking_turns(permitted)[:MAX_ADDRESSES]

    async def connect(self, factory: Any, host: str, port: int) -> Any:
        """A protocol of the factory, connected. Raises: the above, ProxyRefused, twisted's ConnectErrors."""
        if self.proxy is not None:
            return await self._connect_through(self.proxy, factory, host, port)
        addresses = await self.load_addresses(host)
        for address in addresses[:-1]:
            try:
                return await self._connect_to(factory, address, port, CONNECT_FIRST_S)
            except ConnectError:
                continue
        return await self._connect_to(factory, addresses[-1], port, CONNECT_S)

    def _connect_to(self, factory: Any, address: str, port: int, timeout_s: float) -> Any:
        kind: Any = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        return kind(self.reactor, address, port, timeout=timeout_s).connect(factory)

    async def _connect_through(self, proxy: Proxy, factory: Any, host: str, port: int) -> Any:
        """The proxy resolves names, so only an address that was given as such can be checked here."""
        if _is_literal(host) and not self.policy.permits(host):
            raise AddressRefused(f"{host} is an address that may not be connected to")
        try:
            addresses = [proxy.host] if _is_literal(proxy.host) else await self.resolve(proxy.host)
        except OSError:
            raise ProxyRefused(f"the proxy's name {proxy.host} has no address") from None
        tunnel = _Tunnel(factory, host, port, proxy.authorization)
        await self._connect_to(_Once(tunnel), addresses[0], proxy.port, CONNECT_S)
        return await tunnel.opened


def _is_literal(host: str) -> bool:
    return ":" in host or host.replace(".", "").isdigit()


def _taking_turns(addresses: list[str]) -> list[str]:
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    pairs = zip_longest(six, four) if ":" in addresses[0] else zip_longest(four, six)
    return [address for address in chain.from_iterable(pairs) if address is not None]


@implementer(IStreamClientEndpoint)
class _Endpoint:
    def __init__(self, dialer: Dialer, host: str, port: int) -> None:
        self._dialer = dialer
        self._host = host
        self._port = port

    def connect(self, factory: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(self._dialer.connect(factory, self._host, self._port))


# -- proxies -------------------------------------------------------------------------------------------------------------


class _Once(Factory):
    """Gives out one protocol that is there already."""

    noisy = False

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol

    def buildProtocol(self, address: Any) -> Protocol:
        return self._protocol


class _Tunnel(Protocol):
    """Asks the proxy for a connection, and then stands between it and the protocol that wanted it."""

    def __init__(self, factory: Any, host: str, port: int, authorization: str | None) -> None:
        self.opened: Deferred[Any] = Deferred(lambda _: self._abort())
        self._factory = factory
        at = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {at} HTTP/1.1", f"Host: {at}"]
        if authorization:
            lines.append(f"Proxy-Authorization: {authorization}")
        self._asked = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        self._head = b""
        self._inner: Any = None

    transport: Any

    def connectionMade(self) -> None:
        self.transport.write(self._asked)

    def dataReceived(self, data: bytes) -> None:
        if self._inner is not None:
            self._inner.dataReceived(data)
            return
        self._head += data
        head, end, rest = self._head.partition(b"\r\n\r\n")
        if not end:
            if len(self._head) > MAX_PROXY_HEAD_BYTES:
                self._refuse("the proxy's answer is no HTTP")
            return
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].startswith(b"2"):
            self._refuse(f"the proxy answers {b' '.join(words[1:]).decode('latin-1')[:100]}")
            return
        self._open(rest)

    def connectionLost(self, reason: Any = None) -> None:
        if self._inner is not None:
            self._inner.connectionLost(reason)
        elif not self.opened.called:
            self.opened.errback(_failure(ProxyRefused("the proxy closed the connection")))

    def _open(self, rest: bytes) -> None:
        self._inner = self._factory.buildProtocol(self.transport.getPeer())
        self._inner.makeConnection(self.transport)
        self.opened.callback(self._inner)
        if rest:
            self._inner.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        self.opened.errback(_failure(ProxyRefused(why)))
        self._abort()

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None)
        if abort is not None:
            abort()


# -- limits --------------------------------------------------------------------------------------------------------------


class Limited:
    """An endpoint whose connections are dropped when the head of an answer grows too large, or when nobody reads on.

    twisted's HTTP client takes any number of headers; this is what keeps a server that sends them without end from filling
    the memory.
    """

    def __init__(self, endpoint: Any) -> None:
        self._endpoint = endpoint

    async def connect(self, factory: Any) -> Any:
        wrapping: Any = WrappingFactory
        wrapper = wrapping(factory)
        wrapper.protocol = _LimitedConnection
        wrapper.noisy = False
        made = await self._endpoint.connect(wrapper)
        return made.wrappedProtocol


_Wrapper: Any = ProtocolWrapper


class _LimitedConnection(_Wrapper):  # type: ignore[misc]  # Any, it has no annotations
    """Counts from each request that is written to the empty line in what comes back."""

    _head_bytes = 0
    _in_head = True
    _tail = b""

    def write(self, data: bytes) -> None:
        self._begin()
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        self._begin()
        super().writeSequence(data)

    def stopProducing(self) -> None:
        """At once: what twisted does (losing the connection) goes on reading until the peer closes as well."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._in_head:
            self._count(data)
        super().dataReceived(data)

    def _begin(self) -> None:
        self._in_head, self._head_bytes, self._tail = True, 0, b""

    def _count(self, data: bytes) -> None:
        seen = self._tail + data
        if b"\n\r\n" in seen or b"\n\n" in seen:
            self._in_head = False
            return
        self._head_bytes += len(data)
        self._tail = seen[-2:]
        if self._head_bytes > MAX_HEAD_BYTES:
            self.transport.abortConnection()
