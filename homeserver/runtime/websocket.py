"""WebSockets: autobahn's protocol on a connection of ours.

A handler that answers with an `Upgrade` gives its connection away: the channel (http/site.py) keeps the transport, its bounds
on writing and its place among the connections that a stopping server waits for, and hands the bytes to autobahn, which speaks
RFC 6455. Autobahn is given the headers of the handshake only, and of the subprotocols that which was chosen: no token.
There is no compression: zlib keeps some 300 KiB for each connection.

One read may hold ten thousand frames, half a second's work: of each connection some are read at once, the rest after others
had their turn, and the socket is not read from until then.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from attrs import define, frozen
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.runtime.http.response import encode_json

if TYPE_CHECKING:
    from homeserver.runtime.http.request import Request
    from homeserver.runtime.http.site import Channel

MAX_MESSAGE_BYTES: Final = 256 * 1024
PING_S: Final = 30
PONG_WITHIN_S: Final = 30
CLOSE_WITHIN_S: Final = 5
STEPS_PER_TURN: Final = 64  # heads or payloads of frames; some 20 us each

# Close codes of RFC 6455, section 7.4.1, and of its registry.
NORMAL: Final = 1000
WRONG_KIND: Final = 1003
NOT_JSON: Final = 1007
FAULT: Final = 1011
RESTART: Final = 1012

_HANDSHAKE: Final = (
    b"host",
    b"upgrade",
    b"connection",
    b"origin",
    b"sec-websocket-key",
    b"sec-websocket-version",
)


class UpgradeRequired(MatrixError):
    """The path speaks WebSocket only."""

    status = 426
    errcode = "M_UNRECOGNIZED"


class Session(Protocol):
    """What talks over a WebSocket. on_close comes once, after everything else."""

    def on_open(self, socket: Socket, /) -> None: ...

    def on_text(self, text: bytes, /) -> None: ...

    def on_writable(self) -> None:
        """The peer has taken enough of what was sent to be sent more."""
        ...

    def on_close(self) -> None: ...


@frozen(eq=False)
class Upgrade:
    """A handler's result: from here on the connection is the session's. protocol: the subprotocol that is agreed on."""

    protocol: str | None
    session: Session


def check_upgrade(request: Request) -> list[str]:
    """The subprotocols that a request for a WebSocket offers, in the client's order.

    Raises: UpgradeRequired, when it is no such request; InvalidParam.
    """
    names = {name.strip().lower() for name in (request.header("upgrade") or "").split(",")}
    if request.method != "GET" or request.http_1_0 or "websocket" not in names:
        raise UpgradeRequired("This is a WebSocket")
    offered = [name.strip() for name in (request.header("sec-websocket-protocol") or "").split(",") if name.strip()]
    if len(set(offered)) != len(offered):
        raise InvalidParam("Sec-WebSocket-Protocol", "names a subprotocol twice")
    return offered


@define(eq=False)
class Socket:
    """The server's end of a WebSocket that is open."""

    _protocol: Any
    _channel: Channel

    @property
    def is_open(self) -> bool:
        return bool(self._protocol.state == self._protocol.STATE_OPEN)

    @property
    def is_writable(self) -> bool:
        """False while the peer is behind with reading: what is sent then fills memory."""
        return not self._channel.is_write_paused

    def send(self, text: bytes) -> None:
        """Send a message of UTF-8 text; nothing once the socket is closing."""
        if self.is_open:
            # PERF: not by autobahn's sendFrame, which is ready for masks and compression; 4 us against 30.
            self._channel.write(_frame_head(len(text)) + text)

    def close(self, code: int, reason: str = "") -> None:
        if self.is_open:
            self._protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:120])

    def pause_reading(self) -> None:
        """Take no more messages, also of those that came already."""
        self._protocol.pause_reading()

    def resume_reading(self) -> None:
        self._protocol.resume_reading()


def _frame_head(length: int) -> bytes:
    """Of one whole text message from the server, which is not masked. RFC 6455, section 5.2."""
    if length < 126:
        return bytes((0x81, length))
    return struct.pack("!BBH", 0x81, 126, length) if length < 65_536 else struct.pack("!BBQ", 0x81, 127, length)


class Upgraded(Protocol):
    """What the channel gives the connection to."""

    def dataReceived(self, data: bytes, /) -> None: ...

    def connectionLost(self, reason: Any, /) -> None: ...

    def on_writable(self) -> None: ...


@define(eq=False)
class _Link:
    """The transport that autobahn sees."""

    channel: Channel

    def write(self, data: bytes) -> None:
        self.channel.release()
        self.channel.transport.write(data)

    def loseConnection(self) -> None:
        self.channel.loseConnection()

    def abortConnection(self) -> None:
        self.channel.abort()

    def getPeer(self) -> Any:
        return self.channel.transport.getPeer()

    def getHost(self) -> Any:
        return self.channel.transport.getHost()

    def unregisterProducer(self) -> None:
        """The channel is the producer, and stays it until the connection goes."""


_make_protocol: Callable[[Any, Upgrade, Channel], Any] | None = None


