"""From a server's name to where its federation API is.

The steps, numbered as in the specification:
    1  an address: that one
    2  a name with a port: that one
    3  https://name/.well-known/matrix/server gives another name, treated as in 1 and 2 (3.1, 3.2), or by its SRV records
       _matrix-fed._tcp (3.3) and _matrix._tcp (3.4), or at port 8448 (3.5)
    4  the SRV records _matrix-fed._tcp.name
    5  the SRV records _matrix._tcp.name
    6  name, port 8448

Whatever is found is kept for as long as the documents say, within bounds. The certificate must be for the name that the
.well-known document gave, or for the server's own name, never for what only DNS said.

Spec: server-server-api#resolving-server-names
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from email.utils import parsedate_to_datetime
from itertools import product
from random import Random
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

from attrs import define, evolve, field, frozen

from federation.bounded import Bounded
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import ServerAddress, ServerName, parse_server_address
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import SingleFlight, within
from homeserver.runtime.http_client import Fault, HttpAnswer, HttpClient, HttpFailure, Target
from homeserver.runtime.turns import Slots

DEFAULT_PORT: Final = 8448
WELL_KNOWN_PATH: Final = "/.well-known/matrix/server"
MAX_WELL_KNOWN_BYTES: Final = 50 * 1024
MAX_REDIRECTS: Final = 5
WELL_KNOWN_TIMEOUT_MS: Final = 10_000

KEEP_MS: Final = 24 * 3600 * 1000
KEEP_MAX_MS: Final = 48 * 3600 * 1000
KEEP_MIN_MS: Final = 5 * 60 * 1000
KEEP_FAILURE_MS: Final = 60 * 1000
KEEP_FAILURE_MAX_MS: Final = 3600 * 1000
MAX_KEPT: Final = 10_000
MAX_TARGETS: Final = 4
# Servers that are looked for at once; one that is not found for so long leaves its place to the next.
FINDING_AT_ONCE: Final = 50
LONGEST_TURN_MS: Final = 1_000

_MAX_AGE: Final = re.compile(r"(?:^|[\s,])max-age\s*=\s*\"?([0-9]{1,10})", re.IGNORECASE)
_NO_STORE: Final = re.compile(r"(?:^|[\s,])no-(?:store|cache)(?:$|[\s,=])", re.IGNORECASE)


@frozen
class SrvRecord:
    """One SRV record. `target` has no dot at its end."""

    priority: int
    weight: int
    port: int
    target: str
    ttl_s: int = 300


LookUpSrv = Callable[[str], Awaitable[Sequence[SrvRecord]]]
"""The SRV records of a name; none where there are none. Raises: LookupFailed."""


class LookupFailed(Exception):
    """DNS does not answer; the text says how."""


class WellKnownFault(Exception):
    """There is no usable .well-known document; the text says why."""


class NoWellKnown(WellKnownFault):
    """There is none at all."""


@frozen
class WellKnown:
    """What a .well-known document says, or why it says nothing: there is none, or it can't be used."""

    server: str | None
    fault: str | None
    keep_until_ms: int
    is_absent: bool = False


@frozen
class Found:
    """Where a server is: to be tried in order. `step` is the specification's number, for admins."""

    targets: tuple[Target, ...]
    step: str


