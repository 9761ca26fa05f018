"""Events as clients get them: both forms agree, and nothing of the federation format leaks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from homeserver.matrix import format
from homeserver.matrix.build import build_pdu
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.versions import V5, V10, V11, V12, RoomVersion

KEY = SigningKey("a", b"k" * 32)
BASE = {"type", "content", "event_id", "sender", "origin_server_ts"}


def build(version: RoomVersion, **changes: Any) -> Pdu:
    fields: dict[str, Any] = {
        "type": "m.room.message",
        "sender": UserId("@a:b"),
        "room_id": RoomId("!r:b"),
        "content": {"body": 'quo"te é'},
        "prev_events": [],
        "auth_events": [],
        "depth": 1,
        "origin_server_ts": 1,
    }
    return build_pdu(version, **{**fields, **changes}, signing_key=KEY, server_name=ServerName("b"))


def test_client_format_has_no_federation_fields() -> None:
    pdu = build(V11)
    assert format.client_event(pdu, with_room_id=False).keys() == BASE
    assert format.client_event(pdu, with_room_id=True).keys() == BASE | {"room_id"}
    assert format.client_event(build(V11, state_key=""), with_room_id=False).keys() == BASE | {"state_key"}
    assert format.client_event(pdu, with_room_id=False, unsigned={"age": 1})["unsigned"] == {"age": 1}
    assert "unsigned" not in format.client_event(pdu, with_room_id=False, unsigned={})


@pytest.mark.parametrize("with_room_id", [True, False])
@pytest.mark.parametrize("content", [{}, {"a": "é\n"}, {"a": 2**70, "b": 1.5}])
def test_encoded_form_is_the_dict(with_room_id: bool, content: dict[str, Any]) -> None:
    pdu = build(V5, content=content, state_key="k")
    encoded = format.client_event_json(pdu, with_room_id=with_room_id)
    assert json.loads(encoded) == format.client_event(pdu, with_room_id=with_room_id)


def test_unsigned_is_spliced_in() -> None:
    pdu = build(V11)
    spliced = format.splice_unsigned(format.client_event_json(pdu, with_room_id=True), b'{"age":5}')
    assert json.loads(spliced) == format.client_event(pdu, with_room_id=True, unsigned={"age": 5})


@pytest.mark.parametrize("version", [V10, V11])
def test_redacts_is_served_in_both_places(version: RoomVersion) -> None:
    pdu = build(version, type="m.room.redaction", content={"reason": "r"}, redacts=EventId("$t"))
    event = format.client_event(pdu, with_room_id=False)
    assert event["redacts"] == "$t"
    assert event["content"] == {"reason": "r", "redacts": "$t"}
    assert ("redacts" in pdu.content) is (version is V11)


def test_v12_create_event_is_served_with_its_room_id() -> None:
    pdu = build(V12, type="m.room.create", state_key="", room_id=None, content={})
    assert format.client_event(pdu, with_room_id=True)["room_id"] == "!" + pdu.event_id[1:]
    assert format.federation_event(pdu)["room_id"] == "!" + pdu.event_id[1:]


def test_federation_format_is_the_pdu_and_its_ids() -> None:
    pdu = build(V11)
    assert format.federation_event(pdu) == {**pdu.json, "event_id": pdu.event_id}
    assert format.federation_event(pdu, unsigned={"age": 1})["unsigned"] == {"age": 1}


def test_stripped_state_has_four_keys() -> None:
    pdu = build(V11, type="m.room.name", state_key="", content={"name": "n"})
    assert format.stripped_state(pdu) == {
        "type": "m.room.name",
        "state_key": "",
        "sender": "@a:b",
        "content": {"name": "n"},
    }
