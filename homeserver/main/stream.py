"""The WebSocket: its streams and its endpoint."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from attrs import frozen

from homeserver.clientapi.presence import PresenceEndpoints
from homeserver.clientapi.receipts import ReceiptEndpoints
from homeserver.clientapi.room_sending import RoomSending
from homeserver.clientapi.stream import StreamEndpoint, Streams
from homeserver.clientapi.stream_requests import StreamRequests
from homeserver.clientapi.typing import TypingEndpoints
from homeserver.main.accounts import AccountServices
from homeserver.main.core import Core
from homeserver.main.rooms import RoomServices
from homeserver.main.sync import SyncServices
from homeserver.runtime.rate_limit import RateLimiter

T = TypeVar("T")


@frozen
class StreamServices:
    streams: Streams
    endpoints: list[object]


def build_stream(
    core: Core, accounts: AccountServices, rooms: RoomServices, sync: SyncServices, limiter: RateLimiter
) -> StreamServices:
    """Behind all whose log followers tell that a token is good no longer."""
    every = [*rooms.endpoints, *sync.endpoints]
    requests = StreamRequests(
        limiter,
        _one_of(every, RoomSending),
        _one_of(every, TypingEndpoints),
        _one_of(every, ReceiptEndpoints),
        _one_of(every, PresenceEndpoints),
    )
    streams = Streams(
        accounts.access, accounts.last_seen, core.clock, sync.service, sync.parser, requests, sync.presence
    )
    core.log.follow(streams.on_rows)
    return StreamServices(streams, [StreamEndpoint(streams)])


def _one_of(endpoints: Iterable[object], kind: type[T]) -> T:
    return next(found for found in endpoints if isinstance(found, kind))
