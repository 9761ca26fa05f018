"""The site of one listener: twisted.web's parsing of HTTP/1.1 with our own requests and time limits.

twisted.web parses, decodes bodies and guards against smuggling. A request that comes as most do (whole, in one read, with
nothing unusual in its head) is parsed here at once, at a quarter of the cost; whatever is in doubt is left to twisted.web.
Around it stand:
- one sweep every few seconds over all connections instead of a timer for each (1 KiB, and 10 us a request): a
  connection has a deadline for its headers, for each stretch of body, for its idle time, for taking its
  answer;
- refusal of a too large body at the header or at the first byte beyond, and a lingering close after it, since
  a connection closed with unread data is reset and its answer lost;
- which resources this listener serves, and which proxies it believes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.protocol import ServerFactory
from twisted.internet.tcp import Server
from twisted.protocols.basic import LineReceiver
from twisted.web import http

from homeserver.runtime.http.answer import Heads
from homeserver.runtime.http.body import Spooling
from homeserver.runtime.http.request import Request, add_header
from homeserver.runtime.http.router import Authenticator, Router
from homeserver.runtime.outgoing import Outgoing

if TYPE_CHECKING:
    from homeserver.runtime.rate_limit import RateLimiter
    from homeserver.runtime.websocket import Upgraded

ALL_RESOURCES: Final = frozenset({"client", "federation", "media", "admin", "web", "metrics", "health"})

MAX_HEADER_BYTES: Final = 32 * 1024
MAX_HEADERS: Final = 100
# A connection remembers no more than this of its last request's headers.
MAX_REMEMBERED_BYTES: Final = 2048
MAX_DISCARDED_BYTES: Final = 64 * 1024 * 1024

_HEADER = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([^\x00\r\n]*)", re.DOTALL)
_LENGTH_HEADERS: Final = {b"content-length": b"Content-Length", b"transfer-encoding": b"Transfer-Encoding"}
_MAX_LENGTH_DIGITS: Final = 18
_REQUEST_LINE: Final = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.1")
_HEAD_END: Final = b"\r\n\r\n"
# With one of these headers a request is twisted.web's to parse.
_UNUSUAL: Final = frozenset({b"transfer-encoding", b"expect", b"upgrade"})


@frozen
class TimeLimits:
    """How long a connection may take, in seconds."""

    header_s: float = 30.0
    body_pause_s: float = 30.0
    body_min_bytes_per_s: int = 512
    keep_alive_s: float = 120.0
    write_s: float = 60.0
    linger_s: float = 5.0
    sweep_s: float = 5.0


@frozen
class App:
    """What all listeners of a process share."""

    reactor: Any
    router: Router
    authenticator: Authenticator
    limiter: RateLimiter | None = None
    # Told of every authenticated request: last seen.
    on_authenticated: Callable[[Any, Request], object] | None = None
    spooling: Spooling = field(factory=Spooling)
    outgoing: Outgoing = field(factory=Outgoing)


# twisted.web has no annotations here.
_HTTPChannel: Any = http.HTTPChannel
_receive_lines: Any = LineReceiver.dataReceived


class Channel(_HTTPChannel):  # type: ignore[misc]  # Any, see above
    """One connection."""

    requestFactory = Request
    maxHeaders = MAX_HEADERS
    totalHeadersSize = MAX_HEADER_BYTES
    MAX_LENGTH = MAX_HEADER_BYTES
    timeOut = None

    site: Site
    persistent: bool
    _dataBuffer: list[bytes]
    _discarding = False
    _discarded_bytes = 0
    _body_began_s = 0.0
    _idle = True
    _writes_at_once = False
    _upgraded: Upgraded | None = None
    _head: _Head | None = None
    _reading_paused = False
    deadline_s: float | None = None

    def connectionMade(self) -> None:
        super().connectionMade()
        site = self.site
        site.channels.add(self)
        self._writes_at_once = type(self.transport) is Server
        self.deadline_s = site.now_s() + site.limits.header_s

    def connectionLost(self, reason: Any = None) -> None:
        super().connectionLost(reason)
        self.requests.clear()
        upgraded, self._upgraded = self._upgraded, None
        if upgraded is not None:
            upgraded.connectionLost(reason)
        self.site.on_channel_lost(self)

    # ---- Reading ----

    def dataReceived(self, data: bytes) -> None:
        if self._upgraded is not None:
            self._upgraded.dataReceived(data)
            return
        if self._discarding:
            self._discard(data)
            return
        if self._idle:
            self._idle = False
            self.deadline_s = self.site.now_s() + self.site.limits.header_s
            if not self._busyReceiving and not self._buffer and self._take_whole(data):
                return
        _receive_lines(self, data)

    def _take_whole(self, data: bytes) -> bool:
        """Read and handle `data` if it is exactly one request with nothing unusual; else do nothing."""
        end = data.find(_HEAD_END)
        if not 0 < end <= MAX_HEADER_BYTES or not self.persistent:
            return False
        first, _, fields = data[:end].partition(b"\r\n")
        line = _REQUEST_LINE.fullmatch(first)
        if line is None:
            return False
        head = self._head
        if head is None or head.fields != fields:
            head = _read_head(fields)
            if head is None:
                return False
            if len(fields) <= MAX_REMEMBERED_BYTES:
                self._head = head
        length = head.length
        if len(data) != end + len(_HEAD_END) + length:
            return False
        request = Request(self)
        request._headers = head.headers
        self.requests.append(request)
        self._handlingRequest = True
        self.setRawMode()
        self.persistent = not head.closes and not self.site.draining
        if request.start(line[1], line[2], length):
            if length:
                request.handleContentChunk(data[-length:])
            self.deadline_s = None
            request.requestReceived(line[1], line[2], b"HTTP/1.1")
        return True

    def headerReceived(self, line: bytes) -> bool:
        found = _HEADER.fullmatch(line)
        if found is None:
            self._respondToBadRequestAndDisconnect()
            return False
        name, value = found[1].lower(), found[2].rstrip(b" \t")
        decisive = _LENGTH_HEADERS.get(name)
        if decisive is not None:
            if name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS:
                self._respondToBadRequestAndDisconnect()
                return False
            if not self._maybeChooseTransferDecoder(decisive, value):
                return False
        add_header(self.requests[-1]._headers, name, value)
        self._receivedHeaderCount += 1
        if self._receivedHeaderCount > self.maxHeaders:
            self._respondToBadRequestAndDisconnect()
            return False
        return True

    def allHeadersReceived(self) -> None:
        request: Request = self.requests[-1]
        headers = request._headers
        request.http_1_0 = self._version != b"HTTP/1.1"
        self.persistent = not request.http_1_0 and not _closes(headers) and not self.site.draining
        if not request.start(self._command, self._path, self.length):
            return
        if self.length != 0:
            self._body_began_s = self.site.now_s()
            self.on_body_data(0)
            if headers.get(b"expect", b"").lower() == b"100-continue" and not request.http_1_0:
                self._send100Continue()

    def rawDataReceived(self, data: bytes) -> None:
        if self._discarding:
            return
        super().rawDataReceived(data)

    def allContentReceived(self) -> None:
        if self._discarding:
            return
        self.deadline_s = None
        super().allContentReceived()

    def on_body_data(self, received_bytes: int) -> None:
        """Puts the deadline off: a pause is allowed, but not a trickle."""
        limits = self.site.limits
        patience_s = limits.body_pause_s + received_bytes / limits.body_min_bytes_per_s
        self.deadline_s = min(self.site.now_s() + limits.body_pause_s, self._body_began_s + patience_s)

    def lineLengthExceeded(self, line: bytes) -> None:
        self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.release()
        body = b'{"errcode":"M_UNKNOWN","error":"Bad HTTP request"}'
        head = self.site.heads.json(400)
        self.transport.write(b"%b%d\r\nConnection: close\r\n\r\n%b" % (head, len(body), body))
        self.loseConnection()

    def _send100Continue(self) -> None:
        self.release()
        super()._send100Continue()

    # ---- Another protocol ----

    def upgrade(self, upgraded: Upgraded, head: bytes) -> None:
        """From now on the connection is another protocol's; its first bytes are `head`, then what came behind the request."""
        self.requests.clear()
        self._upgraded = upgraded
        self._idle = False
        self.deadline_s = None
        held, self._dataBuffer = b"".join(self._dataBuffer), []
        self.resume_reading()
        upgraded.dataReceived(head + held)

    @property
    def is_write_paused(self) -> bool:
        """The peer is behind with reading."""
        return bool(self._waitingForTransport)

    def pause_reading(self) -> None:
        self._reading_paused = True
        self._networkProducer.pauseProducing()

    def resume_reading(self) -> None:
        self._reading_paused = False
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()

    # ---- Closing ----

    def stop_reading(self) -> None:
        """Whatever more comes is thrown away; the connection closes once the answer is out."""
        self._discarding = True

    def requestDone(self, request: Request) -> None:
        self.requests.clear()
        if self._discarding:
            self._linger()
            return
        if not self.persistent or self.site.draining:
            self.loseConnection()
            return
        self._handlingRequest = False
        self._idle = True
        self.deadline_s = self.site.now_s() + self.site.limits.keep_alive_s
        held = b""
        if self._dataBuffer:
            held = b"".join(self._dataBuffer)
            self._dataBuffer = []
            if not self._waitingForTransport:
                self._networkProducer.resumeProducing()
        self.setLineMode(held)

    def _linger(self) -> None:
        self.release()
        self.deadline_s = self.site.now_s() + self.site.limits.linger_s
        if not ISSLTransport.providedBy(self.transport):
            self._networkProducer.unregisterProducer()
            self.transport.loseWriteConnection()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > MAX_DISCARDED_BYTES:
            self.abort()

    def loseConnection(self) -> None:
        self.release()
        super().loseConnection()

    def abort(self) -> None:
        self.transport.abortConnection()

    def check_deadline(self, now_s: float) -> None:
        """Closes the connection if it took too long."""
        if self.deadline_s is None or now_s < self.deadline_s:
            return
        self.deadline_s = now_s + self.site.limits.linger_s
        if self._idle and not self._waitingForTransport:
            self.loseConnection()
        else:
            self.abort()

    # ---- Writing ----

    def write(self, data: bytes) -> None:
        """Send what the socket takes now; the reactor is only asked to wait for the rest. While writes are held, send nothing."""
        transport = self.transport
        if self._writes_at_once and self.site.outgoing.held is not None:
            self.site.outgoing.held[self] = self.site.outgoing.held.get(self, b"") + data
            return
        if self._writes_at_once and not transport._tempDataLen and not transport.dataBuffer and transport.connected:
            sent = transport.writeSomeData(data)
            if sent == len(data):
                return
            if type(sent) is int:
                data = data[sent:]
        transport.write(data)

    def release(self) -> None:
        """Hand what is held to the transport, so that something else may follow it there."""
        held = self.site.outgoing.held
        data = held.pop(self, None) if held else None
        if data is not None:
            self.transport.write(data)

    def pauseProducing(self) -> None:
        super().pauseProducing()
        if self._upgraded is not None:
            self._networkProducer.pauseProducing()
        self.deadline_s = self.site.now_s() + self.site.limits.write_s

    def resumeProducing(self) -> None:
        super().resumeProducing()
        if self._upgraded is not None:
            self.deadline_s = None
            if not self._reading_paused:
                self._networkProducer.resumeProducing()
            self._upgraded.on_writable()
            return
        self.deadline_s = None if self._handlingRequest else self.site.now_s() + self.site.limits.keep_alive_s

    # ---- Who is it? ----

    def client_address(self, forwarded_for: bytes | None) -> str:
        """The peer's address, or what the nearest trusted proxies say it is."""
        host = getattr(self.transport.getPeer(), "host", "")
        if forwarded_for is None or not self.site.trusts(host):
            return host
        for hop in reversed(forwarded_for.decode("latin-1").split(",")):
            hop = hop.strip()
            if not _is_address(hop):
                break
            host = hop
            if not self.site.trusts(hop):
                break
        return host


