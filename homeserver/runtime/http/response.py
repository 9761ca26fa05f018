"""What a handler may return, and how it becomes bytes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any, Protocol

import msgspec
import orjson
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer

_ENCODER = msgspec.json.Encoder()

JSON_TYPE = "application/json"


class RawJson:
    """A body that is JSON already."""

    __slots__ = ("body",)

    def __init__(self, body: bytes) -> None:
        self.body = body


class BodyProducer(Protocol):
    """A push producer of a body, as twisted.web.client.FileBodyProducer; `length` in bytes or UNKNOWN_LENGTH."""

    length: Any

    # Called once, or never: a producer that isn't wanted (HEAD, a client that left) is let go of unstarted.
    def startProducing(self, consumer: IConsumer) -> Deferred[None]: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def stopProducing(self) -> None: ...


class Response:
    """An answer with its own status or headers.

    `body` is JSON-encoded (struct, dict, list, RawJson), sent as it is (bytes), or streamed with back-
    pressure (an async iterator of bytes, or a BodyProducer). Bytes and streams need a Content-Type among the
    headers.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int = 200, body: object = None, headers: Iterable[tuple[str, str]] = ()) -> None:
        self.status = status
        self.body = body
        self.headers = tuple(headers)


def is_stream(body: object) -> bool:
    return isinstance(body, AsyncIterator) or hasattr(body, "startProducing")


def encode_json(value: object) -> bytes:
    """A struct, dict, list or RawJson as JSON; None is the empty object that most changes answer with."""
    if isinstance(value, RawJson):
        return value.body
    if isinstance(value, msgspec.Struct):
        return _ENCODER.encode(value)
    if value is None:
        return b"{}"
    try:
        return orjson.dumps(value, default=_to_builtins)
    except TypeError:  # an integer beyond 64 bits, which events of room versions 1 to 5 may hold
        return _ENCODER.encode(value)


def _to_builtins(value: object) -> object:
    if isinstance(value, RawJson):
        return orjson.Fragment(value.body)
    if isinstance(value, msgspec.Struct):
        return orjson.Fragment(_ENCODER.encode(value))
    return msgspec.to_builtins(value)
