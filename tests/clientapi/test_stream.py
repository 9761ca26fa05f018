"""The WebSocket: what it tells, what can be asked over it, and what it does not put up with."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Iterator
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from twisted.internet.threads import deferToThread

from homeserver.clientapi.sync import RequestParser
from homeserver.runtime.websocket import STEPS_PER_TURN
from tests.kit.client import TIMEOUT_S
from tests.kit.reactor import get_reactor, run_in_reactor
from tests.kit.stream import PATH, Closed, StreamClient
from tests.kit.waiting import until_equal

WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.fixture
def open_stream() -> Iterator[Callable[..., StreamClient]]:
    opened: list[StreamClient] = []

    def start(client: Any, **about: Any) -> StreamClient:
        opened.append(StreamClient(client.base_url, client.token, **about))
        return opened[-1]

    yield start
    for stream in opened:
        stream.close()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream may be without a token for as long as a slow machine makes it."""
    monkeypatch.setattr("homeserver.clientapi.stream.AUTH_WITHIN_MS", 600_000)


def bodies(update: dict[str, Any], room: str) -> list[str]:
    events = update.get("rooms", {}).get("join", {}).get(room, {}).get("timeline", {}).get("events", [])
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


def told(stream: StreamClient, room: str) -> list[str]:
    found: list[str] = stream.update_with(lambda update: bodies(update, room))
    return found


def test_a_stream_tells_all_first_and_then_what_happens(alice: Any, open_stream: Any) -> None:
    room = alice.create_room()
    alice.send(room, "before")
    stream = open_stream(alice)
    assert stream.agreed == "m.json"
    assert bodies(stream.update(), room) == ["before"]
    assert stream.is_quiet()
    alice.send(room, "after")
    assert told(stream, room) == ["after"]


def test_a_stream_goes_on_where_another_ended(alice: Any, open_stream: Any) -> None:
    room = alice.create_room()
    first = open_stream(alice)
    first.update()
    alice.send(room, "one")
    assert told(first, room) == ["one"]
    first.close()
    alice.send(room, "two")
    again = open_stream(alice, since=first.next_batch)
    assert told(again, room) == ["two"]
    over_http = alice.get("/sync", query={"since": first.next_batch})
    assert bodies(over_http, room) == ["two"]


def test_browsers_give_their_token_as_a_subprotocol_or_first_message(alice: Any, patient: None) -> None:
    room = alice.create_room()
    origin = {"Origin": "https://app.example.org"}
    by_name = StreamClient(alice.base_url, protocols=["m.json", f"m.access_token.{alice.token}"], headers=origin)
    assert by_name.agreed == "m.json"
    assert room in by_name.update()["rooms"]["join"]
    by_message = StreamClient(alice.base_url, headers=origin)
    by_message.call("ping", expect="M_MISSING_TOKEN")
    by_message.call("auth", access_token="wrong", expect="M_UNKNOWN_TOKEN")
    assert by_message.call("auth", access_token=alice.token)["user_id"] == alice.user_id
    assert room in by_message.update()["rooms"]["join"]
    by_message.call("auth", access_token=alice.token, expect="M_FORBIDDEN")


