"""GET /_matrix/client/unstable/im.hearth/stream: /sync and the most frequent requests over a WebSocket.

Over it go, as text:
    to the client    responses of /sync (they have `next_batch`), and answers {"id", "result"} or {"id", "error"}
    to the server    requests {"id", "method", "params"}, which are done one after the other

Bounds: a client that does not read is sent nothing more, and dropped when that lasts; nor is it read from then, so it can't fill
memory with answers. One that sends faster than its requests are done is not read from meanwhile.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
import orjson
from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred

from homeserver.accounts.access import FOLLOWED_KINDS, AccessTokens
from homeserver.accounts.errors import UserLocked
from homeserver.accounts.last_seen import LastSeen
from homeserver.accounts.requester import Requester
from homeserver.clientapi.stream_requests import StreamRequests, convert_params
from homeserver.clientapi.sync import RequestParser, SyncQuery
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, LimitExceeded, MatrixError, MissingToken
from homeserver.matrix.ids import UserId
from homeserver.presence.presence import Presence
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import drive
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.response import encode_json
from homeserver.runtime.websocket import FAULT, NOT_JSON, RESTART, Socket, Upgrade, check_upgrade
from homeserver.store.log import LogRow
from homeserver.sync.request import SyncRequest
from homeserver.sync.service import SyncService
from homeserver.sync.stream import SyncStream
from homeserver.sync.tokens import parse_sync_token

logger = logging.getLogger(__name__)

PROTOCOL: Final = "m.json"
TOKEN_PROTOCOL: Final = "m.access_token."  # followed by the token, for browsers, which can't set headers
AUTH_WITHIN_MS: Final = 10_000
MAX_STREAMS: Final = 50_000
MAX_STREAMS_OF_USER: Final = 50
MAX_QUEUED: Final = 32  # requests that wait; with more, the client is not read from
MAX_ID: Final = 255

# Close codes of ours: 4000 and the HTTP status that a request would have had.
BAD_MESSAGE: Final = 4400
TOKEN_GONE: Final = 4401
FORBIDDEN: Final = 4403
NO_TOKEN: Final = 4408
RATE: Final = 4429


class StreamQuery(msgspec.Struct):
    filter: str = ""
    since: str = ""
    full_state: bool = False
    set_presence: Literal["offline", "online", "unavailable"] = "online"
    use_state_after: bool = False
    access_token: str | None = None


class AuthParams(msgspec.Struct):
    access_token: str


class AckParams(msgspec.Struct):
    next_batch: str


@define(eq=False, repr=False)
class Streams:
    """All streams of this process, and what they stand on. `presence` is None on a server that keeps none."""

    access: AccessTokens
    last_seen: LastSeen
    clock: Clock
    service: SyncService
    parser: RequestParser
    requests: StreamRequests
    presence: Presence | None
    _count: int = field(default=0, init=False)
    _by_user: dict[UserId, set[Stream]] = field(factory=dict, init=False)
    _nameless: set[Stream] = field(factory=set, init=False)
    _draining: bool = field(default=False, init=False)

    @property
    def count(self) -> int:
        return self._count

    async def authenticate(self, token: str) -> Requester:
        """Raises: UnknownToken, UserLocked."""
        requester = self.access.get_requester(token) or await self.access.load_requester(token)
        if requester.is_locked:
            raise UserLocked
        return requester

    def check_room(self) -> None:
        """Raises: LimitExceeded."""
        if self._count >= MAX_STREAMS:
            raise LimitExceeded(60_000, "Too many streams")

    def add(self, stream: Stream) -> None:
        self._count += 1
        self._nameless.add(stream)
        if self._draining:
            stream.close(RESTART, "The server restarts")

    def name(self, stream: Stream, user_id: UserId) -> None:
        """The stream is the user's. Raises: LimitExceeded."""
        of_user = self._by_user.setdefault(user_id, set())
        if len(of_user) >= MAX_STREAMS_OF_USER:
            raise LimitExceeded(60_000, f"A user may have {MAX_STREAMS_OF_USER} streams")
        self._nameless.discard(stream)
        of_user.add(stream)

    def remove(self, stream: Stream, user_id: UserId | None) -> None:
        self._count -= 1
        self._nameless.discard(stream)
        of_user = self._by_user.get(user_id) if user_id is not None else None
        if of_user is not None and user_id is not None:
            of_user.discard(stream)
            if not of_user:
                del self._by_user[user_id]

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log: streams whose token may have been taken back look whether it was."""
        for user_id in {UserId(row.key) for row in rows if row.kind in FOLLOWED_KINDS}:
            for stream in tuple(self._by_user.get(user_id, ())):
                stream.check_token()

    def drain(self) -> None:
        """Close all: the server stops."""
        self._draining = True
        for stream in [*self._nameless, *(one for of_user in self._by_user.values() for one in of_user)]:
            stream.close(RESTART, "The server restarts")


@define(eq=False, repr=False)
class Stream:
    """One client's stream: a Session of a WebSocket, and the Outlet of a SyncStream."""

    streams: Streams
    query: StreamQuery
    client_ip: str
    user_agent: str | None
    token: str | None
    requester: Requester | None
    first: SyncRequest | None
    _socket: Socket | None = field(default=None, init=False)
    _sync: SyncStream | None = field(default=None, init=False)
    _queue: deque[bytes] = field(factory=deque, init=False)
    _working: bool = field(default=False, init=False)
    _writable: Deferred[None] | None = field(default=None, init=False)
    _timer: Any = field(default=None, init=False)

    # -- what the socket says ------------------------------------------------------------------------------------------

    def on_open(self, socket: Socket) -> None:
        self._socket = socket
        self.streams.add(self)
        if self.requester is None or self.first is None:
            self._timer = self.streams.clock.call_later(AUTH_WITHIN_MS, self.close, NO_TOKEN, "M_MISSING_TOKEN")
            return
        try:
            self._begin(self.requester, self.first)
        except LimitExceeded as error:
            self.close(RATE, error.errcode)

    def on_text(self, text: bytes) -> None:
        if self._socket is None or not self._socket.is_open:
            return
        self._queue.append(text)
        if len(self._queue) >= MAX_QUEUED:
            self._socket.pause_reading()
        if not self._working:
            self._working = True
            drive(self._work(), self._on_worked)

    def on_writable(self) -> None:
        if self._sync is not None:
            self._sync.on_writable()
        waiting, self._writable = self._writable, None
        if waiting is not None:
            waiting.callback(None)

    def on_close(self) -> None:
        if self._socket is None:
            return
        self._socket = None
        self._queue.clear()
        self._cancel_timer()
        self.streams.remove(self, self.requester.user_id if self._sync is not None and self.requester else None)
        if self._sync is not None:
            self._end_presence()
            self._sync.stop()
        self.on_writable()

    # -- what is said to it --------------------------------------------------------------------------------------------

    @property
    def is_writable(self) -> bool:
        return self._socket is not None and self._socket.is_writable

    def send_update(self, body: bytes) -> None:
        if self._socket is not None:
            self._socket.send(body)

    def close(self, code: int, reason: str) -> None:
        """Requests that wait are not begun, and no more are taken."""
        if self._socket is not None:
            self._queue.clear()
            self._socket.close(code, reason)
            self._socket.resume_reading()

    def check_token(self) -> None:
        """Close when the token is good no longer."""
        if self.token is not None and self._socket is not None:
            Deferred.fromCoroutine(self._check_token(self.token)).addErrback(_log_failure)

    async def _check_token(self, token: str) -> None:
        try:
            self.requester = await self.streams.authenticate(token)
        except UserLocked as error:
            self.close(FORBIDDEN, error.errcode)
        except MatrixError as error:
            soft = " soft_logout" if error.extra.get("soft_logout") else ""
            self.close(TOKEN_GONE, error.errcode + soft)
        else:
            self._watch_expiry(self.requester)

    # -- syncing -------------------------------------------------------------------------------------------------------

    def _begin(self, requester: Requester, request: SyncRequest) -> None:
        """Raises: LimitExceeded."""
        self.streams.name(self, requester.user_id)
        self.requester, self.first = requester, None
        self._cancel_timer()
        self._watch_expiry(requester)
        self.streams.last_seen.note(requester, self)
        if self.streams.presence is not None:
            self.streams.presence.begin_sync(requester.user_id, requester.device_id or "", self.query.set_presence)
        self._sync = SyncStream(self.streams.service, request, self)
        self._sync.drive = drive(self._sync.run(), self._on_sync_ended)
        if self.token is not None and self.streams.access.get_requester(self.token) is None:
            self.check_token()  # it may have been taken back since it was looked at, when nobody knew of this stream

    def _end_presence(self) -> None:
        if self.streams.presence is not None and self.requester is not None:
            device_id = self.requester.device_id or ""
            self.streams.presence.end_sync(self.requester.user_id, device_id, self.query.set_presence)

    def _on_sync_ended(self, _result: object, error: BaseException | None) -> None:
        if error is None or (isinstance(error, CancelledError) and self._socket is None):
            return
        if not isinstance(error, MatrixError):
            logger.error("A stream of %s failed", self.requester.user_id if self.requester else "?", exc_info=error)
        self.close(FAULT, "M_UNKNOWN")

    def _watch_expiry(self, requester: Requester) -> None:
        self._cancel_timer()
        if requester.expires_ts_ms is not None:
            left_ms = requester.expires_ts_ms - self.streams.clock.time_ms()
            self._timer = self.streams.clock.call_later(max(0, left_ms) + 1, self.check_token)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    # -- requests ------------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        """Does the requests in the order in which they came; each waits until the client has read the answers before."""
        while self._queue and self._socket is not None:
            text = self._queue.popleft()
            if len(self._queue) < MAX_QUEUED // 2:
                self._socket.resume_reading()
            answer = await self._answer(text)
            if answer is None or self._socket is None:
                return
            self._socket.send(answer)
            if not self.is_writable:
                self._writable = Deferred()
                await self._writable

    def _on_worked(self, _result: object, error: BaseException | None) -> None:
        self._working = False
        if error is not None:
            logger.error("Requests of a stream failed", exc_info=error)
            self.close(FAULT, "M_UNKNOWN")

    async def _answer(self, text: bytes) -> bytes | None:
        """None when the message makes no sense, and the stream closes."""
        try:
            id_, method, params = _parse(text)
        except MatrixError as error:
            self.send_update(orjson.dumps({"error": error.to_json()}))
            self.close(NOT_JSON if error.errcode == "M_NOT_JSON" else BAD_MESSAGE, error.errcode)
            return None
        try:
            result = encode_json(await self._call(method, params))
        except MatrixError as error:
            return orjson.dumps({"id": id_, "error": error.to_json()})
        except Exception:  # as at the boundary of a request over HTTP
            logger.exception("%s over a stream failed", method[:50])
            return orjson.dumps({"id": id_, "error": {"errcode": "M_UNKNOWN", "error": "Internal server error"}})
        return b'{"id":%b,"result":%b}' % (orjson.dumps(id_), result)

    async def _call(self, method: str, params: dict[str, Any]) -> Any:
        if method == "auth":
            return await self._authenticate(convert_params(params, AuthParams).access_token)
        if self.requester is None or self._sync is None:
            raise MissingToken("The first message must be auth, with an access_token")
        if method == "ack":
            return await self._acknowledge(self._sync, convert_params(params, AckParams).next_batch)
        self.streams.last_seen.note(self.requester, self)
        return await self.streams.requests.call(self.requester, method, params)

    async def _authenticate(self, token: str) -> dict[str, Any]:
        if self._sync is not None:
            raise Forbidden("The stream is authenticated already")
        requester = await self.streams.authenticate(token)
        request = await self.streams.parser.parse(requester, sync_query(self.query))
        if self._socket is not None and self._socket.is_open and self._sync is None:
            self.token = token
            self._begin(requester, request)
        return {"user_id": requester.user_id, "device_id": requester.device_id}

    async def _acknowledge(self, sync: SyncStream, next_batch: str) -> dict[str, Any]:
        token = parse_sync_token(next_batch, "next_batch")
        told = sync.request.since
        if told is None or token.position > told.position:
            raise InvalidParam("next_batch", "was not told yet")
        await sync.acknowledge(evolve(sync.request, since=token))
        return {}


