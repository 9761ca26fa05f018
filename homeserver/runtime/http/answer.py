"""From a handler's result to bytes on the connection, in one write wherever the body is at hand."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.runtime.coroutine import drive
from homeserver.runtime.http.compression import MIN_BYTES, THREAD_BYTES, accepts_gzip, gzip, is_compressible
from homeserver.runtime.http.cors import CORS_BYTES, PREFLIGHT_BYTES
from homeserver.runtime.http.response import JSON_TYPE, Response, encode_json, is_stream
from homeserver.runtime.websocket import Upgrade

if TYPE_CHECKING:
    from homeserver.runtime.http.request import Request

_NO_BODY: Final = frozenset({204, 304})
_CACHE_CONTROL: Final = "Cache-Control: no-store\r\n"
_GZIPPED: Final = b"Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"
_VARIES: Final = b"Vary: Accept-Encoding\r\n"
_CLOSE: Final = b"Connection: close\r\n"


class Heads:
    """The unchanging beginnings of answers, remade once a second for their Date."""

    __slots__ = ("_json", "_made_s", "_plain")

    def __init__(self) -> None:
        self._made_s = 0
        self._json: dict[int, bytes] = {}
        self._plain: dict[int, bytes] = {}

    def json(self, status: int) -> bytes:
        """Status line and the headers of a JSON answer, up to the figure of Content-Length."""
        self._refresh()
        head = self._json.get(status)
        if head is None:
            fields = f"Content-Type: {JSON_TYPE}\r\n{_CACHE_CONTROL}Content-Length: "
            head = self._json[status] = self.plain(status) + fields.encode()
        return head

    def plain(self, status: int) -> bytes:
        """Status line, Date and the headers for browsers."""
        self._refresh()
        head = self._plain.get(status)
        if head is None:
            date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(self._made_s))
            line = f"HTTP/1.1 {status} {_reason(status)}\r\nDate: {date}\r\n"
            head = self._plain[status] = line.encode() + CORS_BYTES
        return head

    def _refresh(self) -> None:
        now_s = int(time.time())
        if now_s != self._made_s:
            self._made_s = now_s
            self._json.clear()
            self._plain.clear()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def write_preflight(request: Request) -> None:
    """The answer to OPTIONS, on any path."""
    if request.disconnected or request.channel is None:
        return
    request.status = 204
    closing = b"" if request.channel.persistent else _CLOSE
    request.channel.write(request.channel.site.heads.plain(204) + PREFLIGHT_BYTES + closing + b"\r\n")
    request.finish()


def write_result(request: Request, result: object) -> None:
    """Answers with whatever a handler returned."""
    if request.finished:
        return
    if type(result) is Upgrade:
        request.upgrade(result)
    elif type(result) is not Response:
        write_json(request, 200, encode_json(result))
    elif is_stream(result.body):
        _write_stream(request, result)
    elif isinstance(result.body, bytes) or result.status in _NO_BODY or _content_type(result):
        body = result.body if isinstance(result.body, bytes) else b""
        if result.body is not None and not isinstance(result.body, bytes):
            body = encode_json(result.body)
        _write_bytes(request, result.status, body, result.headers, _content_type(result))
    else:
        write_json(request, result.status, encode_json(result.body), header_bytes(result.headers))


def write_json(request: Request, status: int, body: bytes, extra: bytes = b"") -> None:
    """Answers with JSON, compressed where that is worth it."""
    channel = request.channel
    if request.finished or channel is None:
        return
    if len(body) >= MIN_BYTES:
        if accepts_gzip(request._headers.get(b"accept-encoding")):
            _compress(request, body, lambda packed: _write_head_and_body(request, status, packed, extra + _GZIPPED))
            return
        extra += _VARIES
    _write_head_and_body(request, status, body, extra)


def _write_head_and_body(request: Request, status: int, body: bytes, extra: bytes) -> None:
    channel = request.channel
    if request.finished or channel is None:
        return
    request.status = status
    if not channel.persistent:
        extra += _CLOSE
    sent = b"" if request.method == "HEAD" else body
    channel.write(b"%b%d\r\n%b\r\n%b" % (channel.site.heads.json(status), len(body), extra, sent))
    request.finish()


def _compress(request: Request, body: bytes, write: Any) -> None:
    """Calls `write` with the gzipped body, made in a thread if it is large."""
    channel = request.channel
    assert channel is not None
    if len(body) < THREAD_BYTES:
        write(gzip(body))
        return
    packed: Deferred[bytes] = channel.site.in_thread(gzip, body)
    packed.addCallbacks(write, lambda failure: request.answer_error(failure.value))


def _write_bytes(
    request: Request, status: int, body: bytes, headers: Iterable[tuple[str, str]], content_type: str
) -> None:
    channel = request.channel
    if request.finished or channel is None:
        return
    if len(body) >= MIN_BYTES and is_compressible(content_type):
        if accepts_gzip(request._headers.get(b"accept-encoding")):
            body, extra = gzip(body), _GZIPPED
        else:
            extra = _VARIES
    else:
        extra = b""
    length = b"" if status in _NO_BODY else b"Content-Length: %d\r\n" % len(body)
    _write_head(request, status, header_bytes(headers) + extra + length)
    if body and request.method != "HEAD" and status not in _NO_BODY:
        channel.write(body)
    request.finish()


def _write_head(request: Request, status: int, fields: bytes) -> None:
    channel = request.channel
    assert channel is not None
    request.status = status
    closing = b"" if channel.persistent else _CLOSE
    channel.write(channel.site.heads.plain(status) + fields + closing + b"\r\n")


def header_bytes(headers: Iterable[tuple[str, str]]) -> bytes:
    """Header lines; a line break in a value is refused, since its author could write headers of their own."""
    lines = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers)
    if lines.count(b"\n") != lines.count(b"\r\n") or lines.count(b"\n") != sum(1 for _ in headers):
        raise ValueError("line break in a response header")
    return lines


def _content_type(response: Response) -> str:
    return next((value for name, value in response.headers if name.lower() == "content-type"), "")


# ---- Streams ----


def _write_stream(request: Request, response: Response) -> None:
    channel = request.channel
    if request.finished or channel is None:
        return
    length = getattr(response.body, "length", None)
    fields = header_bytes(response.headers)
    has_length = any(name.lower() == "content-length" for name, _ in response.headers)
    if isinstance(length, int) and not has_length:
        fields += b"Content-Length: %d\r\n" % length
        has_length = True
    chunked = not has_length and not request.http_1_0
    if chunked:
        fields += b"Transfer-Encoding: chunked\r\n"
    _write_head(request, response.status, fields)
    if request.method == "HEAD":
        request.finish()
        return
    stream = Stream(request, chunked)
    request._stream = stream
    stream.start(response.body)


class Stream:
    """Writes a body piece by piece, no faster than the client takes it.

    It is the connection's producer for a body that is an async iterator, and the consumer of one that is a
    producer.
    """

    __slots__ = ("_chunked", "_is_stopped", "_producer", "_request", "_resumed")

    def __init__(self, request: Request, chunked: bool) -> None:
        self._request = request
        self._chunked = chunked
        self._producer: Any = None
        self._is_stopped = False
        self._resumed: Deferred[None] | None = None

    def start(self, body: Any) -> None:
        channel = self._request.channel
        assert channel is not None
        channel.registerProducer(self, True)
        if isinstance(body, AsyncIterator):
            self._request._drive = drive(self._pump(body), self._ended)
            return
        self._producer = body
        done: Deferred[None] = body.startProducing(self)
        done.addCallbacks(lambda _: self._ended(None, None), self._failed)

    def write(self, data: bytes) -> None:
        channel = self._request.channel
        if channel is not None and data:
            channel.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """A producer may register itself with its consumer; ours is registered already."""

    def unregisterProducer(self) -> None: ...

    def pauseProducing(self) -> None:
        if self._producer is not None:
            self._producer.pauseProducing()
        elif self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        if self._producer is not None:
            self._producer.resumeProducing()
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """The client has gone away."""
        if self._is_stopped:
            return
        self._is_stopped = True
        if self._producer is not None:
            self._producer.stopProducing()
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def on_lost(self) -> None:
        """As stopProducing, and cancels what the iterator waits for."""
        self.stopProducing()
        if self._request._drive is not None:
            self._request._drive.cancel()

    async def _pump(self, body: AsyncIterator[bytes]) -> None:
        try:
            async for data in body:
                self.write(data)
                if self._resumed is not None:
                    await self._resumed
                if self._is_stopped:
                    break
        finally:
            if isinstance(body, AsyncGenerator):
                await body.aclose()

    def _failed(self, failure: Failure) -> None:
        self._ended(None, failure.value)

    def _ended(self, _: object, error: BaseException | None) -> None:
        request = self._request
        request._drive = None
        channel = request.channel
        if channel is None or self._is_stopped:
            return
        channel.unregisterProducer()
        if error is not None:
            request.answer_error(error)
            return
        if self._chunked:
            channel.write(b"0\r\n\r\n")
        request.finish()