def test_requests_are_done_in_order_and_once(alice: Any, bob: Any, open_stream: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    stream = open_stream(alice)
    for n in range(40):
        params = {"room_id": room, "event_type": "m.room.message", "content": {"body": str(n), "msgtype": "m.text"}}
        stream.send({"id": f"s{n}", "method": "send", "params": {**params, "txn_id": f"t{n % 20}"}})
    sent = [stream.answer(f"s{n}")["result"]["event_id"] for n in range(40)]
    assert sent[:20] == sent[20:] and len(set(sent)) == 20
    chunk = bob.get("/rooms/{}/messages", at=[room], query={"dir": "b", "limit": 20})["chunk"]
    assert [event["event_id"] for event in chunk] == sent[19::-1]


def test_what_has_no_answer_when_the_connection_ends_is_repeated_and_done_once(alice: Any, open_stream: Any) -> None:
    room = alice.create_room()
    content = {"body": "hello", "msgtype": "m.text"}
    asked = [
        {"room_id": room, "event_type": "m.room.message", "content": content, "txn_id": f"t{n}"} for n in range(20)
    ]
    lost = open_stream(alice)
    for params in asked:
        lost.send({"id": params["txn_id"], "method": "send", "params": params})
    lost.answer("t0")
    lost.close()
    again = open_stream(alice)
    sent = [again.call("send", **params)["event_id"] for params in asked]
    chunk = alice.get("/rooms/{}/messages", at=[room], query={"dir": "b", "limit": 50})["chunk"]
    assert [event["event_id"] for event in chunk if event["type"] == "m.room.message"] == sent[::-1]


def test_state_typing_markers_and_presence_over_a_stream(start_local: Any, open_stream: Any) -> None:
    server = start_local({"presence": {"enabled": True}})
    alice, bob = server.register("alice"), server.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    said = bob.send(room, "hello")
    stream, other = open_stream(alice), open_stream(bob)
    stream.call("state", room_id=room, event_type="m.room.name", content={"name": "N"})
    assert alice.get("/rooms/{}/state/m.room.name", at=[room]) == {"name": "N"}
    stream.call("typing", room_id=room, typing=True, timeout=30_000)
    stream.call("read_markers", room_id=room, **{"m.fully_read": said, "m.read": said})
    stream.call("presence", presence="unavailable", status_msg="away")

    def seen(update: dict[str, Any]) -> Any:
        joined = update.get("rooms", {}).get("join", {}).get(room, {})
        kinds.update(event["type"] for event in joined.get("ephemeral", {}).get("events", []))
        kinds.update(
            event["content"]["presence"]
            for event in update.get("presence", {}).get("events", [])
            if event["sender"] == alice.user_id
        )
        return kinds >= {"m.typing", "m.receipt", "unavailable"}

    kinds: set[str] = set()
    assert other.update_with(seen)
    stored = alice.get("/user/{}/rooms/{}/account_data/m.fully_read", at=[alice.user_id, room])
    assert stored == {"event_id": said}


def test_messages_to_the_device_stay_until_they_are_acknowledged(alice: Any, bob: Any, open_stream: Any) -> None:
    def send(n: int) -> None:
        messages = {alice.user_id: {alice.device_id: {"n": n}}}
        bob.put("/sendToDevice/{}/{}", {"messages": messages}, at=("x.y", f"t{n}"))

    def numbers(update: dict[str, Any]) -> list[int]:
        return [event["content"]["n"] for event in update.get("to_device", {}).get("events", [])]

    stream = open_stream(alice)
    before = stream.update()["next_batch"]
    send(1)
    assert stream.update_with(numbers) == [1]
    send(2)
    assert stream.update_with(numbers) == [2]
    stream.close()
    again = open_stream(alice, since=before)
    assert again.update_with(numbers) == [1, 2]
    again.call("ack", next_batch=again.next_batch)
    send(3)
    assert again.update_with(numbers) == [3]
    again.close()
    assert open_stream(alice, since=before).update_with(numbers) == [3]


def test_many_messages_to_the_device_come_in_pages(alice: Any, bob: Any, open_stream: Any) -> None:
    for n in range(230):
        messages = {alice.user_id: {alice.device_id: {"n": n}}}
        bob.put("/sendToDevice/{}/{}", {"messages": messages}, at=("x.y", f"t{n}"))
    stream = open_stream(alice)
    pages = [len(stream.update()["to_device"]["events"]) for _ in range(3)]
    assert pages == [100, 100, 30]
    stream.call("ack", next_batch=stream.next_batch)
    assert "to_device" not in alice.get("/sync")


def test_a_wrong_request_has_its_error_and_harms_no_other(alice: Any, open_stream: Any) -> None:
    room = alice.create_room()
    stream = open_stream(alice)
    stream.call("dance", expect="M_UNRECOGNIZED")
    stream.call("send", room_id=room, event_type="x.y", expect="M_MISSING_PARAM")
    stream.call("send", room_id=room, event_type="x.y", content=[], expect="M_BAD_JSON")
    stream.call("send", room_id="!no:where", event_type="x.y", content={}, expect="M_FORBIDDEN")
    stream.call("send", room_id=room, event_type="x\0y", content={}, expect="M_BAD_JSON")
    stream.call("ack", next_batch="s9999999_0", expect="M_INVALID_PARAM")
    stream.call("ack", next_batch="x", expect="M_INVALID_PARAM")
    assert stream.call("send", room_id=room, event_type="x.y", content={})["event_id"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"{", 1007),
        (b"[]", 4400),
        (b'{"id": 3, "method": "ping"}', 4400),
        (b'{"id": "1"}', 4400),
        (b'{"id": "1", "method": "ping", "params": 3}', 4400),
        (b'{"id": "1", "method": "ping", "params": {"x": "' + b"x" * 300_000 + b'"}}', 1009),
        (b"\xff\xfe", 1007),
    ],
)
def test_garbage_closes_the_stream(alice: Any, open_stream: Any, message: bytes, code: int) -> None:
    room = alice.create_room()
    stream, other = open_stream(alice), open_stream(alice)
    stream.send_text(message)
    assert stream.closed().code == code
    other.update()
    alice.send(room, "still here")
    assert told(other, room) == ["still here"]


