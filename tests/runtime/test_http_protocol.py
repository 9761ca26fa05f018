"""HTTP itself: methods, framing, limits, connections."""

from __future__ import annotations

import gzip
import select
from ipaddress import ip_network

import pytest
from attrs import evolve

from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.site import TimeLimits
from tests.runtime.conftest import TIMEOUT_S, Connection, Serve, Served, build_request

LIMIT = 1000


class Plain:
    @endpoint("GET", "/_matrix/client/v3/thing", auth=Auth.NONE)
    async def get_thing(self) -> JsonObject:
        return {"thing": 1}

    @endpoint("PUT", "/_matrix/client/v3/thing", auth=Auth.NONE, max_body_bytes=LIMIT)
    async def put_thing(self, body: JsonObject) -> JsonObject:
        return {"got": len(body)}

    @endpoint("GET", "/things/{name}", auth=Auth.NONE, aliases=("/old/{name}",))
    def get_named(self) -> JsonObject:
        return {"named": True}

    @endpoint("POST", "/things/special", auth=Auth.NONE)
    def post_special(self) -> None: ...

    @endpoint("GET", "/files/{path*}", auth=Auth.NONE)
    def get_file(self, request: Request) -> JsonObject:
        return {"file": request.path}

    @endpoint("GET", "/ip", auth=Auth.NONE)
    def get_ip(self, request: Request) -> JsonObject:
        return {"ip": request.client_ip}

    @endpoint("GET", "/internal", auth=Auth.NONE, resource="metrics")
    def get_internal(self) -> JsonObject:
        return {}

    @endpoint("GET", "/large", auth=Auth.NONE)
    def get_large(self) -> JsonObject:
        return {"text": "a" * 5000}

    @endpoint("GET", "/huge", auth=Auth.NONE)
    def get_huge(self) -> JsonObject:
        return {"text": "a" * 5_000_000}


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(Plain())


def is_cors(headers: dict[str, str]) -> bool:
    return (
        headers["access-control-allow-origin"] == "*"
        and "PUT" in headers["access-control-allow-methods"]
        and "Authorization" in headers["access-control-allow-headers"]
    )


def test_answer_is_json_with_headers_for_browsers(served: Served) -> None:
    answer = served.get("/_matrix/client/v3/thing")
    assert (answer.status, answer.json) == (200, {"thing": 1})
    assert answer.headers["content-type"] == "application/json"
    assert is_cors(answer.headers)


def test_options_is_answered_everywhere_without_calling_the_endpoint(served: Served) -> None:
    for path in ("/_matrix/client/v3/thing", "/nowhere", "*"):
        answer = served.request("OPTIONS", path)
        assert (answer.status, answer.body) == (204, b"")
        assert is_cors(answer.headers)


def test_unknown_path_is_unrecognized(served: Served) -> None:
    for path in ("/nowhere", "/", "//", "/_matrix/client/v3/thing/", "/things", "/%ff"):
        answer = served.get(path)
        assert answer.json["errcode"] in ("M_UNRECOGNIZED", "M_INVALID_PARAM"), path
        assert is_cors(answer.headers)
    assert served.get("/nowhere").status == 404


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "FOO", "get"])
def test_wrong_method_is_unrecognized_and_told_what_is_allowed(served: Served, method: str) -> None:
    answer = served.request(method, "/_matrix/client/v3/thing")
    assert (answer.status, answer.json["errcode"]) == (405, "M_UNRECOGNIZED")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, PUT"


def test_head_is_get_without_the_body(served: Served) -> None:
    answer = served.request("HEAD", "/_matrix/client/v3/thing")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "11")


def test_v3_paths_are_served_under_r0_and_aliases_too(served: Served) -> None:
    assert served.get("/_matrix/client/r0/thing").json == {"thing": 1}
    assert served.get("/old/x").json == {"named": True}


def test_literal_segment_wins_but_does_not_hide_the_parameter(served: Served) -> None:
    assert served.request("POST", "/things/special").status == 200
    assert served.get("/things/special").json == {"named": True}


def test_rest_parameter_takes_all_segments(served: Served) -> None:
    assert served.get("/files/a/b/c").json == {"file": "/files/a/b/c"}


