"""One request, from its first header to the last byte of its answer.

The idea: nothing is built that isn't asked for. twisted.web's own Request makes two header objects, a file
for the body, cookies and parsed arguments for each request (some 30 us and 3 KiB); this one keeps the header
values in a dict, the body as the chunks that came, and writes the answer in one piece. It speaks the
interface that HTTPChannel expects of a request.

A handler that answers from memory runs to its end within `requestReceived`; one that waits is continued by a
`Drive`. By then the body has been let go; the headers too where the endpoint is declared `long_poll`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import CancelledError

from homeserver.matrix.errors import (
    Forbidden,
    InvalidParam,
    LimitExceeded,
    MatrixError,
    MissingToken,
    TooLarge,
)
from homeserver.runtime.coroutine import Drive, drive
from homeserver.runtime.db import DatabaseFault
from homeserver.runtime.http import answer
from homeserver.runtime.http.body import SpooledBody, parse_pairs
from homeserver.runtime.http.endpoint import DEFAULT_MAX_BODY_BYTES, Auth
from homeserver.runtime.http.plan import Plan
from homeserver.runtime.http.response import Response, encode_json
from homeserver.runtime.websocket import Upgrade, upgrade

if TYPE_CHECKING:
    from homeserver.runtime.http.site import Channel

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("homeserver.access")

current_request: ContextVar[Request | None] = ContextVar("current_request", default=None)

_BEARER: Final = b"bearer "
_NO_HEADERS: Final[dict[bytes, bytes]] = {}


class Request:
    """A request that is being read, handled or answered."""

    __slots__ = (
        "_address",
        "_arguments",
        "_body_bytes",
        "_chunks",
        "_drive",
        "_error",
        "_headers",
        "_max_body_bytes",
        "_on_disconnect",
        "_on_end",
        "_path",
        "_plan",
        "_query",
        "_spool",
        "_started_s",
        "_stream",
        "_token",
        "channel",
        "disconnected",
        "finished",
        "http_1_0",
        "method",
        "number",
        "requester",
        "status",
    )

    def __init__(self, channel: Channel, queued: object = None) -> None:
        self.channel: Channel | None = channel
        self.method = ""
        self._path = b""
        self._query = b""
        self._headers: dict[bytes, bytes] = {}
        self._chunks: list[bytes] | None = None
        self._body_bytes = 0
        self._max_body_bytes = DEFAULT_MAX_BODY_BYTES
        self._spool: SpooledBody | None = None
        self._plan: Plan | None = None
        self._arguments: list[str] = []
        self._error: MatrixError | None = None
        self._drive: Drive | None = None
        self._on_disconnect: list[Callable[[], object]] | None = None
        self._on_end: Callable[[], object] | None = None
        self._stream: Any = None
        self._token: str | None = None
        self._address: str | None = None
        self.requester: Any = None
        self.disconnected = False
        self.finished = False
        self.http_1_0 = False
        self.status = 0
        self.number = 0
        self._started_s = 0.0

    # ---- What handlers and authenticators may ask ----

    @property
    def path(self) -> str:
        """The path as it was sent: percent-encoded, without the query."""
        return self._path.decode("latin-1")

    @property
    def uri(self) -> bytes:
        """Path and query as they were sent."""
        return self._path + b"?" + self._query if self._query else self._path

    @property
    def query_string(self) -> bytes:
        return self._query

    @property
    def content(self) -> bytes:
        """The body; gone once the handler runs (it gets its own form of it)."""
        chunks = self._chunks
        if not chunks:
            return b""
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def header(self, name: str) -> str | None:
        """A header's value; several of one name are joined by commas. Gone while a long poll waits."""
        value = self._headers.get(name.lower().encode("latin-1"))
        return None if value is None else value.decode("utf-8", "replace")

    @property
    def user_agent(self) -> str | None:
        return self.header("user-agent")

    @property
    def client_ip(self) -> str:
        """The client's address, through the proxies that the listener trusts."""
        if self._address is None:
            assert self.channel is not None
            self._address = self.channel.client_address(self._headers.get(b"x-forwarded-for"))
        return self._address

    @property
    def request_id(self) -> str:
        """Names this request in the logs."""
        return f"{self.method}-{self.number}"

    @property
    def access_token(self) -> str | None:
        """The token from `Authorization: Bearer`, or else from the query string.

        Spec: client-server-api#using-access-tokens
        """
        if self._token is None:
            self._token = self._find_token()
        return self._token or None

    def on_disconnect(self, callback: Callable[[], object]) -> None:
        """Calls back, once, when the client goes away before it got its answer."""
        if self._on_disconnect is None:
            self._on_disconnect = []
        self._on_disconnect.append(callback)

    def on_end(self, callback: Callable[[], object]) -> None:
        """Calls back, once, when the request is over: answered, or its client gone. There is one such callback."""
        if self.finished:
            callback()
        else:
            self._on_end = callback

    @property
    def template(self) -> str:
        """The path as declared, for logs and metrics."""
        return self._plan.template if self._plan is not None else "unmatched"

    def _find_token(self) -> str:
        authorization = self._headers.get(b"authorization")
        if authorization is not None:
            if authorization[:7].lower() == _BEARER:
                return authorization[7:].strip().decode("utf-8", "replace")
            return ""
        if b"access_token" in self._query:
            for name, value in parse_pairs(self._query, {"access_token"}):
                return value if name else ""
        return ""

    # ---- Reading: called by the channel ----

    def start(self, method: bytes, target: bytes, length: int | None) -> bool:
        """All headers are there; `length` is the body's, None if chunked. False: don't read the body."""
        assert self.channel is not None
        site = self.channel.site
        self.number = site.next_number()
        self._started_s = time.perf_counter()
        self.method = method.decode("ascii")
        self._split(target)
        if self.method == "OPTIONS":
            return self._check_length(length)
        try:
            if not self._path.isascii():
                raise InvalidParam("path", "not percent-encoded")
            self._plan, self._arguments = site.router.match(self.method, self._path, site.resources)
        except MatrixError as error:
            self._error = error
            return self._check_length(length)
        self._max_body_bytes = self._plan.declaration.max_body_bytes
        if self._plan.spools:
            return self._start_spooling(self._plan, length)
        return self._check_length(length)

    def _start_spooling(self, plan: Plan, length: int | None) -> bool:
        """What may be large is not taken from just anybody: who sends it is asked before the body is read."""
        assert self.channel is not None
        spooling = self.channel.site.spooling
        self._max_body_bytes = spooling.max_bytes
        if not self._check_length(length):
            return False
        self._spool = SpooledBody(spooling.folder)
        auth = plan.declaration.auth
        try:
            if auth is Auth.NONE or self._authenticate_from_memory(auth):
                return True
        except MatrixError as error:
            self._refuse(error)
            return False
        channel = self.channel
        channel.pause_reading()
        authenticating = channel.site.authenticator.authenticate(self, auth)
        drive(authenticating, lambda _, error: self._vetted(channel, error))
        return not self.finished

    def _vetted(self, channel: Channel, error: BaseException | None) -> None:
        """Read on. A small body may be there already, and the request answered: then the next one is waited for."""
        if self.disconnected:
            return
        channel.resume_reading()
        if error is not None and self._spool is not None and not self.finished:
            self._refuse(error)

    def _split(self, target: bytes) -> None:
        if not target.startswith(b"/") and b"://" in target:  # absolute-form, RFC 9112 section 3.2.2
            target = b"/" + target.partition(b"://")[2].partition(b"/")[2]
        self._path, _, self._query = target.partition(b"?")

    def _check_length(self, length: int | None) -> bool:
        if length is not None and length > self._max_body_bytes:
            self._refuse_body()
            return False
        return True

    def handleContentChunk(self, data: bytes) -> None:
        if self.finished:
            return
        self._body_bytes += len(data)
        assert self.channel is not None
        self.channel.on_body_data(self._body_bytes)
        if self._body_bytes > self._max_body_bytes:
            self._refuse_body()
        elif self._spool is not None:
            self._write_spool(self._spool, data)
        elif self._chunks is None:
            self._chunks = [data]
        else:
            self._chunks.append(data)

    def _write_spool(self, spool: SpooledBody, data: bytes) -> None:
        try:
            spool.write(data)
        except OSError as error:  # the disk is full
            self._refuse(error)

    def _refuse_body(self) -> None:
        self._refuse(TooLarge(f"The body is larger than the {self._max_body_bytes} bytes allowed here"))

    def _refuse(self, error: BaseException) -> None:
        """Answers before the body has been read."""
        assert self.channel is not None
        self._drop()
        self.channel.persistent = False
        self.channel.stop_reading()
        self.answer_error(error)

    def requestReceived(self, command: bytes, target: bytes, version: bytes) -> None:
        """The whole request is there."""
        current_request.set(self)
        try:
            self._process()
        except Exception as error:
            self.answer_error(error)
        finally:
            current_request.set(None)

    # ---- Handling ----

    def _process(self) -> None:
        if self._error is not None:
            raise self._error
        plan = self._plan
        if plan is None:
            answer.write_preflight(self)
            return
        auth = plan.declaration.auth
        if auth is not Auth.NONE and not self._authenticate_from_memory(auth):
            self._run(self._authenticate(plan, auth))
            return
        self._call(plan)

    def _authenticate_from_memory(self, auth: Auth) -> bool:
        if auth is Auth.SERVER:
            return False
        token = self.access_token
        if token is None:
            if auth is Auth.OPTIONAL:
                return True
            raise MissingToken()
        assert self.channel is not None
        requester = self.channel.site.authenticator.get_requester(token)
        if requester is None:
            return False
        self._admit(requester, auth)
        return True

    async def _authenticate(self, plan: Plan, auth: Auth) -> Any:
        assert self.channel is not None
        requester = await self.channel.site.authenticator.authenticate(self, auth)
        if self.disconnected:
            raise CancelledError
        if requester is not None:
            self._admit(requester, auth)
        result = self._invoke(plan)
        if plan.declaration.long_poll:
            self._forget_headers()
        return await result if plan.is_async else result

    def _admit(self, requester: Any, auth: Auth) -> None:
        if auth is Auth.USER and requester.is_guest:
            raise Forbidden("Guests may not do this", errcode="M_GUEST_ACCESS_FORBIDDEN")
        self.requester = requester
        assert self.channel is not None
        on_authenticated = self.channel.site.on_authenticated
        if on_authenticated is not None and auth is not Auth.SERVER:
            on_authenticated(requester, self)

    def _call(self, plan: Plan) -> None:
        result = self._invoke(plan)
        if not plan.is_async:
            answer.write_result(self, result)
            return
        self._run(result)
        if self._drive is not None and plan.declaration.long_poll:
            self._forget_headers()

    def _invoke(self, plan: Plan) -> Any:
        limit = plan.declaration.limit
        if limit is not None:
            self._check_rate(limit)
        arguments: dict[str, Any] = {}
        if plan.wants_request:
            arguments["request"] = self
        if plan.wants_requester:
            arguments["requester"] = self.requester
        if plan.parse_path is not None:
            arguments["path"] = plan.bind_path(self._arguments)
        if plan.parse_query is not None:
            arguments["query"] = plan.parse_query(self._query)
        if plan.parse_body is not None:
            arguments["body"] = plan.parse_body(self.content, plan.declaration.optional_body)
        elif plan.spools:
            arguments["body"] = self._hand_over_spool()
        self._chunks = None
        return plan.call(**arguments)

    def _check_rate(self, kind: str) -> None:
        assert self.channel is not None
        limiter = self.channel.site.limiter
        if limiter is not None:
            limiter.check(kind, self.client_ip if self.requester is None else self.requester.rate_limit_key)

    def _hand_over_spool(self) -> SpooledBody:
        assert self._spool is not None
        spool, self._spool = self._spool, None
        spool.file.seek(0)
        return spool

    def _run(self, coroutine: Any) -> None:
        self._drive = drive(coroutine, self._done)

    def _forget_headers(self) -> None:
        """Let go of what a handler that waits for long has been given already."""
        encoding = self._headers.get(b"accept-encoding")
        self._headers = _NO_HEADERS if encoding is None else {b"accept-encoding": encoding}
        self._query = b""

    def _done(self, result: Any, error: BaseException | None) -> None:
        self._drive = None
        if error is not None:
            self.answer_error(error)
            return
        try:
            answer.write_result(self, result)
        except Exception as fault:
            self.answer_error(fault)

    # ---- Answering ----

    def answer_error(self, error: BaseException) -> None:
        """Answers with the error's status and JSON; what is no MatrixError is our fault: logged, answered 500. So is 503, where
        the database is away: what was asked for may be done by and by.
        """
        if isinstance(error, MatrixError):
            answer.write_result(self, Response(error.status, error.to_json(), _headers_of(error)))
            return
        if isinstance(error, CancelledError) and self.disconnected:
            return
        extra = {"request_id": self.request_id}  # a request may fail before its body is there
        logger.error("%s %s failed", self.method, self.template, exc_info=error, extra=extra)
        if self.status:  # the head of an answer is out already: all that is left is to break off
            self.abort()
            return
        status, text = 500, "Internal server error"
        if isinstance(error, DatabaseFault):
            status, text = 503, "The database is not available, try again"
        body = {"errcode": "M_UNKNOWN", "error": text, "request_id": self.request_id}
        answer.write_json(self, status, encode_json(body))

    def finish(self) -> None:
        """The whole answer has been handed to the connection."""
        channel = self.channel
        assert channel is not None
        self.finished = True
        self._stream = None
        self._on_disconnect = None
        self._drop()
        self._account(channel)
        self._end()
        self.channel = None
        channel.requestDone(self)

    def upgrade(self, result: Upgrade) -> None:
        """Gives the connection away; what comes over it is no request's any more."""
        channel = self.channel
        if self.finished or channel is None:
            return
        upgraded, head = upgrade(self, channel, result)
        self.finished = True
        self.status = 101
        self._on_disconnect = None
        self._drop()
        self._account(channel)
        self._end()
        self.channel = None
        self._headers = _NO_HEADERS
        channel.upgrade(upgraded, head)

    def abort(self) -> None:
        """Drops the connection in the middle of an answer, so that the client sees that it is incomplete."""
        if self.channel is not None:
            self.channel.abort()

    def connectionLost(self, reason: object) -> None:
        """The client has gone away."""
        self.disconnected = True
        if self.channel is not None and self._started_s and not self.finished:
            self._account(self.channel)
        self.finished = True
        self.channel = None
        self._drop()
        self._end()
        callbacks, self._on_disconnect = self._on_disconnect, None
        for callback in callbacks or ():
            callback()
        if self._stream is not None:
            self._stream.on_lost()
        if self._drive is not None and self._plan is not None and self._plan.declaration.cancellable:
            self._drive.cancel()

    def _drop(self) -> None:
        self._chunks = None
        if self._spool is not None:
            self._spool.file.close()
            self._spool = None

    def _end(self) -> None:
        callback, self._on_end = self._on_end, None
        if callback is not None:
            callback()

    def _account(self, channel: Channel) -> None:
        """Counts and logs. Neither path nor query are written: they may hold tokens."""
        seconds = time.perf_counter() - self._started_s
        status = self.status or 499
        plan = self._plan or channel.site.unmatched
        plan.record(status, seconds)
        if access_logger.isEnabledFor(logging.INFO):
            who = self.requester.rate_limit_key if self.requester is not None else self.client_ip
            access_logger.info(
                "%s %s %d %.1f ms %s", self.method, plan.template, status, seconds * 1000, who,
                extra={"request_id": self.request_id},
            )  # fmt: skip


def add_header(headers: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    held = headers.get(name)
    headers[name] = value if held is None else held + b", " + value


def _headers_of(error: MatrixError) -> list[tuple[str, str]]:
    if isinstance(error, LimitExceeded):
        return [("Retry-After", str(-(-error.retry_after_ms // 1000)))]
    allowed = getattr(error, "allowed", None)
    return [("Allow", ", ".join(allowed))] if allowed else []
