"""Whatever comes over the wire, the server neither fails nor hangs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homeserver.runtime.http.endpoint import Auth, JsonObject, JsonValue, endpoint
from homeserver.runtime.http.request import Request
from tests.runtime.conftest import Connection, Serve, Served, build_request


class Inner(msgspec.Struct):
    number: int = 0
    text: str | None = None


class Body(msgspec.Struct):
    name: str
    number: Annotated[int, msgspec.Meta(ge=0)] = 0
    inner: Inner | None = None
    many: list[Inner] = []
    table: dict[str, Inner] = {}
    content: dict[str, Any] = {}


class Path(msgspec.Struct):
    a: str
    b: str


class Query(msgspec.Struct):
    limit: int = 0
    flag: bool = False
    ratio: float = 0.0
    many: list[str] = []


class Echo:
    @endpoint("POST", "/typed", auth=Auth.NONE)
    async def post_typed(self, body: Body) -> Body:
        return body

    @endpoint("POST", "/object", auth=Auth.NONE, optional_body=True)
    async def post_object(self, body: JsonObject) -> JsonObject:
        return body

    @endpoint("POST", "/value", auth=Auth.NONE)
    async def post_value(self, body: JsonValue) -> JsonObject:
        return {"value": body}

    @endpoint("GET", "/p/{a}/x/{b}", auth=Auth.OPTIONAL)
    async def get_path(self, request: Request, path: Path, query: Query) -> JsonObject:
        return {"a": path.a, "b": path.b, "limit": query.limit, "ip": request.client_ip}


@pytest.fixture
def connection(serve: Serve) -> Iterator[list[Connection]]:
    served = serve(Echo())
    held = [served.connect()]
    connect_again[0] = served
    yield held
    held[0].close()


connect_again: list[Served] = [None]  # type: ignore[list-item]


def exchange(held: list[Connection], data: bytes) -> int:
    """Sends one request and returns the status; takes a new connection where the server closed the old one."""
    held[0].send(data)
    answer = held[0].answer(data.partition(b" ")[0].decode())
    if answer.headers.get("connection") == "close":
        held[0].close()
        held[0] = connect_again[0].connect()
    return answer.status


FUZZ = settings(max_examples=150)

leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[]))
anything = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
shaped = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("name", "number", "inner", "many", "table", "content"), anything),
)


def to_json(value: object) -> bytes:
    """JSON as a careless client writes it: with NaN and lone surrogates."""
    import json

    return json.dumps(value).encode()


@FUZZ
@given(path=st.sampled_from(["/typed", "/object", "/value"]), body=st.binary())
def test_any_bytes_as_a_body(connection: list[Connection], path: str, body: bytes) -> None:
    assert exchange(connection, build_request("POST", path, body)) in (200, 400)


@FUZZ
@given(path=st.sampled_from(["/typed", "/object", "/value"]), value=shaped | anything)
def test_any_json_as_a_body(connection: list[Connection], path: str, value: object) -> None:
    assert exchange(connection, build_request("POST", path, to_json(value))) in (200, 400)


target_bytes = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)


@FUZZ
@given(a=target_bytes, b=target_bytes, query=target_bytes)
def test_any_path_and_query(connection: list[Connection], a: str, b: str, query: str) -> None:
    status = exchange(connection, build_request("GET", f"/p/{a}/x/{b}?limit={query}&{query}"))
    assert status in (200, 400, 401, 404)


@FUZZ
@given(
    method=st.from_regex(r"[A-Za-z!#$%&'*+.^_`|~-]{1,10}", fullmatch=True).filter(lambda m: m != "HEAD"),
    target=target_bytes.filter(bool),
)
def test_any_method_and_target(connection: list[Connection], method: str, target: str) -> None:
    assert exchange(connection, build_request(method, target)) < 500


header_value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)


@FUZZ
@given(
    name=st.sampled_from(
        [
            "Authorization",
            "Accept-Encoding",
            "X-Forwarded-For",
            "Connection",
            "Expect",
            "Content-Type",
            "Cookie",
        ]
    ),
    value=header_value | header_value.map(lambda text: f"Bearer {text}"),
)
def test_any_header(connection: list[Connection], name: str, value: str) -> None:
    data = build_request("GET", "/p/a/x/b", headers={name: value})
    if name == "Expect":
        return
    assert exchange(connection, data) in (200, 400, 401)


@FUZZ
@given(data=st.binary(min_size=1, max_size=300))
def test_any_bytes_as_a_request_leave_the_server_serving(connection: list[Connection], data: bytes) -> None:
    stray = connect_again[0].connect()
    stray.send(data)
    stray.close()
    assert exchange(connection, build_request("GET", "/p/a/x/b")) == 200


def test_deep_nesting_that_we_accept_we_can_also_answer(connection: list[Connection]) -> None:
    for depth in range(1, 1100, 7):
        body = b'{"a":' * depth + b"1" + b"}" * depth
        assert exchange(connection, build_request("POST", "/object", body)) in (200, 400), depth


def test_numbers_at_the_edges_we_accept_we_can_also_answer(connection: list[Connection]) -> None:
    for number in (2**53, 2**63, 2**64, 2**64 - 1, -(2**63) - 1, 10**300, 10**400, 1e308, "1E+2", "-0"):
        body = b'{"a":%b}' % str(number).encode()
        assert exchange(connection, build_request("POST", "/object", body)) in (200, 400), number


def test_orjson_is_no_laxer_than_we_think() -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(b'"\\ud800"')
