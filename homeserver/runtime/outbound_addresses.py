"""Which addresses this server may be sent to by what strangers tell it, and names turned into such addresses.

A name is checked where it counts: after it was resolved, on each address that is about to be connected to. A check of the
name alone would be passed by a name that points to 127.0.0.1, and a check before a second look-up by one that changes.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from homeserver.runtime.config import ConfigError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host name to its addresses. Raises: OSError."""

# Ways to write an IPv4 address, a private one as well, as an IPv6 one that passes for global: translated by NAT64 and by
# SIIT, and "compatible", which is long forgotten everywhere but in old machines.
_EMBEDDING: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))
# What Python calls global: a network's own NAT64 (RFC 8215).
_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
LOOKUP_THREADS: Final = 8


@frozen
class AddressPolicy:
    """`denied` wins over `allowed`, which wins over the rule for private addresses."""

    allow_private: bool = False
    denied: tuple[Network, ...] = ()
    allowed: tuple[Network, ...] = ()

    def permits(self, text: str) -> bool:
        """Whether an address may be connected to; False for what is no address."""
        try:
            address = ip_address(text.partition("%")[0])
        except ValueError:
            return False
        meanings = (address, *_embedded(address))
        if any(meaning in network for meaning in meanings for network in self.denied):
            return False
        return all(self._permits(meaning) for meaning in meanings)

    def _permits(self, address: Address) -> bool:
        if any(address in network for network in self.allowed):
            return True
        return self.allow_private or _is_public(address)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv6Address) and (address.is_site_local or address in _LOCAL):
        return False
    if isinstance(address, IPv6Address) and address.sixtofour is not None:  # 6to4, deprecated by RFC 7526
        return False
    return address.is_global and not address.is_multicast


def parse_networks(texts: Iterable[str], where: str) -> tuple[Network, ...]:
    """Raises: ConfigError."""
    return tuple(_parse_network(text, where) for text in texts)


def _parse_network(text: str, where: str) -> Network:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ConfigError(f"{where}: found {text!r}, allowed: an address or a network such as 10.0.0.0/8") from None


def _embedded(address: Address) -> list[Address]:
    """The IPv4 addresses that a machine may make of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING) and int(address) > 1:  # :: and ::1 are themselves
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


class SystemResolver:
    """The machine's own way to look names up (hosts file, DNS), in threads of its own.

    Of its own, so that names whose servers don't answer hold up nothing but other look-ups.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool: Any = ThreadPool(0, LOOKUP_THREADS, "lookup")
        self._running = False

    def __call__(self, host: str) -> Deferred[list[str]]:
        if not self._running:
            self._running = True
            self._pool.start()
        found: Deferred[list[str]] = deferToThreadPool(self._reactor, self._pool, _look_up, host)
        return found

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._reactor.callInThread(self._pool.stop)


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