def test_what_comes_behind_garbage_is_not_done(alice: Any, open_stream: Any) -> None:
    room = alice.create_room()
    stream = open_stream(alice)
    params = {"room_id": room, "event_type": "m.room.message", "content": {"body": "too late"}}
    texts = [b"[]", json.dumps({"id": "1", "method": "send", "params": params}).encode()]
    run_in_reactor(lambda: [stream.protocol.sendMessage(text) for text in texts])
    assert stream.closed().code == 4400
    alice.send(room, "still here")
    chunk = alice.get("/rooms/{}/messages", at=(room,), query={"dir": "b"})["chunk"]
    assert bodies({"rooms": {"join": {room: {"timeline": {"events": chunk}}}}}, room) == ["still here"]


def test_many_small_frames_leave_others_their_turn(alice: Any, open_stream: Any, monkeypatch: Any) -> None:
    frames, reactor = 10_000, get_reactor()
    of_turns = [0]  # how many frames are read in each

    def note(_protocol: Any, _payload: bytes) -> None:
        if not of_turns[-1]:
            reactor.callLater(0, of_turns.append, 0)
        of_turns[-1] += 1

    monkeypatch.setattr("autobahn.twisted.websocket.WebSocketServerProtocol.onPong", note)
    stream = open_stream(alice)
    pong = b"\x8a\x80\0\0\0\0"
    run_in_reactor(stream.protocol.transport.write, pong * frames)
    stream.call("ping")
    assert sum(of_turns) == frames
    assert max(of_turns) <= STEPS_PER_TURN


def test_binary_messages_close_the_stream(alice: Any, open_stream: Any) -> None:
    stream = open_stream(alice)
    stream.send_text(b"{}", binary=True)
    assert stream.closed().code == 1003


def test_a_stream_ends_with_its_token(alice: Any, hearth: Any, open_stream: Any) -> None:
    phone = hearth.client()
    phone.login("alice", "password of the tests")
    stream, other = open_stream(alice), open_stream(phone)
    alice.post("/logout")
    closed = stream.closed()
    assert (closed.code, closed.reason) == (4401, "M_UNKNOWN_TOKEN")
    other.call("ping")


