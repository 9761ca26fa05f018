"""What a handler gets, and what a client is told when its request doesn't fit."""

from __future__ import annotations

import errno
from typing import Annotated, Any, Literal

import msgspec
import pytest
from twisted.internet.task import deferLater

from homeserver.runtime.http.body import SpooledBody
from homeserver.runtime.http.endpoint import Auth, JsonObject, JsonValue, endpoint
from tests.runtime.conftest import Serve, Served, Tokens


class RoomPath(msgspec.Struct):
    room_id: str
    event_type: str


class Paging(msgspec.Struct, frozen=True):
    limit: int = 10
    reverse: bool = False
    sort: str | None = None
    via: list[str] = []


class Needed(msgspec.Struct):
    q: str


class Inner(msgspec.Struct):
    depth: int


class Shape(msgspec.Struct):
    name: str
    count: Annotated[int, msgspec.Meta(ge=0)] = 0
    inner: Inner | None = None
    names: list[str] = []
    content: dict[str, Any] = {}
    colour: Literal["red", "blue"] = "red"


class Echo:
    @endpoint("GET", "/path/{room_id}/{event_type}", auth=Auth.NONE)
    async def get_path(self, path: RoomPath) -> JsonObject:
        return {"room_id": path.room_id, "event_type": path.event_type}

    @endpoint("GET", "/query", auth=Auth.NONE)
    def get_query(self, query: Paging) -> Paging:
        return query

    @endpoint("GET", "/needed", auth=Auth.NONE)
    def get_needed(self, query: Needed) -> Needed:
        return query

    @endpoint("POST", "/shape", auth=Auth.NONE)
    async def post_shape(self, body: Shape) -> Shape:
        return body

    @endpoint("POST", "/object", auth=Auth.NONE)
    def post_object(self, body: JsonObject) -> JsonObject:
        return body

    @endpoint("POST", "/optional", auth=Auth.NONE, optional_body=True)
    def post_optional(self, body: JsonObject) -> JsonObject:
        return {"got": body}

    @endpoint("POST", "/value", auth=Auth.NONE)
    def post_value(self, body: JsonValue) -> JsonObject:
        return {"got": body}

    @endpoint("POST", "/raw", auth=Auth.NONE)
    def post_raw(self, body: bytes) -> JsonObject:
        return {"length": len(body)}

    @endpoint("POST", "/own_spool", auth=Auth.USER)
    def post_own_spool(self, body: SpooledBody) -> JsonObject:
        with body.file:
            return {"length": body.size_bytes}

    @endpoint("POST", "/spool", auth=Auth.NONE)
    def post_spool(self, body: SpooledBody) -> JsonObject:
        with body.file:
            return {"length": body.size_bytes, "read": len(body.file.read())}


@pytest.fixture
def served(serve: Serve) -> Served:
    return serve(Echo())


def test_path_arguments_are_decoded_once_after_splitting(served: Served) -> None:
    answer = served.get("/path/%21a%2Fb%3Ax/m.%C3%A9%2525")
    assert answer.json == {"room_id": "!a/b:x", "event_type": "m.é%25"}


def test_last_path_argument_may_be_empty(served: Served) -> None:
    assert served.get("/path/!a/").json == {"room_id": "!a", "event_type": ""}


def test_percent_encoded_literal_finds_its_endpoint(served: Served) -> None:
    assert served.get("/%71uery").status == 200


@pytest.mark.parametrize("segment", ["%ff", "%00", "a%C3"])
def test_path_argument_that_is_no_text_is_invalid(served: Served, segment: str) -> None:
    answer = served.get(f"/path/{segment}/x")
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
    assert "room_id" in answer.json["error"]


def test_query_is_converted_to_the_types_of_its_fields(served: Served) -> None:
    answer = served.get("/query?limit=5&reverse=true&sort=a+b%21&via=x&via=y&unknown=1")
    assert answer.json == {"limit": 5, "reverse": True, "sort": "a b!", "via": ["x", "y"]}


def test_absent_query_gives_the_defaults(served: Served) -> None:
    assert served.get("/query").json["limit"] == 10


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=x", "limit"),
        ("limit=", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=" + "9" * 6000, "limit"),
        ("limit=9007199254740992", "limit"),
        ("reverse=perhaps", "reverse"),
        ("sort=%ff", "sort"),
        ("sort=a%00b", "sort"),
    ],
)
def test_wrong_query_value_is_invalid_and_names_the_field(served: Served, query: str, field: str) -> None:
    answer = served.get(f"/query?{query}")
    assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM")
    assert answer.json["error"].startswith(f"{field}:")


