"""Anything at all to every endpoint: never a 5xx, never a request that hangs, always a Matrix error.

$HEARTH_FUZZ_EXAMPLES sets how many requests are made of each database's server (1500 by default).
"""

from __future__ import annotations

import logging
import os
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.scenarios.unavailable import ASKS_OTHERS, is_answer

EXAMPLES = int(os.environ.get("HEARTH_FUZZ_EXAMPLES", "1500"))
TIMEOUT_S = 90
HOSTILE = (
    None, True, 0, -1, 2**31, 2**63, -(2**63) - 1, 10**40, 1.5, 1e400, "", "\0", "\ud800", "x" * 70_000, "@a:b", "!a:b",
    "$a", "#a:b", [], {}, [[]], {"": ""}, {"\0": 1},
)  # fmt: skip
# Field names that make a random body get past the first check now and then.
NAMES = (
    "user_id", "room_id", "membership", "event_id", "device_id", "messages", "content", "type", "state_key", "auth", "session",
    "username", "password", "identifier", "filter", "limit", "timeout", "rooms", "version", "invite", "preset", "alias",
    "initial_state", "power_level_content_override", "one_time_keys", "device_keys", "signatures", "presence", "actions",
    "conditions", "m.relates_to", "displayname", "avatar_url", "reason", "typing", "new_version", "aliases", "pattern",
    "lists", "extensions", "room_subscriptions", "ranges", "required_state", "conn_id", "creation_content",
)  # fmt: skip

scalars = st.one_of(st.sampled_from(HOSTILE), st.integers(), st.floats(), st.text(max_size=20))
json_values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=8)), inner, max_size=5),
    ),
    max_leaves=12,
)
bodies = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), json_values, max_size=8),
    json_values,
    st.sampled_from([b"", b"{", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'{"a":NaN}', b'{"a":"\\ud800"}', b"null"]),
)
segments = st.one_of(
    st.sampled_from(["@alice:test.example", "%00", "%ff", "%ED%A0%80", "..", "m.room.message", "!x:y", "$x", "*", "0"]),
    st.text(min_size=1, max_size=20).map(lambda text: quote(text.encode("utf-8", "replace"), safe="")),
)


def encode(value: Any) -> bytes:
    """The value as JSON, with what JSON does not allow (NaN, lone surrogates) left as Python writes it."""
    import json

    return value if isinstance(value, bytes) else json.dumps(value).encode()


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [
        (method.upper(), path, operation)
        for path, methods in sorted(document["paths"].items())
        for method, operation in sorted(methods.items())
        if method in ("get", "put", "post", "delete")
    ]


@pytest.mark.timeout(580)
def test_whatever_comes_is_answered(hearth: Any, caplog: pytest.LogCaptureFixture) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    event_id = alice.send(room, "hello")
    known = {"room_id": room, "user_id": alice.user_id, "event_id": event_id, "device_id": alice.device_id}
    document = requests.get(f"{hearth.url}/docs/openapi.json", timeout=TIMEOUT_S).json()
    all_operations = operations(document)
    assert len(all_operations) > 130
    assert {(method, path) for method, path, _ in all_operations} >= ASKS_OTHERS
    session = requests.Session()

    @seed(1)
    @settings(max_examples=EXAMPLES, phases=[Phase.generate])
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        method, template, operation = data.draw(st.sampled_from(all_operations))
        path = template
        for parameter in operation.get("parameters", ()):
            if parameter["in"] == "path":
                name = parameter["name"]
                value = (
                    quote(known[name], safe="") if name in known and data.draw(st.booleans()) else data.draw(segments)
                )
                path = path.replace("{" + name + "}", value).replace("{" + name + "*}", value)
        wanted = [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
        query = {name: data.draw(scalars) for name in wanted if data.draw(st.booleans())}
        query["timeout"] = 0
        pairs = "&".join(f"{quote(k)}={quote(str(v).encode('utf-8', 'surrogatepass'))}" for k, v in query.items())
        headers = {"Authorization": f"Bearer {alice.token}", "Content-Type": "application/json"}
        body = None if method == "GET" else encode(data.draw(bodies))
        response = session.request(
            method, f"{hearth.url}{path}?{pairs}", data=body, headers=headers, timeout=TIMEOUT_S, allow_redirects=False
        )
        if template.endswith(("/logout", "/logout/all", "/deactivate", "/password", "/delete_devices")) and response.ok:
            alice.login("alice", "password of the tests")
        assert is_answer(response.status_code, method, template), (method, path, pairs, body, response.text)
        if response.status_code >= 400:
            answer = response.json()
            assert "errcode" in answer or "flows" in answer, (method, path, response.text)

    with caplog.at_level(logging.ERROR):
        fuzz()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "errcode", "named"),
    [
        ("POST", "/createRoom", b"{", 400, "M_NOT_JSON", ""),
        ("POST", "/createRoom", b'{"name":"\\ud800"}', 400, "M_NOT_JSON", ""),
        ("POST", "/createRoom", b"[]", 400, "M_BAD_JSON", ""),
        ("POST", "/createRoom", b"[" * 100_000, 400, "M_NOT_JSON", ""),
        ("POST", "/createRoom", b'{"invite":"@bob:test.example"}', 400, "M_BAD_JSON", "invite"),
        ("POST", "/createRoom", b'{"room_version":"99"}', 400, "M_UNSUPPORTED_ROOM_VERSION", ""),
        ("POST", "/keys/query", b"{}", 400, "M_MISSING_PARAM", "device_keys"),
        ("POST", "/keys/query", b'{"device_keys":{"bob":[]}}', 400, "M_INVALID_PARAM", "device_keys"),
        ("PUT", "/rooms/{room}/send/m.room.message/1", b'{"n":1e400}', 400, None, ""),
        ("PUT", "/rooms/{room}/send/m.room.message/2", b'{"n":1.5}', 400, "M_BAD_JSON", ""),
        ("PUT", "/rooms/{room}/send/m.room.message/3", b'{"n":' + b"9" * 30 + b"}", 400, "M_BAD_JSON", ""),
        ("PUT", "/rooms/{room}/send/m.room.message/4", b'{"body":"' + b"x" * 66_000 + b'"}', 413, "M_TOO_LARGE", ""),
        ("PUT", "/rooms/{room}/typing/{user}", b'{"typing":"yes"}', 400, "M_BAD_JSON", "typing"),
        ("PUT", "/presence/{user}/status", b'{"presence":1}', 400, "M_BAD_JSON", "presence"),
        ("GET", "/sync?timeout=soon", None, 400, "M_INVALID_PARAM", "timeout"),
        ("GET", "/rooms/{room}/messages?dir=x", None, 400, "M_INVALID_PARAM", "dir"),
        ("GET", "/rooms/{room}/messages", None, 400, "M_MISSING_PARAM", "dir"),
        ("GET", "/rooms/%ff/state", None, 400, "M_INVALID_PARAM", ""),
        ("GET", "/no/such/thing", None, 404, "M_UNRECOGNIZED", ""),
        ("DELETE", "/sync", None, 405, "M_UNRECOGNIZED", ""),
    ],
)
def test_hostile_input_gets_the_errcode_that_says_why(
    hearth: Any, method: str, path: str, body: bytes | None, status: int, errcode: str | None, named: str
) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    path = "/_matrix/client/v3" + path.replace("{room}", room).replace("{user}", alice.user_id)
    response = alice.send_raw(method, path, body, headers={"Content-Type": "application/json"})
    answer = response.json()
    assert response.status_code == status, answer
    assert errcode is None or answer["errcode"] == errcode
    assert named in answer["error"]