def test_resource_that_a_listener_lacks_is_unknown_there(serve: Serve) -> None:
    outside = serve(Plain(), resources=frozenset({"client"}))
    assert outside.get("/internal").status == 404
    assert serve(Plain()).get("/internal").status == 200


def test_absolute_form_of_a_target_is_understood(served: Served) -> None:
    assert served.get("http://example.org/_matrix/client/v3/thing").status == 200


def test_chunked_body_is_read(served: Served) -> None:
    connection = served.connect()
    head = build_request("PUT", "/_matrix/client/v3/thing", headers={"Transfer-Encoding": "chunked"})
    connection.send(head + b'3\r\n{"a\r\n4;x=y\r\n":1}\r\n0\r\n\r\n')
    assert connection.answer().json == {"got": 1}


def test_client_that_expects_continue_is_told_to(served: Served) -> None:
    connection = served.connect()
    headers = {"Expect": "100-continue", "Content-Length": "2"}
    connection.send(build_request("PUT", "/_matrix/client/v3/thing", headers=headers))
    assert connection.line() == b"HTTP/1.1 100 Continue\r\n"
    assert connection.line() == b"\r\n"
    connection.send(b"{}")
    assert connection.answer().json == {"got": 0}


def test_too_large_body_is_refused_at_its_length_header(served: Served) -> None:
    connection = served.connect()
    headers = {"Content-Length": str(LIMIT + 1), "Expect": "100-continue"}
    connection.send(build_request("PUT", "/_matrix/client/v3/thing", headers=headers))
    answer = connection.answer()
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")
    assert answer.headers["connection"] == "close"
    assert is_cors(answer.headers)
    assert connection.rest() == b""


def test_too_large_chunked_body_is_refused_at_the_byte_beyond(served: Served) -> None:
    connection = served.connect()
    connection.send(build_request("PUT", "/_matrix/client/v3/thing", headers={"Transfer-Encoding": "chunked"}))
    connection.send(b"%x\r\n%b\r\n" % (LIMIT, b" " * LIMIT) + b"1\r\n \r\n")
    answer = connection.answer()
    assert (answer.status, answer.json["errcode"]) == (413, "M_TOO_LARGE")


def test_answer_to_a_too_large_body_reaches_a_client_that_sends_it_all(served: Served) -> None:
    body = b" " * 5_000_000
    answer = served.request("PUT", "/_matrix/client/v3/thing", body)
    assert answer.status == 413


def test_body_of_just_the_limit_is_taken(served: Served) -> None:
    body = b"{" + b" " * (LIMIT - 2) + b"}"
    assert served.request("PUT", "/_matrix/client/v3/thing", body).status == 200


def test_body_for_an_unknown_path_is_bounded_too(served: Served) -> None:
    headers = {"Content-Length": str(10**9)}
    assert served.request("PUT", "/nowhere", headers=headers).status == 413


def test_connection_serves_one_request_after_the_other(served: Served) -> None:
    connection = served.connect()
    for _ in range(3):
        connection.send(build_request("GET", "/_matrix/client/v3/thing"))
        assert connection.answer().status == 200


def test_pipelined_requests_are_answered_in_order(served: Served) -> None:
    connection = served.connect()
    put = build_request("PUT", "/_matrix/client/v3/thing", b'{"a":1}')
    connection.send(build_request("GET", "/_matrix/client/v3/thing") + put + build_request("GET", "/old/x"))
    answers = [connection.answer().json for _ in range(3)]
    assert answers == [{"thing": 1}, {"got": 1}, {"named": True}]


def test_connection_closes_when_the_client_asks(served: Served) -> None:
    connection = served.connect()
    connection.send(build_request("GET", "/old/x", headers={"Connection": "close"}))
    assert connection.answer().headers["connection"] == "close"
    assert connection.rest() == b""