def test_absent_required_query_parameter_is_missing(served: Served) -> None:
    answer = served.get("/needed?p=1")
    assert (answer.status, answer.json["errcode"]) == (400, "M_MISSING_PARAM")
    assert "q" in answer.json["error"]


def test_body_is_converted_to_its_struct(served: Served) -> None:
    body = b'{"name":"a","count":3,"inner":{"depth":1},"extra":true}'
    assert served.request("POST", "/shape", body).json["inner"] == {"depth": 1}


@pytest.mark.parametrize(
    "body", [b"", b"{", b"nope", b'{"a":NaN}', b'"\\ud800"', b"[" * 5000, b'{"a":"\xff"}', b"{} {}"]
)
@pytest.mark.parametrize("path", ["/shape", "/object", "/value"])
def test_what_is_not_json_is_told_so(served: Served, path: str, body: bytes) -> None:
    answer = served.request("POST", path, body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_NOT_JSON")


@pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"a"'])
@pytest.mark.parametrize("path", ["/shape", "/object"])
def test_json_of_another_kind_is_bad_json(served: Served, path: str, body: bytes) -> None:
    answer = served.request("POST", path, body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"name":1}', "name"),
        (b'{"name":"a","count":-1}', "count"),
        (b'{"name":"a","count":1.5}', "count"),
        (b'{"name":"a","count":9007199254740992}', "count"),
        (b'{"name":"a","count":1000000000000000000000}', "count"),
        (b'{"name":"a","inner":{"depth":"x"}}', "inner.depth"),
        (b'{"name":"a","names":["x",null]}', "names[1]"),
        (b'{"name":"a\\u0000b"}', "name"),
        (b'{"name":"a","names":["b\\u0000"]}', "names[0]"),
    ],
)
def test_wrong_field_of_a_body_is_bad_json_and_named(served: Served, body: bytes, field: str) -> None:
    answer = served.request("POST", "/shape", body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
    assert answer.json["error"].startswith(f"{field}:")


def test_long_value_is_not_quoted_whole(served: Served) -> None:
    answer = served.request("POST", "/shape", b'{"name":"a","colour":"' + b"x" * 50_000 + b'"}')
    assert (answer.status, answer.json["errcode"]) == (400, "M_BAD_JSON")
    error = answer.json["error"]
    assert error.startswith("colour: Invalid enum value 'xxx")
    assert "x…x" in error
    assert len(error) <= 300


@pytest.mark.parametrize(("body", "field"), [(b"{}", "name"), (b'{"name":"a","inner":{}}', "inner.depth")])
def test_absent_required_field_is_a_missing_param(served: Served, body: bytes, field: str) -> None:
    answer = served.request("POST", "/shape", body)
    assert (answer.status, answer.json["errcode"]) == (400, "M_MISSING_PARAM")
    assert answer.json["error"].endswith(field)


def test_free_content_of_a_struct_may_hold_anything_of_json(served: Served) -> None:
    body = b'{"name":"a","content":{"text":"a\\u0000b"}}'
    assert served.request("POST", "/shape", body).status == 200


def test_empty_body_is_an_empty_object_only_where_declared(served: Served) -> None:
    assert served.request("POST", "/optional").json == {"got": {}}
    assert served.request("POST", "/object").json["errcode"] == "M_NOT_JSON"


def test_optional_body_that_is_there_must_fit(served: Served) -> None:
    assert served.request("POST", "/optional", b"[]").json["errcode"] == "M_BAD_JSON"


def test_raw_and_spooled_bodies_are_not_looked_into(served: Served) -> None:
    body = bytes(range(256)) * 4000
    assert served.request("POST", "/raw", body).json == {"length": len(body)}
    assert served.request("POST", "/spool", body).json == {"length": len(body), "read": len(body)}


def test_full_disk_is_an_error_of_ours(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(body: SpooledBody, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(SpooledBody, "write", write)
    assert served.request("POST", "/spool", b"x" * 100_000).status == 500


def test_connection_goes_on_when_an_upload_is_answered_before_its_sender_was_looked_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, delays_s = Tokens._turn, [0.2]

    def late_at_first(tokens: Tokens) -> Any:
        return deferLater(tokens._reactor, delays_s.pop(), turn, tokens) if delays_s else turn(tokens)

    monkeypatch.setattr(Tokens, "_turn", late_at_first)
    head = b"POST /own_spool HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer slow_token\r\nContent-Length: 1\r\n\r\n"
    connection = served.connect()
    for _ in range(2):
        connection.send(head + b"x")
        assert connection.answer("POST").json == {"length": 1}
    connection.close()