@define(eq=False)
class Discovery:
    """Finds servers."""

    http: HttpClient
    look_up_srv: LookUpSrv
    clock: Clock
    well_known_port: int = 443
    _well_knowns: Bounded[str, WellKnown] = field(init=False, factory=lambda: Bounded(MAX_KEPT))
    _random: Random = field(init=False, factory=Random)
    _failures: Bounded[str, int] = field(init=False, factory=lambda: Bounded(MAX_KEPT))
    _fetching: SingleFlight[WellKnown] = field(init=False, factory=SingleFlight)
    _srv: Bounded[str, tuple[Sequence[SrvRecord], int]] = field(init=False, factory=lambda: Bounded(MAX_KEPT))
    _slots: Slots = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._slots = Slots(self.clock, FINDING_AT_ONCE, LONGEST_TURN_MS)

    async def find(self, server: ServerName) -> Found:
        """Waits for its turn where the server is to be looked for; whoever is cancelled before that has asked nobody.

        Raises: InvalidParam, for what is no server name. Whether anybody is there is for the caller to see.
        """
        address = parse_server_address(server)
        literal = _without_lookup(address, server)
        if literal is not None:
            return Found((literal,), "1" if address.is_ip_literal else "2")
        if self._get_well_known(address.host) is not None:
            return await self._find_by_name(address.host)
        leave = await self._slots.take()
        try:
            return await self._find_by_name(address.host)
        finally:
            leave()

    async def _find_by_name(self, host: str) -> Found:
        known = await self.load_well_known(host)
        if known.server is None:
            return await self._by_srv(host, ("4", "5", "6"))
        delegated = parse_server_address(known.server)
        literal = _without_lookup(delegated, known.server)
        if literal is not None:
            return Found((literal,), "3.1" if delegated.is_ip_literal else "3.2")
        return await self._by_srv(delegated.host, ("3.3", "3.4", "3.5"))

    def forget(self, server: ServerName) -> None:
        """Look everything up anew next time: what was found does not answer.

        A good document stays for the case that the place where it stands is down, too; one that was not there is not asked
        for again before its time.
        """
        host = parse_server_address(server).host
        hosts = [host]
        known = self._well_knowns.get(host)
        if known is not None and known.server is not None:
            hosts.append(parse_server_address(known.server).host)
            self._well_knowns.put(host, evolve(known, keep_until_ms=min(known.keep_until_ms, self.clock.time_ms())))
        for service, at in product(("_matrix-fed._tcp.", "_matrix._tcp."), hosts):
            self._srv.pop(service + at)

    # -- .well-known ---------------------------------------------------------------------------------------------------

    async def load_well_known(self, host: str) -> WellKnown:
        """The document of a host, kept or fetched; never raises."""
        known = self._get_well_known(host)
        if known is not None:
            return known
        kept = self._well_knowns.get(host)
        return await self._fetching.do(host, lambda: self._renew_well_known(host, kept))

    def _get_well_known(self, host: str) -> WellKnown | None:
        """The document that is kept, if it is still good."""
        kept = self._well_knowns.get(host)
        return kept if kept is not None and self.clock.time_ms() < kept.keep_until_ms else None

    async def _renew_well_known(self, host: str, kept: WellKnown | None) -> WellKnown:
        known = await self._fetch_well_known(host)
        now_ms = self.clock.time_ms()
        if known.server is None:
            failures = min((self._failures.get(host) or 0) + 1, 10)
            self._failures.put(host, failures)
            # A document that was good a moment ago outlives an outage of the place where it stands.
            if kept is not None and kept.server is not None and now_ms < kept.keep_until_ms + KEEP_MAX_MS:
                known = WellKnown(kept.server, None, now_ms + KEEP_FAILURE_MS)
        else:
            self._failures.pop(host)
        self._well_knowns.put(host, known)
        return known

    async def _fetch_well_known(self, host: str) -> WellKnown:
        now_ms = self.clock.time_ms()
        try:
            answer = await within(
                self.clock, WELL_KNOWN_TIMEOUT_MS, self._follow(Target.at(host, self.well_known_port))
            )
            server = _parse_well_known(answer)
        except (HttpFailure, WellKnownFault, TimeoutError) as error:
            failures = self._failures.get(host) or 0
            keep_until_ms = now_ms + min(KEEP_FAILURE_MS << failures, KEEP_FAILURE_MAX_MS)
            return WellKnown(None, str(error), keep_until_ms, _is_absence(error))
        return WellKnown(server, None, now_ms + keep_ms(answer.headers, now_ms))

    async def _follow(self, target: Target) -> HttpAnswer:
        """Through redirects; each one is a request of its own, with all its checks."""
        path = WELL_KNOWN_PATH
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self.http.request(
                "GET", target, path, timeout_ms=WELL_KNOWN_TIMEOUT_MS, max_bytes=MAX_WELL_KNOWN_BYTES
            )
            if answer.status not in (301, 302, 303, 307, 308):
                return answer
            target, path = _redirected(target, path, answer.headers.get("location", ""))
        raise WellKnownFault(f"more than {MAX_REDIRECTS} redirects")

    # -- SRV -----------------------------------------------------------------------------------------------------------

    async def _by_srv(self, host: str, steps: tuple[str, str, str]) -> Found:
        for service, step in (("_matrix-fed._tcp.", steps[0]), ("_matrix._tcp.", steps[1])):
            records = await self.load_srv(service + host)
            if records:
                ordered = order_records(records, self._random.uniform)
                targets = tuple(Target(record.target, record.port, host, host) for record in ordered)
                return Found(targets[:MAX_TARGETS], step)
        return Found((Target(host, DEFAULT_PORT, host, host),), steps[2])

    async def load_srv(self, name: str) -> Sequence[SrvRecord]:
        """The records that name a target; none where DNS fails, since 8448 may still be right."""
        kept = self._srv.get(name)
        now_ms = self.clock.time_ms()
        if kept is not None and now_ms < kept[1]:
            return kept[0]
        records: Sequence[SrvRecord]
        try:
            records = [record for record in await self.look_up_srv(name) if record.target and record.port]
        except LookupFailed:
            records = ()
        ttl_ms = min((record.ttl_s * 1000 for record in records), default=KEEP_FAILURE_MS * 5)
        self._srv.put(name, (records, now_ms + max(KEEP_FAILURE_MS, min(ttl_ms, KEEP_MS))))
        return records


