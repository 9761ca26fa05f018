"""Connections that begin when another one was begun before: what memory has of the rooms is what would be built anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from homeserver.clientapi.sliding_sync import SlidingSyncEndpoints
from homeserver.rooms.client_events import WrittenList
from homeserver.runtime.db import Database
from homeserver.sync.sliding.beginnings import BASE_BYTES, MAX_RECEIPTS_BYTES, Beginning, Beginnings
from tests.sync.test_sliding_extensions import ignore, set_data
from tests.sync.test_sliding_sync import STABLE, ask, room_list

BODY = room_list(limit=3)
Step = Callable[[], object]


def without_ages(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_ages(item) for key, item in value.items() if key not in ("age", "pos", "next_batch")}
    return [without_ages(item) for item in value] if isinstance(value, list) else value


@contextmanager
def built(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The rooms that are built within."""
    rooms: list[str] = []
    build = Beginnings.get

    def get(self: Beginnings, room_id: Any, wish: Any) -> Any:
        found = build(self, room_id, wish)
        rooms.extend([] if found else [room_id])
        return found

    with monkeypatch.context() as noting:
        noting.setattr(Beginnings, "get", get)
        yield rooms


def begin(client: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """Two answers to a new connection: with what memory has of rooms, and with nothing of them."""
    known = [ask(client, BODY), client.post(STABLE, stable_body())]
    with monkeypatch.context() as forgetful:
        forgetful.setattr(Beginnings, "get", lambda *_: None)
        anew = [ask(client, BODY), client.post(STABLE, stable_body())]
    return without_ages(known), without_ages(anew)


def stable_body() -> Any:
    return {
        "lists": {"all": {"range": [0, 9], "timeline_limit": 2, "required_state": {"include": [{}]}}},
        "extensions": {"receipts": {"enabled": True}, "account_data": {"enabled": True}},
    }


def steps(alice: Any, bob: Any, room: str, other: str) -> Iterator[tuple[str, Step]]:
    """What may change what a client that begins is told of the room, each with its name."""
    sent = alice.send(room, "first")
    yield "message", lambda: bob.send(room, "hello")
    yield "own message", lambda: alice.send(room, "mine")
    yield "receipt", lambda: alice.post("/rooms/{}/receipt/m.read/{}", at=(room, sent))
    yield "receipt of another", lambda: bob.post("/rooms/{}/receipt/m.read/{}", at=(room, bob.send(room, "x")))
    yield "topic", lambda: alice.set_state(room, "m.room.topic", {"topic": "About"})
    yield "topic again", lambda: alice.set_state(room, "m.room.topic", {"topic": "About something else"})
    yield "name", lambda: alice.set_state(room, "m.room.name", {"name": "Named"})
    yield "redacted name", lambda: alice.redact(room, alice.set_state(room, "m.room.name", {"name": "Gone"}))
    yield "redaction", lambda: bob.redact(room, bob.send(room, "secret"))
    edited = alice.send(room, "edited")
    edit: dict[str, Any] = {"body": "* new", "m.new_content": {"body": "new"}}
    edit["m.relates_to"] = {"rel_type": "m.replace", "event_id": edited}
    yield "edit", lambda: alice.send(room, edit)
    yield "display name", lambda: bob.put("/profile/{}/displayname", {"displayname": "Bob B."}, at=[bob.user_id])
    yield "tag", lambda: alice.put("/user/{}/rooms/{}/tags/m.favourite", {}, at=(alice.user_id, room))
    yield "account data", lambda: set_data(alice, room, "m.x", {"x": 1})
    direct = {bob.user_id: [room]}
    yield "direct room", lambda: alice.put("/user/{}/account_data/m.direct", direct, at=[alice.user_id])
    rule = "/pushrules/global/override/.m.rule.suppress_notices/enabled"
    yield "push rule", lambda: alice.put(rule, {"enabled": False})
    yield "message that is in another room", lambda: bob.send(other, "there")
    yield "ignored sender", lambda: ignore(alice, bob)
    yield "sender not ignored any more", lambda: ignore(alice)
    yield "visibility", lambda: alice.set_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    yield "leave of another", lambda: bob.leave(room)
    yield "own leave", lambda: alice.leave(other)


def test_what_is_remembered_is_what_would_be_built(alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room, other = (alice.create_room(preset="public_chat") for _ in range(2))
    for room_id in (room, other):
        bob.join(room_id)
    last: Any = None
    for name, step in steps(alice, bob, room, other):
        begin(alice, monkeypatch)
        step()
        known, anew = begin(alice, monkeypatch)
        assert known == anew, name
        assert known != last, name
        last = known
    assert set(last[0]["rooms"]) == {room}


def test_an_erased_user_is_shown_as_such(alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    room = bob.create_room(preset="public_chat")
    bob.send(room, "secret")
    alice.join(room)
    assert "secret" in str(ask(alice, BODY)["rooms"][room]["timeline"])
    user = {"type": "m.id.user", "user": bob.user_id}
    auth = {"type": "m.login.password", "identifier": user, "password": "password of the tests"}
    session = bob.post("/account/deactivate", {"erase": True}, expect=401)["session"]
    bob.post("/account/deactivate", {"erase": True, "auth": {**auth, "session": session}})
    known, anew = begin(alice, monkeypatch)
    assert known == anew
    assert "secret" not in str(known)


def test_rooms_in_which_nothing_happened_are_not_built_again(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = [alice.create_room(preset="public_chat") for _ in range(3)]
    first = ask(alice, BODY)
    bob.join(rooms[1])
    with built(monkeypatch) as anew:
        second = ask(alice, BODY)
        ask(alice, room_list(limit=3, last=1) | {"conn_id": "other"})
    assert set(anew) == {rooms[1]}
    assert set(second["rooms"]) == set(first["rooms"]) == set(rooms)
    ages = [answer["rooms"][rooms[0]]["timeline"][-1]["unsigned"]["age"] for answer in (first, second)]
    assert ages[0] <= ages[1]


def test_a_client_that_begins_again_is_answered_without_the_database(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    alice.post("/rooms/{}/receipt/m.read/{}", at=(room, bob.send(room, "hello")))
    set_data(alice, room, "m.x", {"x": 1})
    first = ask(alice, BODY)
    reads: list[Any] = []
    read = Database.read

    def noted(self: Database, fn: Any, *args: Any) -> Any:
        reads.append(fn)
        return read(self, fn, *args)

    with monkeypatch.context() as noting:
        noting.setattr(Database, "read", noted)
        second = ask(alice, BODY)
    assert reads == []
    assert without_ages(second) == without_ages(first)
    assert set(second["extensions"]) == {"account_data", "receipts"}


def test_another_device_and_another_user_have_their_own(
    hearth: Any, alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone = hearth.client()
    phone.login("alice", "password of the tests")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    alice.send(room, "mine")
    transaction = [ask(alice, BODY)["rooms"][room]["timeline"][-1]["unsigned"].get("transaction_id")]
    for client in (phone, bob, alice):
        known, anew = begin(client, monkeypatch)
        assert known == anew
        transaction.append(known[0]["rooms"][room]["timeline"][-1]["unsigned"].get("transaction_id"))
    assert [text is not None for text in transaction] == [True, False, False, True]


def test_memory_is_bounded() -> None:
    beginnings = Beginnings(max_bytes=10)
    kept: list[Any] = []
    for number in range(8):
        kept.append(_Sized(3))
        beginnings.put(f"!{number}:test", "wish", kept[-1])  # type: ignore[arg-type]
    assert [beginnings.get(f"!{n}:test", "wish") for n in range(8)] == [None] * 5 + kept[5:]  # type: ignore[arg-type]
    beginnings.put("!huge:test", "wish", _Sized(1024**2))  # type: ignore[arg-type]
    assert beginnings.get("!huge:test", "wish") is None  # type: ignore[arg-type]


def test_what_large_requests_ask_for_is_not_kept(hearth: Any, alice: Any) -> None:
    endpoints = hearth.running.services.sync.endpoints
    (sliding,) = [each for each in endpoints if isinstance(each, SlidingSyncEndpoints)]
    beginnings = sliding._service.beginnings
    room = alice.create_room()
    for letter, kept in (("x", 1), ("y", 1), ("", 2)):
        body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": 0, "required_state": [[letter * 5_000, ""]]}}}
        body["extensions"] = {"receipts": {"enabled": not letter}}
        assert room in ask(alice, body)["rooms"]
        assert room in ask(alice, BODY)["rooms"]
        assert (len(sliding._wanted), len(beginnings._rooms[room]), len(beginnings._wishes)) == (kept, kept, kept)
    empty = min(each.size for each in beginnings._rooms[room].values())
    assert empty == BASE_BYTES + len(b"[][]")


def test_percent_signs_stay_what_they_are(alice: Any) -> None:
    """Memory has events as templates for their ages."""
    room, text = alice.create_room(), "%d of 100 % (%%s)"
    sent = alice.put("/rooms/{}/send/m.room.message/{}", {"msgtype": "m.text", "body": text}, at=(room, text))
    for _ in range(2):
        event = ask(alice, BODY)["rooms"][room]["timeline"][-1]
        assert (event["event_id"], event["content"]["body"]) == (sent["event_id"], text)
        assert event["unsigned"]["transaction_id"] == text
        assert 0 <= event["unsigned"]["age"] < 1_000_000


def test_many_receipts_are_not_kept() -> None:
    beginning = Beginning({}, WrittenList.of([]), WrittenList.of([]), [], frozenset())
    beginning.keep_receipts(b"{}" + b" " * MAX_RECEIPTS_BYTES)
    assert beginning.receipts is None
    beginning.keep_receipts(b"")
    assert beginning.receipts == b""


class _Sized:
    def __init__(self, size: int) -> None:
        self.size = size