@pytest.mark.parametrize("by_message", [False, True])
def test_a_stream_ends_whose_token_goes_while_it_opens(
    alice: Any, open_stream: Any, monkeypatch: pytest.MonkeyPatch, patient: None, by_message: bool
) -> None:
    parse = RequestParser.parse

    async def parse_slowly(parser: RequestParser, *args: Any) -> Any:
        request = await parse(parser, *args)
        await deferToThread(alice.post, "/logout")
        return request

    monkeypatch.setattr(RequestParser, "parse", parse_slowly)
    token = alice.token
    stream = StreamClient(alice.base_url) if by_message else open_stream(alice)
    if by_message:
        stream.send({"id": "1", "method": "auth", "params": {"access_token": token}})
    closed = stream.closed()
    assert (closed.code, closed.reason) == (4401, "M_UNKNOWN_TOKEN")


def test_news_are_sent_before_what_closes_the_stream(alice: Any, hearth: Any, open_stream: Any) -> None:
    room = alice.create_room()
    stream = open_stream(alice)
    stream.update()
    streams, outgoing = hearth.running.services.stream.streams, hearth.running.services.sync.notifier.outgoing

    def tell_and_close() -> None:
        with outgoing.together():
            (only,) = streams._by_user[alice.user_id]
            only.send_update(b'{"next_batch":"s1_1","rooms":{"join":{"%b":{}}}}' % room.encode())
            only.close(4401, "M_UNKNOWN_TOKEN")

    run_in_reactor(tell_and_close)
    assert room in stream.update()["rooms"]["join"]
    assert stream.closed().code == 4401


def test_a_stream_that_fails_ends_alone(alice: Any, bob: Any, hearth: Any, open_stream: Any, monkeypatch: Any) -> None:
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    failing, other = open_stream(alice), open_stream(bob)
    failing.update()
    other.update()
    service = hearth.running.services.sync.service
    look = service._look

    def fail_for_alice(view: Any, request: Any) -> Any:
        if request.user_id == alice.user_id:
            raise ZeroDivisionError
        return look(view, request)

    monkeypatch.setattr(type(service), "_look", lambda self, view, request: fail_for_alice(view, request))
    bob.send(room, "news")
    assert told(other, room) == ["news"]
    assert failing.closed().code == 1011


def test_a_stream_that_is_reset_ends_and_harms_no_other(alice: Any, bob: Any, hearth: Any, open_stream: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    other = open_stream(bob)
    other.update()
    head = "".join(
        f"{name}: {value}\r\n" for name, value in {**WEBSOCKET, "Authorization": f"Bearer {alice.token}"}.items()
    )
    address = urlsplit(hearth.url)
    own = socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_S)
    own.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
    came = b""
    while b"next_batch" not in came:
        came += own.recv(65536)
    gate = Event()
    get_reactor().callFromThread(gate.wait, TIMEOUT_S)  # so that the server sees both at once
    own.sendall(b"\x8a\x80\0\0\0\0")
    own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    own.close()
    gate.set()
    alice.send(room, "still here")
    assert told(other, room) == ["still here"]
    until_equal(bob, lambda: hearth.running.services.stream.streams.count, 1)


def test_a_stopping_server_closes_its_streams(alice: Any, hearth: Any, open_stream: Any, patient: None) -> None:
    nameless, stream = StreamClient(alice.base_url), open_stream(alice)
    stream.update()
    hearth.restart()
    assert (stream.closed().code, nameless.closed().code) == (1012, 1012)
    again = StreamClient(hearth.url, alice.token, since=stream.next_batch)
    again.call("ping")


def test_a_client_that_does_not_read_is_told_all_at_once_later(alice: Any, hearth: Any, open_stream: Any) -> None:
    room = alice.create_room()
    slow, quick = open_stream(alice), open_stream(alice)
    slow.update()
    quick.update()
    slow.stop_reading()
    filler = "x" * 50_000
    for n in range(120):  # more than the buffers of both ends hold
        alice.send(room, f"{n} {filler}")
    wanted = [str(n) for n in range(120)]
    assert numbers_told(quick, room, "119") == wanted
    slow.resume_reading()
    seen = numbers_told(slow, room, "119")
    assert seen[-1] == "119" and len(seen) < 120
    assert hearth.running.services.stream.streams.count == 2


