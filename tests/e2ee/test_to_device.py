"""Messages to devices: once each, in order, until they are acknowledged."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

PASSWORD = "password of the tests"


def send(sender: Client, txn_id: str, messages: Any, type_: str = "m.test", **about: Any) -> Any:
    return sender.put("/sendToDevice/{}/{}", {"messages": messages}, at=(type_, txn_id), **about)


def received(answer: Any) -> list[int]:
    return [event["content"]["n"] for event in answer.get("to_device", {}).get("events", [])]


def test_a_message_comes_until_it_is_acknowledged(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    start = bob.sync()["next_batch"]
    send(alice, "1", {bob.user_id: {bob.device_id: {"n": 1}}})
    first = bob.sync(since=start)
    assert first["to_device"]["events"] == [{"type": "m.test", "sender": alice.user_id, "content": {"n": 1}}]
    assert received(bob.sync(since=start)) == [1]  # as after a lost answer
    after = bob.sync(since=first["next_batch"])
    assert received(after) == []
    assert received(bob.sync(since=start)) == []  # acknowledged is gone
    assert received(bob.sync(since=None)) == []


def test_a_transaction_is_done_once(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    other = hearth.client()
    other.login("alice", PASSWORD)
    for sender in (alice, alice, other):
        send(sender, "same", {bob.user_id: {bob.device_id: {"n": 1}}})
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    send(alice, "same", {bob.user_id: {bob.device_id: {"n": 2}}})
    assert received(bob.sync()) == [1, 1]


def test_all_devices_are_reached_by_a_star(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    second = hearth.client()
    second.login("bob", PASSWORD)
    send(alice, "1", {bob.user_id: {"*": {"n": 1}, second.device_id: {"n": 2}, "UNKNOWN": {"n": 3}}})
    assert received(bob.sync()) == [1]
    assert received(second.sync()) == [2]
    send(alice, "2", {"@nobody:test.example": {"*": {"n": 1}}})


def test_a_backlog_is_paged(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    start = bob.sync()["next_batch"]
    for n in range(230):
        send(alice, str(n), {bob.user_id: {bob.device_id: {"n": n}}})
    pages = []
    token = start
    while page := received(answer := bob.sync(since=token)):
        pages.append(page)
        token = answer["next_batch"]
    assert [len(page) for page in pages] == [100, 100, 30]
    assert [n for page in pages for n in page] == list(range(230))
    waiting_again = bob.sync(since=token)
    assert received(waiting_again) == []


def test_a_waiting_client_is_woken(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    start = bob.sync()["next_batch"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bob.sync, since=start, timeout=60_000)
        send(alice, "1", {bob.user_id: {bob.device_id: {"n": 1}}})
        assert received(waiting.result(120)) == [1]


def test_malformed_messages_name_the_field(hearth: Any) -> None:
    alice = hearth.register("alice")
    for messages, named in (
        ({"bob": {"D": {}}}, "messages.bob"),
        ({"@bob:test.example": []}, "messages.@bob:test.example"),
        ({"@bob:test.example": {"D": 1}}, "messages.@bob:test.example.D"),
        ({"@bob:test.example": {"D\0": {}}}, "messages.@bob:test.example"),
    ):
        error = send(alice, "1", messages, expect=400)
        assert error["errcode"] == "M_INVALID_PARAM"
        assert named in error["error"]
    large = {alice.user_id: {alice.device_id: {"body": "x" * 70_000}}}
    assert send(alice, "2", large, expect=413)["errcode"] == "M_TOO_LARGE"
    many = {"@bob:test.example": {f"D{n}": {} for n in range(10_000)}}
    assert send(alice, "3", many) == {}
    too_many = {"not looked at": {f"D{n}": 1 for n in range(100_001)}}
    error = send(alice, "4", too_many, expect=413)
    assert (error["errcode"], error["error"]) == ("M_TOO_LARGE", "messages: 100001 entries, of at most 100000")


def test_a_transaction_id_is_one_of_its_path(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    messages = {bob.user_id: {bob.device_id: {"n": 1}}}
    for type_ in ("com.example.one", "com.example.two", "com.example.one"):
        alice.put("/sendToDevice/{}/1", {"messages": messages}, at=[type_])
    types = [event["type"] for event in bob.sync()["to_device"]["events"]]
    assert types == ["com.example.one", "com.example.two"]


@pytest.mark.parametrize("ahead", ["s999999_1", "s999999_999999999999999", "s1_1_999999"])
def test_a_token_of_before_the_database_was_restored_acknowledges_nothing(hearth: Any, ahead: str) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    send(alice, "1", {bob.user_id: {bob.device_id: {"n": 1}}})
    first = bob.sync(since=ahead)
    assert received(first) == [1]
    assert received(bob.sync(since=ahead)) == [1]
    assert received(bob.sync(since=first["next_batch"])) == []
    assert received(bob.sync()) == []
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bob.sync, since=ahead, timeout=60_000)
        send(alice, "2", {bob.user_id: {bob.device_id: {"n": 2}}})
        assert received(waiting.result(120)) == [2]


def test_messages_of_a_device_go_with_it(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    send(alice, "1", {bob.user_id: {bob.device_id: {"n": 1}}})
    device = bob.device_id
    bob.logout()
    bob.login("bob", PASSWORD, device_id=device)
    assert received(bob.sync(since=None)) == []


def test_endpoints_that_deliver_no_messages_acknowledge_none(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    send(alice, "1", {bob.user_id: {bob.device_id: {"n": 1}}})
    end = bob.get("/initialSync")["end"]
    bob.get("/events", query={"from": end, "timeout": 0})
    assert received(bob.sync(since=None)) == [1]


@pytest.mark.parametrize("bound", [("MAX_WAITING", 5), ("MAX_WAITING_BYTES", 330)], ids=["number", "size"])
def test_what_waits_for_a_device_that_never_comes_is_bounded(
    hearth: Any, monkeypatch: pytest.MonkeyPatch, bound: tuple[str, int]
) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    for n in range(12):
        send(alice, str(n), {bob.user_id: {bob.device_id: {"n": n}}})
    to_device = hearth.running.services.encryption.to_device
    run_in_reactor(to_device.trim)
    assert len(received(bob.sync(since=None))) == 12
    monkeypatch.setattr(f"homeserver.e2ee.to_device.{bound[0]}", bound[1])
    run_in_reactor(to_device.trim)
    first = bob.sync(since=None)
    left = received(first)
    assert 1 < len(left) <= 5
    assert left == list(range(12))[-len(left) :]
    send(alice, "12", {bob.user_id: {bob.device_id: {"n": 12}}})
    assert received(bob.sync(since=first["next_batch"])) == [12]
