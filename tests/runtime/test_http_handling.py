"""Who may call, how handlers wait, and what becomes of their results and faults."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.web.client import FileBodyProducer

from homeserver.matrix.errors import Forbidden
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.config_sections import Rate, RateLimitsConfig
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request, current_request
from homeserver.runtime.http.response import RawJson, Response
from homeserver.runtime.rate_limit import RateLimiter
from tests.runtime.conftest import TIMEOUT_S, Serve, Served, Someone, build_request

_file_producer: Any = FileBodyProducer  # it has no annotations


class Result(msgspec.Struct):
    value: int


class Handlers:
    """Endpoints whose waiting the test controls."""

    def __init__(self) -> None:
        self.waiting: list[Deferred[Any]] = []
        self.entered = threading.Event()
        self.left = threading.Event()
        self.seen: list[object] = []

    def _wait(self) -> Deferred[Any]:
        deferred: Deferred[Any] = Deferred()
        self.waiting.append(deferred)
        self.entered.set()
        return deferred

    @endpoint("GET", "/user", auth=Auth.USER)
    async def get_user(self, requester: Someone) -> JsonObject:
        return {"user": requester.rate_limit_key}

    @endpoint("GET", "/guest", auth=Auth.GUEST_OK)
    def get_guest(self, requester: Someone) -> JsonObject:
        return {"user": requester.rate_limit_key}

    @endpoint("GET", "/optional", auth=Auth.OPTIONAL)
    def get_optional(self, requester: Someone | None) -> JsonObject:
        return {"user": requester and requester.rate_limit_key}

    @endpoint("POST", "/slow_body", auth=Auth.USER)
    async def post_slow_body(self, body: JsonObject) -> JsonObject:
        return body

    @endpoint("GET", "/wait", auth=Auth.NONE, long_poll=True)
    async def get_wait(self, request: Request) -> JsonObject:
        request.on_disconnect(lambda: self.seen.append("told"))
        try:
            value = await self._wait()
            return {"value": value, "request": current_request.get() is request}
        except CancelledError:
            self.seen.append("cancelled")
            raise
        finally:
            self.left.set()

    @endpoint("PUT", "/wait", auth=Auth.NONE)
    async def put_wait(self) -> JsonObject:
        self.seen.append(await self._wait())
        self.left.set()
        return {}

    @endpoint("GET", "/raw", auth=Auth.NONE)
    def get_raw(self) -> RawJson:
        return RawJson(b'{"raw":1}')

    @endpoint("GET", "/struct", auth=Auth.NONE)
    async def get_struct(self) -> list[Result]:
        return [Result(1), Result(2)]

    @endpoint("GET", "/nothing", auth=Auth.NONE)
    async def get_nothing(self) -> None: ...

    @endpoint("GET", "/teapot", auth=Auth.NONE)
    async def get_teapot(self) -> Response:
        return Response(418, Result(3), [("X-Pot", "short")])

    @endpoint("GET", "/image", auth=Auth.NONE)
    async def get_image(self) -> Response:
        return Response(200, b"\x89PNG", [("Content-Type", "image/png")])

    @endpoint("GET", "/stream", auth=Auth.NONE)
    async def get_stream(self) -> Response:
        return Response(200, self._chunks(), [("Content-Type", "text/plain")])

    async def _chunks(self) -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number

    @endpoint("GET", "/torrent", auth=Auth.NONE)
    async def get_torrent(self) -> Response:
        return Response(200, self._torrent(), [("Content-Type", "text/plain")])

    async def _torrent(self) -> AsyncIterator[bytes]:
        try:
            while True:
                self.seen.append("chunk")
                self.entered.set()
                yield b"x" * 65536
        finally:
            self.left.set()

    @endpoint("GET", "/broken_stream", auth=Auth.NONE)
    async def get_broken_stream(self) -> Response:
        return Response(200, self._broken(), [("Content-Type", "text/plain")])

    async def _broken(self) -> AsyncIterator[bytes]:
        yield b"half"
        raise RuntimeError("secret of the stream")

    @endpoint("GET", "/file", auth=Auth.NONE)
    async def get_file(self) -> Response:
        return Response(200, _file_producer(io.BytesIO(b"f" * 300_000)), [("Content-Type", "video/mp4")])

    @endpoint("GET", "/fault", auth=Auth.NONE)
    async def get_fault(self) -> None:
        raise RuntimeError("secret detail")

    @endpoint("GET", "/late_fault", auth=Auth.NONE)
    async def get_late_fault(self) -> None:
        await self._wait()

    @endpoint("GET", "/unencodable", auth=Auth.NONE)
    async def get_unencodable(self) -> object:
        return {"a": object()}

    @endpoint("GET", "/forbidden", auth=Auth.NONE)
    def get_forbidden(self) -> None:
        raise Forbidden("No entry", room="!a")

    @endpoint("GET", "/limited", auth=Auth.OPTIONAL, limit="message")
    def get_limited(self) -> None: ...


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
def served(serve: Serve, handlers: Handlers) -> Served:
    return serve(handlers)


# ---- Tokens ----


def test_token_is_taken_from_the_header_or_the_query(served: Served) -> None:
    assert served.get("/user", token="alice_token").json == {"user": "@alice:x"}
    assert served.get("/user?access_token=alice_token").json == {"user": "@alice:x"}
    assert served.get("/user", headers={"Authorization": "bearer alice_token"}).status == 200


def test_token_that_is_not_in_memory_is_looked_up(served: Served) -> None:
    assert served.get("/user", token="slow_token").json == {"user": "@slow:x"}
    assert served.request("POST", "/slow_body", b'{"a":1}', token="slow_token").json == {"a": 1}


@pytest.mark.parametrize("path", ["/user", "/guest"])
def test_no_token_is_a_missing_token(served: Served, path: str) -> None:
    answer = served.get(path)
    assert (answer.status, answer.json["errcode"]) == (401, "M_MISSING_TOKEN")
    assert "access-control-allow-origin" in answer.headers


@pytest.mark.parametrize("path", ["/user", "/guest", "/optional"])
def test_wrong_token_is_an_unknown_token(served: Served, path: str) -> None:
    answer = served.get(path, token="wrong")
    assert (answer.status, answer.json["errcode"]) == (401, "M_UNKNOWN_TOKEN")


def test_guest_may_only_go_where_guests_may(served: Served) -> None:
    assert served.get("/guest", token="guest_token").status == 200
    answer = served.get("/user", token="guest_token")
    assert (answer.status, answer.json["errcode"]) == (403, "M_GUEST_ACCESS_FORBIDDEN")


def test_optional_token_may_be_absent(served: Served) -> None:
    assert served.get("/optional").json == {"user": None}
    assert served.get("/optional", token="alice_token").json == {"user": "@alice:x"}


def test_authenticated_requests_are_noted(serve: Serve, handlers: Handlers) -> None:
    served = serve(handlers, on_authenticated=lambda who, request: handlers.seen.append(who.rate_limit_key))
    served.get("/user", token="alice_token")
    served.get("/user", token="slow_token")
    served.get("/user", token="wrong")
    assert handlers.seen == ["@alice:x", "@slow:x"]


# ---- Rate limits ----


def test_too_many_requests_are_told_when_to_come_back(serve: Serve, handlers: Handlers) -> None:
    limiter = RateLimiter(ManualClock(), RateLimitsConfig(message=Rate(per_second=0.5, burst=2)))
    served = serve(handlers, limiter=limiter)
    assert [served.get("/limited", token="alice_token").status for _ in range(2)] == [200, 200]
    answer = served.get("/limited", token="alice_token")
    assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert (answer.json["retry_after_ms"], answer.headers["retry-after"]) == (2000, "2")
    assert served.get("/limited").status == 200, "another key: the address"


def test_site_refuses_an_endpoint_with_an_unknown_limit(serve: Serve) -> None:
    class Wrong:
        @endpoint("GET", "/x", auth=Auth.NONE, limit="no_such_kind")
        def get_x(self) -> None: ...

    with pytest.raises(ValueError, match="no_such_kind"):
        serve(Wrong(), limiter=RateLimiter(ManualClock(), RateLimitsConfig()))


# ---- Waiting ----


def test_waiting_handler_answers_when_its_deferred_fires(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/wait"))
    assert handlers.entered.wait(TIMEOUT_S)
    in_reactor(handlers.waiting[0].callback, 7)
    assert connection.answer().json == {"value": 7, "request": True}


def test_client_that_leaves_cancels_a_waiting_get_and_calls_back(served: Served, handlers: Handlers) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/wait"))
    assert handlers.entered.wait(TIMEOUT_S)
    connection.close()
    assert handlers.left.wait(TIMEOUT_S)
    assert handlers.seen == ["told", "cancelled"]


def test_client_that_leaves_does_not_cancel_a_change(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    connection = served.connect()
    connection.send(build_request("PUT", "/wait", b"{}"))
    assert handlers.entered.wait(TIMEOUT_S)
    connection.close()
    while in_reactor(lambda: len(served.site.channels)):
        pass
    in_reactor(handlers.waiting[0].callback, "done")
    assert handlers.left.wait(TIMEOUT_S)
    assert handlers.seen == ["done"]


def test_request_sent_while_another_waits_is_answered_after_it(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/wait") + build_request("GET", "/raw"))
    assert handlers.entered.wait(TIMEOUT_S)
    in_reactor(handlers.waiting[0].callback, 1)
    assert [connection.answer().json.get("value"), connection.answer().json.get("raw")] == [1, 1]


def test_held_answers_go_out_at_the_end_or_before_their_connection_closes(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    staying, leaving = served.connect(), served.connect()
    staying.send(build_request("GET", "/wait"))
    leaving.send(build_request("GET", "/wait", headers={"Connection": "close"}))
    while in_reactor(lambda: len(handlers.waiting)) < 2:
        pass
    outgoing = served.site.outgoing

    def answer_both() -> list[int]:
        held = []
        with outgoing.together():
            for waiting in handlers.waiting:
                waiting.callback("x" * 100_000)
                with outgoing.together():
                    held.append(len(outgoing.held or ()))
        return held

    held = in_reactor(answer_both)
    assert max(held) == 1 and outgoing.held is None
    assert staying.answer().json["value"] == leaving.answer().json["value"] == "x" * 100_000
    assert leaving.rest() == b""
    staying.send(build_request("GET", "/raw"))
    assert staying.answer().json == {"raw": 1}


@pytest.mark.parametrize(
    "behind",
    [b"GARBAGE\r\n\r\n", build_request("PUT", "/wait", headers={"Expect": "100-continue", "Content-Length": "2"})],
)
def test_held_answer_comes_before_what_answers_the_next_request(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any], behind: bytes
) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/wait") + behind)
    assert handlers.entered.wait(TIMEOUT_S)

    def answer() -> None:
        with served.site.outgoing.together():
            handlers.waiting[0].callback(1)

    in_reactor(answer)
    assert connection.answer().json["value"] == 1
    assert connection.line().startswith((b"HTTP/1.1 400", b"HTTP/1.1 100"))


def test_draining_site_answers_what_waits_and_closes(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    waiting, idle = served.connect(), served.connect()
    idle.send(build_request("GET", "/raw"))
    assert idle.answer().status == 200
    waiting.send(build_request("GET", "/wait"))
    assert handlers.entered.wait(TIMEOUT_S)
    drained = in_reactor(lambda: [served.site.drain()])[0]
    assert idle.rest() == b""
    assert not drained.called
    in_reactor(handlers.waiting[0].callback, 1)
    answer = waiting.answer()
    assert (answer.json["value"], answer.headers["connection"]) == (1, "close")
    assert waiting.rest() == b""
    in_reactor(lambda: drained)


# ---- Results ----


def test_results_of_all_kinds_are_encoded(served: Served) -> None:
    assert served.get("/raw").json == {"raw": 1}
    assert served.get("/struct").json == [{"value": 1}, {"value": 2}]
    assert served.get("/nothing").body == b"{}"


def test_response_carries_its_status_and_headers(served: Served) -> None:
    answer = served.get("/teapot")
    assert (answer.status, answer.json, answer.headers["x-pot"]) == (418, {"value": 3}, "short")
    image = served.get("/image")
    assert (image.body, image.headers["content-type"]) == (b"\x89PNG", "image/png")


def test_stream_is_sent_in_chunks(served: Served) -> None:
    answer = served.get("/stream")
    assert (answer.body, answer.headers["transfer-encoding"]) == (b"012", "chunked")
    assert served.request("HEAD", "/stream").body == b""


def test_producer_with_a_length_is_sent_with_it(served: Served) -> None:
    answer = served.get("/file")
    assert (len(answer.body), answer.headers["content-length"]) == (300_000, "300000")
    assert served.request("HEAD", "/file").headers["content-length"] == "300000"


def test_stream_waits_for_a_slow_client_and_ends_when_it_leaves(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/torrent"))
    assert handlers.entered.wait(TIMEOUT_S)
    before = -1
    while before != (before := in_reactor(lambda: len(handlers.seen))):
        pass
    assert before < 1000
    connection.close()
    assert handlers.left.wait(TIMEOUT_S)


def test_stream_that_breaks_breaks_the_connection(served: Served) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/broken_stream"))
    with pytest.raises(Exception, match=r"IncompleteRead|reset"):
        connection.answer()


@pytest.mark.parametrize("path", ["/fault", "/unencodable"])
def test_fault_of_ours_is_logged_and_tells_nothing(served: Served, path: str, caplog: pytest.LogCaptureFixture) -> None:
    answer = served.get(path)
    assert (answer.status, answer.json["errcode"]) == (500, "M_UNKNOWN")
    assert b"secret" not in answer.body
    assert any(record.exc_info for record in caplog.records)


def test_fault_after_waiting_is_answered_too(
    served: Served, handlers: Handlers, in_reactor: Callable[..., Any]
) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/late_fault"))
    assert handlers.entered.wait(TIMEOUT_S)
    in_reactor(handlers.waiting[0].errback, RuntimeError("secret"))
    assert connection.answer().status == 500


def test_matrix_error_is_shown_with_its_extra_fields(served: Served) -> None:
    answer = served.get("/forbidden")
    assert answer.status == 403
    assert answer.json == {"errcode": "M_FORBIDDEN", "error": "No entry", "room": "!a"}


def test_access_log_has_the_template_and_user_but_no_token(
    served: Served, in_reactor: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "homeserver.access"):
        served.get("/user?access_token=alice_token")
        in_reactor(int)  # the line is written after the answer
    line = next(record.getMessage() for record in caplog.records if record.name == "homeserver.access")
    assert line.startswith("GET /user 200 ")
    assert line.endswith("@alice:x")
    assert "alice_token" not in caplog.text
