"""A request means the same however the network cuts it up: read whole in one go, or byte by byte by twisted.web."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock, StringTransport

from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App, Site
from tests.runtime.conftest import Tokens

CUTS = settings(max_examples=400)
BODY = b'{"a":1}'
DATE = re.compile(rb"Date: [^\r]*\r\n")


class Echo:
    @endpoint("POST", "/echo", auth=Auth.NONE)
    def post_echo(self, request: Request, body: JsonObject) -> JsonObject:
        seen = {name.decode("latin-1"): value.decode("latin-1") for name, value in request._headers.items()}
        return {"body": body, "headers": seen, "query": request.query_string.decode("latin-1")}


def answers(*parts: bytes) -> tuple[bytes, bool]:
    """What the server writes when it reads these, and whether it closes the connection."""
    reactor: Any = MemoryReactorClock()
    router = Router()
    router.add(Echo())
    site = Site(App(reactor, router, Tokens(reactor)))
    channel: Any = site.buildProtocol(None)
    transport = StringTransport()
    channel.makeConnection(transport)
    for part in parts:
        if not transport.disconnecting:  # a connection that closes is read no further
            channel.dataReceived(part)
    return DATE.sub(b"", transport.value()), transport.disconnecting


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


names = st.sampled_from(
    [b"Host", b"content-length", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Expect", b"Upgrade", b"X-A"]
) | st.binary(max_size=5)
values = st.sampled_from(
    [b"7", b"07", b"+7", b"8", b"0", b"7, 7", b"chunked", b"identity", b"close", b"100-continue", b" x \t", b"a\rb"]
) | st.binary(max_size=5)
fields = st.tuples(names, st.sampled_from([b": ", b":", b" : "]), values).map(b"".join)
folded = st.sampled_from([b" more", b"\tmore", b"", b"no colon"])
lines = st.lists(fields | folded, max_size=5)
firsts = st.sampled_from(
    [
        b"POST /echo HTTP/1.1",
        b"POST /echo?a=b HTTP/1.1",
        b"POST /echo HTTP/1.0",
        b"POST  /echo HTTP/1.1",
        b"POST /echo HTTP/1.1 ",
        b"post /echo HTTP/1.1",
        b"POST /e\x80cho HTTP/1.1",
        b"POST /echo",
        b"",
    ]
)
endings = st.sampled_from([BODY, b"", BODY[:-1], BODY + b"x", BODY + b"\r\n", b"7\r\n" + BODY + b"\r\n0\r\n\r\n"])


@CUTS
@given(first=firsts, fields=lines, body=endings)
def test_a_request_means_the_same_whole_and_in_pieces(first: bytes, fields: list[bytes], body: bytes) -> None:
    data = b"\r\n".join([first, *fields, b"", b""]) + body
    assert answers(data) == answers(*byte_by_byte(data))


def test_requests_in_one_connection_are_answered_alike() -> None:
    one = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n" + BODY
    whole, closed = answers(one, one, one)
    assert whole.count(b"HTTP/1.1 200") == 3
    assert not closed
    for parts in [[one * 3], byte_by_byte(one * 3), [one + one[:20], one[20:] + one]]:
        assert answers(*parts) == (whole, closed)


def test_nothing_is_read_after_a_request_that_closes() -> None:
    last = b"POST /echo HTTP/1.1\r\nConnection: close\r\nContent-Length: 7\r\n\r\n" + BODY
    written, closed = answers(last, last)
    assert written.count(b"HTTP/1.1 200") == 1
    assert closed


def test_a_connection_takes_no_headers_of_an_earlier_request() -> None:
    def request(path: bytes, *fields: bytes) -> bytes:
        return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"Content-Length: 7", *fields, b"", BODY])

    requests = [
        request(b"/echo", b"X-A: 1"),
        request(b"/echo?n=2", b"X-A: 1"),
        request(b"/echo", b"X-A: 2", b"X-B: 1"),
        request(b"/echo"),
        request(b"/echo", b"X-A: 1", b"X-A: 3"),
        request(b"/echo", b"X-Long: " + b"x" * 4000),
        request(b"/echo"),
    ]
    whole, closed = answers(*requests)
    assert (whole, closed) == answers(*byte_by_byte(b"".join(requests)))
    assert whole.count(b'"x-a":"1"') == 2
    assert whole.count(b'"x-a":"1, 3"') == 1
    assert whole.count(b'"x-long"') == 1
