"""Which addresses this server may be sent to by what strangers tell it, and names turned into such addresses.

A name is checked where it counts: after it was resolved, on each address that is about to be connected to. A check of the
name alone would be passed by a name that points to 127.0.0.1, and a check before a second look-up by one that changes.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from threading import Thread
from typing import Any, Final

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.python.failure import Failure

from homeserver.runtime.config import ConfigError
from homeserver.runtime.coroutine import next_turn

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""A host name to its addresses. Raises: OSError."""

# Ways to write an IPv4 address, a private one as well, as an IPv6 one that passes for global: translated by NAT64 and by
# SIIT, and "compatible", which is long forgotten everywhere but in old machines.
_EMBEDDING: Final = (IPv6Network("64:ff9b::/96"), IPv6Network("::ffff:0:0:0/96"), IPv6Network("::/96"))
# What Python calls global: a network's own NAT64 (RFC 8215).
_LOCAL: Final = IPv6Network("64:ff9b:1::/48")
LOOKUPS_AT_ONCE: Final = 8

_failure: Any = Failure  # it has no annotations


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
    """The machine's own way to look names up (hosts file, DNS), in threads of its own, so many at once.

    Of its own, so that names whose servers don't answer hold up nothing but other look-ups. A look-up that nobody waits for any
    more when its turn comes is not begun. One that is under way can't be broken off; a process that stops does not wait for it,
    which is why this is no pool of threads: these are waited for at the end.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._free = DeferredSemaphore(LOOKUPS_AT_ONCE)
        self._stopped = False

    async def __call__(self, host: str) -> list[str]:
        """Raises: OSError, ValueError."""
        await self._free.acquire()
        if self._stopped:
            await next_turn()  # of thousands that wait, each would be woken from within the one before
            self._free.release()
            raise OSError("the server stops")
        found: Deferred[list[str]] = Deferred()
        try:
            Thread(target=self._run, args=(host, found), name="lookup", daemon=True).start()
        except RuntimeError as error:  # the machine has no more
            self._free.release()
            raise OSError(str(error)) from None
        return await found

    def stop(self) -> None:
        """No look-up begins any more."""
        self._stopped = True

    def _run(self, host: str, found: Deferred[list[str]]) -> None:
        result: Any
        try:
            result = _look_up(host)
        except (OSError, ValueError) as error:
            result = _failure(error)
        self._reactor.callFromThread(self._settle, found, result)

    def _settle(self, found: Deferred[list[str]], result: Any) -> None:
        found.callback(result)  # a Failure goes the way of errors
        self._free.release()


def _look_up(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