def _without_lookup(address: ServerAddress, name: str) -> Target | None:
    """Steps 1 and 2 (3.1 and 3.2): what says itself where it is."""
    if address.is_ip_literal:
        return Target(address.host, address.port or DEFAULT_PORT, address.host, name)
    if address.port is not None:
        return Target(address.host, address.port, address.host, name)
    return None


def order_records(records: Sequence[SrvRecord], draw: Callable[[float, float], float]) -> list[SrvRecord]:
    """By priority, and within one at random by weight (RFC 2782)."""
    weighed = [(record.priority, -_lot(record.weight, draw), record) for record in records]
    return [record for _, _, record in sorted(weighed, key=lambda item: item[:2])]


def _lot(weight: int, draw: Callable[[float, float], float]) -> float:
    """Sorting by u^(1/w), u uniform, draws without replacement in proportion to the weights."""
    return float(draw(0.0, 1.0) ** (1.0 / (weight + 0.01)))


# -- the document --------------------------------------------------------------------------------------------------------


def _parse_well_known(answer: HttpAnswer) -> str:
    """Raises: WellKnownFault."""
    if answer.status in (404, 410):
        raise NoWellKnown(f"it answers {answer.status}")
    if answer.status != 200:
        raise WellKnownFault(f"it answers {answer.status}")
    try:
        document: Any = decode_json(answer.body)
    except MatrixError:
        raise WellKnownFault("it is not JSON") from None
    server = document.get("m.server") if isinstance(document, dict) else None
    if not isinstance(server, str):
        raise WellKnownFault("it has no m.server")
    try:
        parse_server_address(server)
    except MatrixError as error:
        raise WellKnownFault(f"its m.server is {error.error}") from None
    return server


def _is_absence(error: Exception) -> bool:
    nobody = isinstance(error, HttpFailure) and error.fault in (Fault.NAME, Fault.CONNECT)
    return nobody or isinstance(error, NoWellKnown)


def _redirected(target: Target, path: str, location: str) -> tuple[Target, str]:
    """Raises: WellKnownFault, also for leaving HTTPS: an answer that anybody could have made proves nothing."""
    base = f"https://{target.host_header}{path}"
    try:
        parts = urlsplit(urljoin(base, location))
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not location or not host or not location.isascii():
        raise WellKnownFault("it redirects to nowhere")
    if parts.scheme != "https":
        raise WellKnownFault("it redirects to something other than https")
    query = f"?{parts.query}" if parts.query else ""
    return Target.at(host, port or 443), (parts.path or "/").replace(" ", "%20") + query.replace(" ", "%20")


def keep_ms(headers: Any, now_ms: int) -> int:
    """How long an answer may be kept, by its headers and within our bounds."""
    return max(KEEP_MIN_MS, min(_wished_ms(headers, now_ms), KEEP_MAX_MS))


def _wished_ms(headers: Any, now_ms: int) -> int:
    control = headers.get("cache-control", "")
    if _NO_STORE.search(control):
        return 0
    age = _MAX_AGE.search(control)
    if age:
        return int(age[1]) * 1000
    expires = headers.get("expires")
    if expires is None:
        return KEEP_MS
    try:
        return int(parsedate_to_datetime(expires).timestamp() * 1000) - now_ms
    except (ValueError, TypeError, OverflowError):
        return 0
