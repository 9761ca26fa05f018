"""NUL, for which PostgreSQL's text has no place: refused wherever it would be an id or stored text, and the field is named.

In what clients keep as JSON (contents of events, of account data and of push rules) it is text like any other.
"""

from __future__ import annotations

from typing import Any, Final

BAD_JSON, INVALID = "M_BAD_JSON", "M_INVALID_PARAM"
ROOM: Final = "/rooms/{room}"
# Method, path (below /v3 unless it is whole), body, errcode, and what the error names.
REFUSED: Final[tuple[tuple[str, str, Any, str, str], ...]] = (
    ("GET", "/profile/%00", None, INVALID, "user_id"),
    ("GET", "/profile/@a%00b:test.example", None, INVALID, "user_id"),
    ("PUT", "/profile/{user}/displayname", {"displayname": "a\0b"}, INVALID, "displayname"),
    ("PUT", "/profile/{user}/org.example.%00", {"org.example.x": "y"}, INVALID, "key_name"),
    ("GET", "/rooms/!a%00b/state", None, INVALID, "room_id"),
    ("GET", ROOM + "/event/$a%00b", None, INVALID, "event_id"),
    ("PUT", ROOM + "/send/m.room.%00/t", {}, INVALID, "event_type"),
    ("PUT", ROOM + "/send/m.room.message/%00", {}, INVALID, "txn_id"),
    ("PUT", ROOM + "/state/org.example/%00", {}, INVALID, "state_key"),
    ("PUT", ROOM + "/redact/$a%00b/t", {}, INVALID, "event_id"),
    ("PUT", ROOM + "/typing/@a%00b:c", {"typing": True}, INVALID, "user_id"),
    ("POST", ROOM + "/receipt/m.read%00/$x", {}, INVALID, "receipt_type"),
    ("POST", ROOM + "/receipt/m.read/$x", {"thread_id": "a\0b"}, BAD_JSON, "thread_id"),
    ("POST", ROOM + "/read_markers", {"m.fully_read": "$a\0b"}, BAD_JSON, "m.fully_read"),
    ("POST", ROOM + "/invite", {"user_id": "@a\0b:test.example"}, BAD_JSON, "user_id"),
    ("POST", ROOM + "/kick", {"user_id": "@a:test.example", "reason": "\0"}, BAD_JSON, "reason"),
    ("POST", ROOM + "/report/$x", {"reason": "a\0b"}, BAD_JSON, "reason"),
    ("GET", ROOM + "/messages?dir=b&from=%00", None, INVALID, "from"),
    ("GET", "/_matrix/client/v1/rooms/{room}/relations/$x/m.%00", None, INVALID, "rel_type"),
    ("PUT", "/directory/room/%23a%00b:test.example", {"room_id": "{room}"}, INVALID, "room_alias"),
    ("POST", "/join/%23a%00b:test.example", {}, INVALID, "room_id_or_alias"),
    ("POST", "/createRoom", {"name": "a\0b"}, BAD_JSON, "name"),
    ("POST", "/createRoom", {"room_alias_name": "a\0b"}, BAD_JSON, "room_alias_name"),
    ("POST", "/createRoom", {"invite": ["@a\0b:c"]}, BAD_JSON, "invite"),
    ("POST", "/register", {"username": "a\0b", "password": "x"}, BAD_JSON, "username"),
    ("POST", "/login", {"type": "m.login.password", "password": "\0", "device_id": "a\0"}, BAD_JSON, "password"),
    ("PUT", "/devices/{device}", {"display_name": "a\0b"}, BAD_JSON, "display_name"),
    ("GET", "/devices/%00", None, INVALID, "device_id"),
    ("PUT", "/presence/{user}/status", {"presence": "online", "status_msg": "\0"}, BAD_JSON, "status_msg"),
    ("PUT", "/user/{user}/account_data/%00", {}, INVALID, "type"),
    ("PUT", "/user/{user}" + ROOM + "/tags/u.%00", {}, INVALID, "tag"),
    ("PUT", "/pushrules/global/content/%00", {"pattern": "x", "actions": []}, INVALID, "rule_id"),
    ("POST", "/keys/query", {"device_keys": {"@a\0b:c": []}}, INVALID, "device_keys"),
    ("POST", "/keys/claim", {"one_time_keys": {"@a:b": {"D\0": "x"}}}, INVALID, "one_time_keys"),
    ("POST", "/keys/upload", {"one_time_keys": {"signed_curve25519:\0": {"key": "x"}}}, INVALID, "one_time_keys"),
    ("PUT", "/sendToDevice/m.x/t%00", {"messages": {}}, INVALID, "txn_id"),
    ("PUT", "/sendToDevice/m.%00/t", {"messages": {}}, INVALID, "event_type"),
    ("PUT", "/sendToDevice/m.x/t", {"messages": {"{user}": {"D\0": {}}}}, INVALID, "messages"),
    ("PUT", "/sendToDevice/m.x/t", {"messages": {"@a\0b:c": {"D": {}}}}, INVALID, "messages"),
    ("POST", "/search", {"search_categories": {"room_events": {"search_term": "\0"}}}, BAD_JSON, "search_term"),
    ("POST", "/user_directory/search", {"search_term": "a\0b"}, BAD_JSON, "search_term"),
    ("GET", "/sync?since=%00", None, INVALID, "since"),
    ("GET", "/publicRooms?server=%00", None, INVALID, "server"),
)


def _filled(value: Any, known: dict[str, str]) -> Any:
    """With {room}, {user} and {device} replaced, wherever they are."""
    match value:
        case str():
            for name, known_value in known.items():
                value = value.replace("{" + name + "}", known_value)
            return value
        case dict():
            return {_filled(key, known): _filled(item, known) for key, item in value.items()}
        case list():
            return [_filled(item, known) for item in value]
        case _:
            return value


def test_nul_is_refused_in_ids_and_stored_text_by_the_name_of_the_field(hearth: Any) -> None:
    alice = hearth.register("alice")
    known = {"user": alice.user_id, "device": alice.device_id, "room": alice.create_room()}
    wrong = []
    for method, path, body, errcode, field in REFUSED:
        target = path if path.startswith("/_matrix") else "/_matrix/client/v3" + path
        answer = alice.send_raw(method, _filled(target, known), _filled(body, known))
        said = answer.json()
        if (answer.status_code, said["errcode"]) != (400, errcode) or field not in said["error"].partition(": ")[0]:
            wrong.append((method, path, body, answer.status_code, said))
    assert wrong == []


def test_nul_in_the_content_of_events_and_account_data_is_text(hearth: Any) -> None:
    alice = hearth.register("alice")
    room = alice.create_room()
    event_id = alice.send(room, "a\0b")
    assert alice.get("/rooms/{}/event/{}", at=(room, event_id))["content"]["body"] == "a\0b"
    alice.put("/user/{}/account_data/org.example", {"\0": "a\0b"}, at=[alice.user_id])
    assert alice.get("/user/{}/account_data/org.example", at=[alice.user_id]) == {"\0": "a\0b"}