def test_http_1_0_is_answered_and_closed(served: Served) -> None:
    connection = served.connect()
    connection.send(b"GET /old/x HTTP/1.0\r\n\r\n")
    assert connection.rest().endswith(b'{"named":true}')


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/3\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nName : x\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: a\0b\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"PUT / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 40_000 + b"\r\n\r\n",
        b"a" * 40_000,
    ],
)
def test_malformed_request_is_answered_400_and_closed(served: Served, data: bytes) -> None:
    connection = served.connect()
    connection.send(data)
    everything = connection.rest()
    assert everything.startswith(b"HTTP/1.1 400 ")
    assert b"Access-Control-Allow-Origin: *" in everything
    assert everything.count(b"HTTP/1.1") == 1


def test_large_answer_is_compressed_if_the_client_can(served: Served) -> None:
    answer = served.get("/large", headers={"Accept-Encoding": "br, gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.body) < 500
    assert len(gzip.decompress(answer.body)) > 5000


def test_huge_answer_is_compressed_too(served: Served) -> None:
    answer = served.get("/huge", headers={"Accept-Encoding": "gzip"})
    assert len(gzip.decompress(answer.body)) > 5_000_000


@pytest.mark.parametrize("accepted", [None, "br", "gzip;q=0", "identity", "xgzip"])
def test_answer_is_plain_if_the_client_cannot_decompress(served: Served, accepted: str | None) -> None:
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = served.get("/large", headers=headers)
    assert "content-encoding" not in answer.headers
    assert answer.headers["vary"] == "Accept-Encoding"


def test_small_answer_is_never_compressed(served: Served) -> None:
    answer = served.get("/old/x", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in answer.headers


def test_forwarded_address_is_believed_only_from_trusted_proxies(serve: Serve) -> None:
    headers = {"X-Forwarded-For": "203.0.113.9"}
    assert serve(Plain()).get("/ip", headers=headers).json == {"ip": "127.0.0.1"}
    behind = serve(Plain(), trusted=(ip_network("127.0.0.0/8"),))
    assert behind.get("/ip", headers=headers).json == {"ip": "203.0.113.9"}


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        ("6.6.6.6, 203.0.113.9", "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.7", "203.0.113.9"),
        ("rubbish", "127.0.0.1"),
        ("rubbish, 10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::1"),
        ("", "127.0.0.1"),
    ],
)
def test_forged_hops_before_the_trusted_ones_are_ignored(serve: Serve, forwarded: str, expected: str) -> None:
    trusted = (ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"))
    answer = serve(Plain(), trusted=trusted).get("/ip", headers={"X-Forwarded-For": forwarded})
    assert answer.json == {"ip": expected}


HASTY = TimeLimits(
    header_s=0.2, body_pause_s=0.2, body_min_bytes_per_s=10**9, keep_alive_s=0.2, write_s=0.3, sweep_s=0.05
)


@pytest.mark.parametrize("begun", [b"", b"GET /old/x HT", b"PUT /_matrix/client/v3/thing HTTP/1.1\r\nX: y\r\n"])
def test_client_that_never_finishes_its_headers_is_cut_off(serve: Serve, begun: bytes) -> None:
    connection = serve(Plain(), limits=HASTY).connect()
    connection.send(begun)
    assert is_closed(connection)


def test_client_that_never_finishes_its_body_is_cut_off(serve: Serve) -> None:
    connection = serve(Plain(), limits=HASTY).connect()
    connection.send(build_request("PUT", "/_matrix/client/v3/thing", headers={"Content-Length": "10"}) + b"{")
    assert is_closed(connection)


def test_idle_connection_is_closed(serve: Serve) -> None:
    connection = serve(Plain(), limits=evolve(HASTY, header_s=TIMEOUT_S)).connect()
    connection.send(build_request("GET", "/old/x"))
    assert connection.answer().status == 200
    assert connection.rest() == b""


def test_client_that_does_not_read_its_answers_is_cut_off(serve: Serve) -> None:
    connection = serve(Plain(), limits=HASTY).connect()
    connection.send(build_request("GET", "/huge") * 20)
    reset = select.poll()
    reset.register(connection.sock, 0)
    assert reset.poll(TIMEOUT_S * 1000)


def is_closed(connection: Connection) -> bool:
    try:
        return connection.rest() == b""
    except ConnectionResetError:
        return True