def numbers_told(stream: StreamClient, room: str, last: str) -> list[str]:
    found: list[str] = []
    while not found or found[-1] != last:
        found += [body.partition(" ")[0] for body in told(stream, room)]
    return found


def test_answers_wait_for_a_client_that_does_not_read(alice: Any, open_stream: Any) -> None:
    stream = open_stream(alice)
    stream.update()
    stream.stop_reading()
    asked = 3_000
    for n in range(asked):
        stream.send({"id": f"p{n}", "method": "ping"})
    stream.resume_reading()
    assert [stream.answer(f"p{n}")["result"] for n in range(asked)] == [{}] * asked


def test_rates_are_those_of_the_requests(start_local: Any, open_stream: Any) -> None:
    server = start_local({"rate_limits": {"enabled": True, "message": {"per_second": 0.01, "burst": 2}}})
    alice = server.register("alice")
    room = alice.create_room()
    stream = open_stream(alice)
    params = {"room_id": room, "event_type": "x.y", "content": {}}
    for _ in range(2):
        stream.call("send", **params)
    error = stream.call("send", **params, expect="M_LIMIT_EXCEEDED")
    assert error["retry_after_ms"] > 0
    stream.call("ping")


def test_what_is_no_websocket_is_told_so(alice: Any) -> None:
    def ask(headers: dict[str, str], query: str = "") -> tuple[int, str]:
        response = requests.get(alice.base_url + PATH + query, headers=headers, timeout=TIMEOUT_S)
        return response.status_code, response.json()["errcode"]

    own = {"Authorization": f"Bearer {alice.token}"}
    assert ask(own) == (426, "M_UNRECOGNIZED")
    assert ask({**WEBSOCKET, "Authorization": "Bearer wrong"}) == (401, "M_UNKNOWN_TOKEN")
    assert ask(WEBSOCKET, f"?access_token={alice.token}") == (400, "M_INVALID_PARAM")
    assert ask({**own, **WEBSOCKET}, "?since=x") == (400, "M_INVALID_PARAM")
    assert ask({**own, **WEBSOCKET}, "?filter=nonesuch") == (400, "M_INVALID_PARAM")
    assert ask({**own, **WEBSOCKET, "Sec-WebSocket-Protocol": "a, a"}) == (400, "M_INVALID_PARAM")
    response = requests.get(
        alice.base_url + PATH, headers={**own, **WEBSOCKET, "Sec-WebSocket-Version": "7"}, timeout=TIMEOUT_S
    )
    assert response.status_code == 400 and response.headers["Sec-WebSocket-Version"]
    assert response.json()["errcode"] == "M_INVALID_PARAM" and "version 7" in response.json()["error"]
    assert ask({**own, **WEBSOCKET, "Sec-WebSocket-Key": "x"}) == (400, "M_INVALID_PARAM")
    assert ask({**own, **WEBSOCKET, "Connection": "close"}) == (400, "M_INVALID_PARAM")


def test_nobody_stays_without_a_token(hearth: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("homeserver.clientapi.stream.AUTH_WITHIN_MS", 50)
    stream = StreamClient(hearth.url)
    assert stream.closed().code == 4408


def test_a_user_has_a_bounded_number_of_streams(alice: Any, open_stream: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("homeserver.clientapi.stream.MAX_STREAMS_OF_USER", 2)
    first = open_stream(alice)
    open_stream(alice)
    with pytest.raises((Closed, AssertionError)) as refused:
        open_stream(alice).update()
    assert isinstance(refused.value, Closed) and refused.value.code == 4429
    first.close()