def _parse(text: bytes) -> tuple[str, str, dict[str, Any]]:
    """(id, method, params). Raises: NotJson, BadJson."""
    value = decode_json(text)
    if not isinstance(value, dict):
        raise BadJson("A message must be an object")
    id_, method, params = value.get("id"), value.get("method"), value.get("params", {})
    if not isinstance(id_, str) or len(id_) > MAX_ID:
        raise BadJson(f"id: must be a string of at most {MAX_ID} characters")
    if not isinstance(method, str):
        raise BadJson("method: must be a string")
    if not isinstance(params, dict):
        raise BadJson("params: must be an object")
    return id_, method, params


def sync_query(query: StreamQuery) -> SyncQuery:
    return SyncQuery(
        filter=query.filter, since=query.since, full_state=query.full_state, use_state_after=query.use_state_after
    )


def _log_failure(failure: Any) -> None:
    logger.error("The token of a stream could not be checked: %s", failure.value)


class StreamEndpoint:
    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    @endpoint("GET", "/_matrix/client/unstable/im.hearth/stream", auth=Auth.NONE, tag="Room participation")
    async def get_stream(self, request: Request, query: StreamQuery) -> Upgrade:
        """A WebSocket with the subprotocol m.json: docs/clients/stream.md."""
        offered = check_upgrade(request)
        if query.access_token is not None:
            raise InvalidParam("access_token", "not in the URL: in the Authorization header, or in the first message")
        self._streams.check_room()
        client_ip, user_agent = request.client_ip, request.user_agent
        token = request.access_token or _offered_token(offered)
        requester, first = None, None
        if token is not None:
            requester = await self._streams.authenticate(token)
            first = await self._streams.parser.parse(requester, sync_query(query))
        elif query.since:
            parse_sync_token(query.since)
        stream = Stream(self._streams, query, client_ip, user_agent, token, requester, first)
        return Upgrade(PROTOCOL if PROTOCOL in offered else None, stream)


def _offered_token(offered: Sequence[str]) -> str | None:
    return next((name.removeprefix(TOKEN_PROTOCOL) for name in offered if name.startswith(TOKEN_PROTOCOL)), None)
