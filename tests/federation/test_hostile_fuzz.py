"""Anything at all, rightly signed, to every endpoint that the specification has for servers: no fault of ours, nothing hangs.

$HEARTH_FUZZ_EXAMPLES sets how many requests are made of each database's server, a quarter of it.
"""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from federation.xmatrix import build_header
from tests.federation.peer_room import PeerRoom, message, to_json
from tests.federation.quiet import Log, log
from tests.kit.specification import FEDERATION

__all__ = ["log"]

EXAMPLES = int(os.environ.get("HEARTH_FUZZ_EXAMPLES", "1500")) // 4
HOSTILE: tuple[Any, ...] = (
    None, True, 0, -1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**40, 1.5, 1e300, "", "\0", "x" * 70_000, "@a:b", "!a:b", "$a",
    "#a:b", "a:b", "localhost:1", "1", "12", "join", "ed25519:x", [], {}, [[]], [{}], {"": ""}, {"\0": 1},
)  # fmt: skip
# What others have signed may need the keys of servers that are away, or that the request made up.
CHECKS_EVENTS = frozenset(
    f"/_matrix/federation/{name}"
    for name in (
        "v1/exchange_third_party_invite/{roomId}",
        "v1/invite/{roomId}/{eventId}",
        "v2/invite/{roomId}/{eventId}",
        "v1/send_join/{roomId}/{eventId}",
        "v2/send_join/{roomId}/{eventId}",
        "v1/send_knock/{roomId}/{eventId}",
        "v1/send_leave/{roomId}/{eventId}",
        "v2/send_leave/{roomId}/{eventId}",
    )
)
BYTES = (b"", b"{", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'{"a":NaN}', b'{"a":"\\ud800"}', b"null", b"1e999")

scalars = st.one_of(
    st.sampled_from(HOSTILE), st.integers(), st.text(max_size=20).filter(lambda text: text.isprintable())
)
segments = st.one_of(
    st.sampled_from(
        ["%00", "%ff", "%ED%A0%80", "..", "!x:y", "!" + "x" * 43, "$x", "@x:y", "*", "0", "x" * 300, "%0a"]
    ),
    st.text(min_size=1, max_size=20).map(lambda text: quote(text.encode("utf-8", "replace"), safe="")),
)


class Fuzz:
    """Makes requests out of the specification's examples and what there is on the server."""

    def __init__(self, room: PeerRoom) -> None:
        self.room = room
        document = json.loads(FEDERATION.file.read_text("utf-8"))
        self.operations = [
            (method.upper(), path, operation)
            for path, methods in sorted(document["paths"].items())
            for method, operation in sorted(methods.items())
            if path.startswith(("/_matrix/federation", "/_matrix/key"))
        ]
        self.known: dict[str, list[Any]] = {
            "roomId": [room.room_id],
            "eventId": [*room.tips, *room.state.values()],
            "userId": [room.alice.user_id, room.bob],
            "serverName": [room.peer.server_name, room.hearth.server_name],
        }
        self.ids = [each for values in self.known.values() for each in values]

    def draw_target(self, data: st.DataObject, template: str, operation: Any) -> str:
        path, pairs = template, []
        for parameter in operation.get("parameters", ()):
            name = parameter["name"]
            if parameter["in"] == "path":
                good = [quote(value, safe="") for value in self.known.get(name, ["t"])]
                value = data.draw(st.sampled_from(good) if data.draw(st.integers(0, 3)) else segments)
                path = path.replace("{" + name + "}", value)
            elif parameter["in"] == "query" and data.draw(st.integers(0, 4)):
                drawn = data.draw(st.one_of(st.sampled_from([*self.ids, 10, 1, "f"]), scalars))
                pairs.append(f"{quote(name)}={quote(str(drawn).encode('utf-8', 'replace'))}")
        return f"{path}?{'&'.join(pairs)}" if pairs else path

    def draw_body(self, data: st.DataObject, operation: Any) -> Any:
        about = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
        pdu = to_json(self.room.build("m.room.message", message("x"), advance=False))
        member = to_json(
            self.room.build("m.room.member", {"membership": "join"}, state_key=self.room.bob, advance=False)
        )
        edu = {
            "edu_type": "m.typing",
            "content": {"room_id": self.room.room_id, "user_id": self.room.bob, "typing": True},
        }
        bases = [*_examples(about), {"pdus": [pdu], "edus": [edu]}, member, {"event": member, "room_version": "11"}]
        body = json.loads(json.dumps(data.draw(st.sampled_from(bases))))
        for _ in range(data.draw(st.integers(0, 3))):
            body = self._spoil(data, body)
        return body

    def _spoil(self, data: st.DataObject, value: Any) -> Any:
        """With one part, however deep, replaced."""
        if isinstance(value, dict) and value and data.draw(st.integers(0, 5)):
            key = data.draw(st.sampled_from(sorted(value)))
            new = data.draw(st.sampled_from([key, key, key, key, "", "\0", *self.ids]))
            inner = self._spoil(data, value[key])
            return {**{name: each for name, each in value.items() if name != key}, new: inner}
        if isinstance(value, list) and value and data.draw(st.integers(0, 5)):
            return [self._spoil(data, value[0]), *value[1:]]
        return data.draw(st.one_of(st.sampled_from(self.ids), scalars))

    def send(self, method: str, target: str, body: Any) -> Any:
        room = self.room
        content = None if isinstance(body, bytes) else body
        own = build_header(room.peer.key, method, target, room.peer.server_name, room.hearth.server_name, content)
        return room.hearth.ask(method, target, body, {"Authorization": own})


def _examples(about: Any) -> list[Any]:
    found = [each["value"] for each in about.get("examples", {}).values() if isinstance(each.get("value"), dict)]
    found += [about["example"]] if isinstance(about.get("example"), dict) else []
    schema = about.get("schema", {})
    return [*found, *([schema["example"]] if isinstance(schema.get("example"), dict) else []), {}]


@pytest.mark.skipif(not FEDERATION.is_present, reason="the specification's OpenAPI file is absent")
@pytest.mark.timeout(580)
def test_whatever_a_server_sends_is_answered(start_federated: Any, start_peer: Any, log: Log) -> None:
    limits = {"rate_limits": {"enabled": False}}
    room = PeerRoom.open(start_federated(settings=limits), start_peer())
    fuzz = Fuzz(room)
    assert len(fuzz.operations) > 30
    good: set[str] = set()

    @seed(1)
    @settings(max_examples=EXAMPLES, phases=[Phase.generate])
    @given(st.data())
    def run(data: st.DataObject) -> None:
        method, template, operation = data.draw(st.sampled_from(fuzz.operations))
        target = fuzz.draw_target(data, template, operation)
        body = None
        if method != "GET":
            is_json = data.draw(st.integers(0, 9))
            body = fuzz.draw_body(data, operation) if is_json else data.draw(st.sampled_from(BYTES))
        answer = fuzz.send(method, target, body)
        is_fine = answer.status_code < 500 or (answer.status_code in (502, 504) and template in CHECKS_EVENTS)
        assert is_fine, (method, target, body, answer.text)
        if answer.status_code >= 400:
            assert "errcode" in answer.json(), (method, target, answer.text)
        else:
            good.add(template)

    run()
    room.wait_until_idle()
    assert log.faults() == []
    assert len(good) > 10
    assert room.alice.send_raw("GET", "/_matrix/client/v3/sync").status_code == 200
    assert room.sees(room.alice.send(room.room_id, "still here"))