@frozen(eq=False)
class _Head:
    """The header lines of a request, read. Clients send the same ones with each request over a connection.

    headers: shared by requests, so nobody may change it.
    """

    fields: bytes
    headers: dict[bytes, bytes]
    length: int
    closes: bool


def _read_head(fields: bytes) -> _Head | None:
    """None when something is unusual."""
    headers: dict[bytes, bytes] = {}
    lines = fields.split(b"\r\n") if fields else []
    if len(lines) > MAX_HEADERS:
        return None
    for line in lines:
        found = _HEADER.fullmatch(line)
        if found is None:
            return None
        name, value = found[1].lower(), found[2].rstrip(b" \t")
        if name in _UNUSUAL or (name == b"content-length" and not _is_length(value, headers)):
            return None
        add_header(headers, name, value)
    return _Head(fields, headers, int(headers.get(b"content-length", b"0")), _closes(headers))


def _is_length(value: bytes, headers: dict[bytes, bytes]) -> bool:
    return value.isdigit() and len(value) <= _MAX_LENGTH_DIGITS and b"content-length" not in headers


def _closes(headers: dict[bytes, bytes]) -> bool:
    return b"close" in headers.get(b"connection", b"").lower()


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


class Site(ServerFactory[Channel]):
    """Makes the connections of one listener."""

    noisy = False

    def __init__(
        self,
        app: App,
        resources: frozenset[str] = ALL_RESOURCES,
        trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = (),
        limits: TimeLimits | None = None,
    ) -> None:
        self.router = app.router
        self.authenticator = app.authenticator
        self.limiter = app.limiter
        self.on_authenticated = app.on_authenticated
        self.spooling = app.spooling
        self.outgoing = app.outgoing
        self.resources = resources
        self.limits = limits or TimeLimits()
        self.channels: set[Channel] = set()
        self.heads = Heads()
        self.unmatched = app.router.unmatched
        self.draining = False
        self.next_number: Callable[[], int] = itertools.count(1).__next__
        self.now_s: Callable[[], float] = app.reactor.seconds
        self.reactor = app.reactor
        _check_limits(app)
        self._trusted = trusted_proxies
        self._sweep_call: Any = None
        self._drained: Deferred[None] | None = None

    def startFactory(self) -> None:
        self._sweep_call = self.reactor.callLater(self.limits.sweep_s, self._sweep)

    def stopFactory(self) -> None:
        if self._sweep_call is not None and self._sweep_call.active():
            self._sweep_call.cancel()

    def buildProtocol(self, address: IAddress | None) -> Channel:
        channel = Channel()
        channel.site = self
        return channel

    def trusts(self, address: str) -> bool:
        """Whether X-Forwarded-For from this address is believed."""
        if not self._trusted or not _is_address(address):
            return False
        parsed = ip_address(address)
        return any(parsed in network for network in self._trusted)

    def in_thread(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        from twisted.internet.threads import deferToThreadPool

        return deferToThreadPool(self.reactor, self.reactor.getThreadPool(), function, *args)

    def drain(self) -> Deferred[None]:
        """Closes idle connections; fires when those with a request in hand have been answered and closed."""
        self.draining = True
        self._drained = Deferred()
        for channel in list(self.channels):
            channel.persistent = False
            if channel._idle:
                channel.loseConnection()
        self._check_drained()
        return self._drained

    def abort_all(self) -> None:
        """Drops every connection that is left."""
        for channel in list(self.channels):
            channel.abort()

    def on_channel_lost(self, channel: Channel) -> None:
        self.channels.discard(channel)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._drained is not None and not self._drained.called and not self.channels:
            self._drained.callback(None)

    def _sweep(self) -> None:
        now_s = self.now_s()
        for channel in list(self.channels):
            channel.check_deadline(now_s)
        self._sweep_call = self.reactor.callLater(self.limits.sweep_s, self._sweep)


def _check_limits(app: App) -> None:
    for plan in app.router.plans:
        kind = plan.declaration.limit
        if kind is not None and app.limiter is not None and not app.limiter.knows(kind):
            raise ValueError(f"{plan.method} {plan.template}: no such rate limit: {kind}")
