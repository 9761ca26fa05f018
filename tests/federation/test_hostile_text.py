"""Events that hold what no column of a database can: NUL, and texts of any length, wherever somebody might look."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.peer_room import PeerRoom, message, to_json
from tests.federation.quiet import Log, log

__all__ = ["log"]

NUL = "a\0b"
LONG = "y" * 15_000


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    levels = {"users_default": 50, "events_default": 0, "state_default": 0}
    return PeerRoom.open(start_federated(), start_peer(), power_level_content_override=levels)


def events(text: str) -> list[tuple[str, dict[str, Any], str | None]]:
    """Type, content and state key."""
    replaced = {"m.new_content": message(text), "m.relates_to": {"rel_type": "m.replace", "event_id": "$" + text}}
    return [
        ("m.room.message", {"msgtype": text, "body": text, "formatted_body": text}, None),
        ("m.room.message", {**message("x"), "m.relates_to": {"rel_type": "m.thread", "event_id": "$" + text}}, None),
        ("m.room.message", {**message("x"), "m.relates_to": {"rel_type": text, "event_id": "$" + text}}, None),
        ("m.room.message", {**message("x"), **replaced}, None),
        ("m.room.message", {**message("x"), "m.mentions": {"user_ids": [text], "room": text}}, None),
        ("m.reaction", {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$" + text, "key": text}}, None),
        ("m.room.redaction", {"redacts": "$" + text, "reason": text}, None),
        ("m.room.name", {"name": text}, ""),
        ("m.room.topic", {"topic": text, "m.topic": {"m.text": [{"body": text}]}}, ""),
        ("m.room.avatar", {"url": text}, ""),
        ("m.room.canonical_alias", {"alias": text, "alt_aliases": [text]}, ""),
        ("m.room.join_rules", {"join_rule": "public", "allow": [{"type": text, "room_id": text}]}, ""),
        ("m.room.history_visibility", {"history_visibility": text}, ""),
        ("m.room.guest_access", {"guest_access": text}, ""),
        ("m.room.encryption", {"algorithm": text}, ""),
        ("m.room.pinned_events", {"pinned": [text]}, ""),
        ("m.room.server_acl", {"allow": ["*", text], "deny": [text]}, ""),
        ("m.room.third_party_invite", {"display_name": text, "public_key": text, "key_validity_url": text}, "token"),
        ("m.room.tombstone", {"body": text, "replacement_room": text}, ""),
        ("m.space.child", {"via": [text], "order": text}, "!child:x"),
        ("m.room.policy", {"via": text, "public_keys": {"ed25519": text}}, ""),
        ("m.room.member", {"membership": "join", "displayname": text, "avatar_url": text, "reason": text}, "bob"),
    ]


@pytest.mark.parametrize("text", [NUL, LONG], ids=["nul", "long"])
def test_no_text_of_an_event_makes_an_error(room: PeerRoom, log: Log, text: str) -> None:
    for type_, content, state_key in events(text):
        key = room.bob if state_key == "bob" else state_key
        room.send(room.build(type_, content, state_key=key))
    room.wait_until_idle()
    assert log.faults() == []
    for path in ("/sync", "/joined_rooms", "/notifications", "/publicRooms", f"/rooms/{room.room_id}/members"):
        assert room.alice.send_raw("GET", "/_matrix/client/v3" + path).status_code == 200, path
    assert room.alice.send_raw("GET", f"/_matrix/client/v1/rooms/{room.room_id}/hierarchy").status_code == 200
    body = {"search_categories": {"room_events": {"search_term": "a"}}}
    assert room.alice.send_raw("POST", "/_matrix/client/v3/search", body).status_code == 200
    assert log.faults() == []


@pytest.mark.parametrize("field", ["prev_events", "auth_events"])
def test_events_are_not_named_so(room: PeerRoom, log: Log, field: str) -> None:
    pdu = to_json(room.build("m.room.message", message("x"), advance=False))
    room.send({**pdu, field: ["$" + NUL]})
    room.wait_until_idle()
    assert room.sees(room.alice.send(room.room_id, "still here"))
    assert log.faults() == []