def upgrade(request: Request, channel: Channel, result: Upgrade) -> tuple[Upgraded, bytes]:
    """The protocol for a connection, and the bytes that it has to be given first."""
    global _make_protocol
    if _make_protocol is None:
        # Imported with the first WebSocket: autobahn takes memory that other servers do not need.
        _make_protocol = _define_protocol(channel.site.reactor)
    head = [b"GET /stream HTTP/1.1"]
    head += [b"%b: %b" % (name, value) for name in _HANDSHAKE if (value := request._headers.get(name)) is not None]
    if result.protocol is not None:
        head.append(b"sec-websocket-protocol: %b" % result.protocol.encode())
    protocol: Upgraded = _make_protocol(_Link(channel), result, channel)
    return protocol, b"\r\n".join([*head, b"", b""])


def _define_protocol(reactor: Any) -> Callable[[Any, Upgrade, Channel], Any]:  # long: a class that is made on first use
    from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol

    make_factory: Any = WebSocketServerFactory
    factory = make_factory(reactor=reactor)
    factory.setProtocolOptions(
        webStatus=False,
        maxFramePayloadSize=MAX_MESSAGE_BYTES,
        maxMessagePayloadSize=MAX_MESSAGE_BYTES,
        openHandshakeTimeout=0,  # the handshake is here already
        closeHandshakeTimeout=CLOSE_WITHIN_S,
        autoPingInterval=PING_S,
        autoPingTimeout=PONG_WITHIN_S,
        failByDrop=False,
    )
    base: Any = WebSocketServerProtocol

    class StreamProtocol(base):  # type: ignore[misc]  # autobahn has no annotations that mypy reads
        """One WebSocket."""

        # PERF: kept by the class, or autobahn copies them into each connection.
        locals().update({name: getattr(factory, name) for name in base.CONFIG_ATTRS})
        CONFIG_ATTRS = ()
        _is_paused = False  # the session takes no more
        _is_held = False  # the socket is not read from
        _turn: Any = None  # a call that reads on

        def __init__(self, result: Upgrade, channel: Channel) -> None:
            super().__init__()
            self.factory = factory
            self._agreed = result.protocol
            self._session = result.session
            self._socket = Socket(self, channel)

        def onConnect(self, request: object) -> str | None:
            return self._agreed

        def onOpen(self) -> None:
            self._shrink()
            self._session.on_open(self._socket)

        def _shrink(self) -> None:
            """PERF: let go of what only the handshake needed, and of what is as in every other connection: 6 KiB."""
            names: dict[str, Any] = dict.fromkeys(name for name in vars(self) if name.startswith("http_"))
            names |= {name: value for name, value in vars(self).items() if value is None or value is False}
            names["_transport_details"] = None
            for name, value in names.items():
                if name not in vars(StreamProtocol):
                    setattr(StreamProtocol, name, value)
            kept = {name: value for name, value in vars(self).items() if name not in names}
            self.__dict__ = kept

        def consumeData(self) -> None:
            if self.state == self.STATE_CONNECTING:
                super().consumeData()
            elif self._turn is None:
                self._read_on()

        def _read_on(self) -> None:
            """Read some of what came; when all is read, from the socket again."""
            for _ in range(STEPS_PER_TURN):
                if self._is_paused or self.state == self.STATE_CLOSED:
                    return
                if not self.processData():
                    self._let_come()
                    return
            self._read_later()

        def _read_later(self) -> None:
            if self._turn is None:
                self._turn = reactor.callLater(0, self._take_turn)
            self._hold()

        def _take_turn(self) -> None:
            self._turn = None
            self._read_on()

        def pause_reading(self) -> None:
            self._is_paused = True
            self._hold()

        def resume_reading(self) -> None:
            if self._is_paused:
                self._is_paused = False
                self._read_later()

        def _hold(self) -> None:
            if not self._is_held:
                self._is_held = True
                self._socket._channel.pause_reading()

        def _let_come(self) -> None:
            if self._is_held and not self._is_paused:
                self._is_held = False
                self._socket._channel.resume_reading()

        def onMessage(self, payload: bytes, isBinary: bool) -> None:
            if isBinary:
                self._socket.close(WRONG_KIND, "Text only")
            else:
                self._session.on_text(payload)

        def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
            self._session.on_close()

        def on_writable(self) -> None:
            self._session.on_writable()

        def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
            """A handshake that is none."""
            body = encode_json({"errcode": InvalidParam.errcode, "error": reason})
            fields = [*(responseHeaders or ()), ("Connection", "close")]
            head = self._socket._channel.site.heads.json(code) + b"%d\r\n" % len(body)
            head += "".join(f"{name}: {value}\r\n" for name, value in fields).encode()
            self.sendData(head + b"\r\n" + body)

        def connectionLost(self, reason: Failure = connectionDone) -> None:
            turn, self._turn = self._turn, None
            if turn is not None:
                turn.cancel()
            super().connectionLost(reason)
            self.transport = None

    def make(link: Any, result: Upgrade, channel: Channel) -> Any:
        protocol = StreamProtocol(result, channel)
        protocol.makeConnection(link)
        return protocol

    return make
