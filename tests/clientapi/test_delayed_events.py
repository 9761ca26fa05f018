"""Delayed events (MSC4140)."""

from __future__ import annotations

import logging
from queue import Queue
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.runtime.background import Background
from homeserver.runtime.clock import ManualClock
from homeserver.store.delayed_events import (
    DelayedEvent,
    Retention,
    begin_sending,
    finalise_delayed_event,
    finalise_outdated,
    load_begun,
    load_due,
    load_finalised_event,
    save_delayed_event,
)
from tests.kit.client import bodies
from tests.kit.databases import transaction
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
PATH = f"{UNSTABLE}/delayed_events"
STABLE = "/_matrix/client/v1/delayed_events"
DELAY = "org.matrix.msc4140.delay"
LATER = 3_600_000


def schedule(client: Any, room: str, delay_ms: int, body: str = "later") -> str:
    content = {"msgtype": "m.text", "body": body}
    path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{body}"
    answer = client.send_raw("PUT", path, content, query={DELAY: delay_ms})
    assert answer.status_code == 200, answer.text
    delay_id: str = answer.json()["delay_id"]
    return delay_id


def sent(client: Any, room: str) -> list[str]:
    return bodies(client.messages(room, limit=50)["chunk"])


def test_an_event_is_sent_when_its_time_has_come(alice: Any) -> None:
    room = alice.create_room()
    alice.sync()
    schedule(alice, room, 300)
    answer = alice.sync(timeout=60_000)
    assert bodies(answer["rooms"]["join"][room]["timeline"]["events"]) == ["later"]
    # It is forgotten by the next commit.
    until(alice, lambda: alice.get(PATH) == {"delayed_events": []})
    assert sent(alice, room) == ["later"]


def test_what_waits_is_listed_and_can_be_sent_or_cancelled(hearth: Any, alice: Any) -> None:
    room = alice.create_room()
    one, two = schedule(alice, room, LATER, "one"), schedule(alice, room, LATER, "two")
    listed = alice.get(PATH)["delayed_events"]
    assert {event["delay_id"] for event in listed} == {one, two}
    assert listed[0]["delay"] == LATER
    assert listed[0]["content"]["msgtype"] == "m.text"
    alice.post(f"{PATH}/{one}", {"action": "send"})
    alice.post(f"{PATH}/{two}/cancel")
    assert sent(alice, room) == ["one"]
    for delay_id in (one, two, "unknown"):
        assert alice.post(f"{PATH}/{delay_id}/restart", expect=404)["errcode"] == "M_NOT_FOUND"
    bob = hearth.register("bob")
    three = schedule(alice, room, LATER, "three")
    assert bob.get(PATH) == {"delayed_events": []}
    assert alice.post(f"{PATH}/{three}", {"action": "dance"}, expect=400)["errcode"] == "M_BAD_JSON"
    for path in (PATH, STABLE):
        assert alice.post(f"{path}/{three}/dance", expect=404)["errcode"] == "M_UNRECOGNIZED"


def test_the_same_transaction_schedules_one_event(hearth: Any, alice: Any) -> None:
    room = alice.create_room()
    sent_one, cancelled = schedule(alice, room, LATER, "one"), schedule(alice, room, LATER, "two")
    assert schedule(alice, room, LATER, "one") == sent_one
    assert len(alice.get(PATH)["delayed_events"]) == 2
    alice.post(f"{PATH}/{sent_one}/send")
    alice.post(f"{PATH}/{cancelled}/cancel")
    hearth.restart()
    alice.base_url = hearth.url
    assert [schedule(alice, room, LATER, body) for body in ("one", "two")] == [sent_one, cancelled]
    assert alice.get(PATH) == {"delayed_events": []}
    assert sent(alice, room) == ["one"]


def test_restarting_begins_the_time_anew(alice: Any) -> None:
    room = alice.create_room()
    delay_id = schedule(alice, room, LATER)
    before = alice.get(PATH)["delayed_events"][0]["running_since"]
    alice.post(f"{PATH}/{delay_id}/restart")
    assert alice.get(PATH)["delayed_events"][0]["running_since"] >= before


def test_state_is_delayed_too_and_outlives_a_restart_of_the_server(hearth: Any, alice: Any) -> None:
    room = alice.create_room()
    path = f"/_matrix/client/v3/rooms/{room}/state/m.room.topic"
    delay_id = alice.send_raw("PUT", path, {"topic": "later"}, query={DELAY: LATER}).json()["delay_id"]
    alice.send_raw("PUT", path, {"topic": "soon"}, query={DELAY: 1})
    hearth.restart()
    alice.base_url = hearth.url
    until(alice, lambda: [event["delay_id"] for event in alice.get(PATH)["delayed_events"]] == [delay_id])
    assert alice.get_state(room, "m.room.topic") == {"topic": "soon"}
    alice.post(f"{PATH}/{delay_id}/send")
    assert alice.get_state(room, "m.room.topic") == {"topic": "later"}


def test_an_event_that_may_not_be_sent_waits_for_its_time_and_says_then_why_it_was_not(
    hearth: Any, alice: Any, database_url: str
) -> None:
    bob = hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    delay_id = schedule(bob, room, LATER)
    alice.kick(room, bob.user_id)
    assert bob.post(f"{PATH}/{delay_id}/send", expect=403)["errcode"] == "M_FORBIDDEN"
    assert [event["delay_id"] for event in bob.get(PATH)["delayed_events"]] == [delay_id]
    let_time_pass(hearth, database_url)
    bob.base_url = alice.base_url = hearth.url
    until(bob, lambda: bob.get(PATH) == {"delayed_events": []})
    found = bob.get(f"{STABLE}/{delay_id}")
    assert found["error"]["errcode"] == "M_FORBIDDEN"
    assert found["finalised_ts"] > 0
    assert "event_id" not in found
    assert sent(alice, room) == []


def test_what_became_of_an_event_is_told_its_user_alone(hearth: Any, alice: Any) -> None:
    bob, room = hearth.register("bob"), alice.create_room()
    one, two, three = (schedule(alice, room, LATER, body) for body in ("one", "two", "three"))
    alice.post(f"{STABLE}/{one}/send")
    alice.post(f"{STABLE}/{two}/cancel")
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    found = [alice.get(f"{STABLE}/{delay_id}") for delay_id in (one, two, three)]
    assert [event["content"]["body"] for event in found] == ["one", "two", "three"]
    assert found[0]["event_id"] == alice.messages(room, limit=1)["chunk"][0]["event_id"]
    assert found[0]["scheduled_at"] <= found[0]["finalised_ts"] < found[0]["scheduled_at"] + found[0]["delay_ms"]
    assert set(found[1]) == set(found[2]) | {"finalised_ts"}
    assert [event["delay_id"] for event in alice.get(STABLE)["delayed_events"]] == [three]
    for delay_id in (one, two, three):
        assert bob.get(f"{STABLE}/{delay_id}", expect=404)["errcode"] == "M_NOT_FOUND"
        assert bob.post(f"{STABLE}/{delay_id}/cancel", expect=404)["errcode"] == "M_NOT_FOUND"
    assert alice.get(f"{STABLE}/{three}") == found[2]


def test_the_same_action_again_has_the_same_answer_and_another_conflicts(alice: Any) -> None:
    room = alice.create_room()
    one, two = schedule(alice, room, LATER, "one"), schedule(alice, room, LATER, "two")
    for _ in range(2):
        assert alice.post(f"{STABLE}/{one}/send") == {}
        assert alice.post(f"{STABLE}/{two}/cancel") == {}
    for delay_id, action in ((one, "cancel"), (one, "restart"), (two, "send"), (two, "restart")):
        assert alice.post(f"{STABLE}/{delay_id}/{action}", expect=409)["errcode"] == "M_UNKNOWN"
    assert alice.post(f"{STABLE}/unknown/send", expect=404)["errcode"] == "M_NOT_FOUND"
    assert sent(alice, room) == ["one"]


def test_events_are_scheduled_with_an_endpoint_of_their_own(alice: Any) -> None:
    room = alice.create_room()
    for number, (prefix, name) in enumerate((("/_matrix/client/v3", "delay_ms"), (UNSTABLE, "delay"))):
        path = f"{prefix}/rooms/{room}/delayed_event"
        message = {"content": {"body": f"message {number}"}, name: LATER}
        first = alice.put(f"{path}/m.room.message/{number}", message)["delay_id"]
        assert alice.put(f"{path}/m.room.message/{number}", message) == {"delay_id": first}
        state = {"content": {"topic": f"topic {number}"}, "state_key": "", name: LATER}
        second = alice.put(f"{path}/m.room.topic/{number}", state)["delay_id"]
        assert [event["delay_ms"] for event in alice.get(f"{UNSTABLE}/delayed_events")["delayed_events"]] == [LATER] * 2
        for delay_id in (first, second):
            alice.post(f"{STABLE}/{delay_id}/send")
        assert sent(alice, room)[0] == f"message {number}"
        assert alice.get_state(room, "m.room.topic") == {"topic": f"topic {number}"}
    path = f"/_matrix/client/v3/rooms/{room}/delayed_event/m.room.message"
    assert alice.put(f"{path}/a", {"content": {}}, expect=400)["errcode"] == "M_MISSING_PARAM"
    assert alice.put(f"{path}/b", {"delay_ms": LATER}, expect=400)["errcode"] == "M_MISSING_PARAM"
    for delay_ms, status, errcode in ((0, 400, "M_INVALID_PARAM"), (10**12, 403, "M_FORBIDDEN")):
        refused = alice.put(f"{path}/c", {"content": {}, "delay_ms": delay_ms}, expect=status)
        assert refused["errcode"] == errcode and refused["error"].startswith("delay_ms: ")


def test_who_has_too_many_is_told_when_the_next_is_sent(alice: Any) -> None:
    room = alice.create_room()
    most = alice.get("/capabilities")["capabilities"]["m.delayed_events"]["max_scheduled"]
    for number in range(most):
        schedule(alice, room, LATER, f"{number}")
    path = f"/_matrix/client/v3/rooms/{room}/delayed_event/m.room.message/more"
    refused = alice.send_raw("PUT", path, {"content": {}, "delay_ms": 1_000})
    assert refused.status_code == 429
    assert refused.json()["errcode"] == "M_LIMIT_EXCEEDED"
    assert LATER / 1_000 - 600 < int(refused.headers["Retry-After"]) <= LATER / 1_000


def test_an_event_that_was_delayed_tells_its_sender_and_nobody_else_the_delay_id(hearth: Any, alice: Any) -> None:
    bob = hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    other_device = alice.another_device()
    since, of_bob = other_device.sync()["next_batch"], bob.sync()["next_batch"]
    path = f"{UNSTABLE}/rooms/{room}/delayed_event"
    ids = [
        alice.put(f"{path}/m.room.message/1", {"content": {"body": "later"}, "delay": LATER})["delay_id"],
        alice.put(f"{path}/m.a/2", {"content": {}, "state_key": "", "delay": LATER})["delay_id"],
    ]
    for delay_id in ids:
        alice.post(f"{STABLE}/{delay_id}/send")
    timelines = [
        other_device.sync(since=since)["rooms"]["join"][room]["timeline"]["events"],
        alice.messages(room, limit=2)["chunk"][::-1],
    ]
    for events in timelines:
        told = [event["unsigned"] for event in events]
        assert [unsigned["delay_id"] for unsigned in told] == ids
        assert [unsigned["org.matrix.msc4140.delay_id"] for unsigned in told] == ids
        assert not any("transaction_id" in unsigned for unsigned in told)
    for event in bob.sync(since=of_bob)["rooms"]["join"][room]["timeline"]["events"]:
        assert not [key for key in event["unsigned"] if "delay_id" in key or key == "transaction_id"]


def test_what_a_locked_user_scheduled_is_not_sent(hearth: Any, alice: Any, database_url: str) -> None:
    bob = hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    delay_id = schedule(bob, room, LATER)
    set_locked(hearth, bob, True)
    let_time_pass(hearth, database_url)
    bob.base_url = alice.base_url = hearth.url
    set_locked(hearth, bob, False)
    until(bob, lambda: bob.get(PATH) == {"delayed_events": []})
    assert bob.get(f"{STABLE}/{delay_id}")["error"]["errcode"] == "M_USER_LOCKED"
    assert sent(alice, room) == []


def test_finalised_events_are_kept_for_seven_days_and_a_thousand_of_a_user(database_url: str) -> None:
    day_ms, retention = 86_400_000, Retention(before_ts_ms=7 * 86_400_000, of_user=3)
    with transaction(database_url) as connection:
        for number, (user, at_ms) in enumerate((("@a:x", 1), ("@a:x", 8), ("@b:x", 9), ("@b:x", 10), ("@b:x", 11))):
            event = DelayedEvent(UserId(user), f"{number}", None, RoomId("!r"), "m.a", None, b"{}", 1, 0, 1)
            save_delayed_event(connection, event, 10, None)
            finalise_delayed_event(connection, f"{number}", at_ms * day_ms, retention)
        kept = connection.exec_driver_sql("SELECT delay_id FROM finalised_delayed_events ORDER BY delay_id")
        assert kept.scalars().all() == ["1", "2", "3", "4"]
        for number in range(5, 7):
            event = DelayedEvent(UserId("@b:x"), f"{number}", None, RoomId("!r"), "m.a", None, b"{}", 1, 0, 1)
            save_delayed_event(connection, event, 10, None)
            finalise_delayed_event(connection, f"{number}", (7 + number) * day_ms, retention)
        kept = connection.exec_driver_sql("SELECT delay_id FROM finalised_delayed_events ORDER BY delay_id")
        assert kept.scalars().all() == ["1", "4", "5", "6"]


def test_what_is_being_sent_is_not_given_up_for_state_that_another_user_sets(database_url: str) -> None:
    retention, of_key = Retention(0, 10), (RoomId("!r"), "m.a", "")
    with transaction(database_url) as connection:
        for delay_id in ("waits", "goes"):
            event = DelayedEvent(UserId("@a:x"), delay_id, None, *of_key, b"{}", 1, 0, 1)
            save_delayed_event(connection, event, 10, None)
        assert begin_sending(connection, "goes", 1)
        assert finalise_outdated(connection, *of_key, UserId("@b:x"), 1, retention, "{}")
        finalise_delayed_event(connection, "goes", 2, retention, event_id=EventId("$sent"))
        found = [load_finalised_event(connection, delay_id) for delay_id in ("waits", "goes")]
    assert [(event.event_id, event.error) for event in found if event is not None] == [(None, "{}"), ("$sent", None)]


def test_what_is_being_sent_is_not_taken_back_and_what_is_taken_back_is_not_sent(
    start_local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    hearth = start_local(clock=clock)
    alice, other = hearth.register("alice"), hearth.client()
    room = alice.create_room()
    ids = [schedule(alice, room, delay_ms, f"{delay_ms}") for delay_ms in (1_000, 1_001, 1_002)]
    send, send_due = DelayedEvents._send, DelayedEvents._send_due
    answers: list[int] = []
    rounds: Queue[None] = Queue()

    def act() -> None:
        """While the first of those that were found due is being sent."""
        for delay_id, action in ((ids[0], "cancel"), (ids[0], "restart"), (ids[1], "cancel"), (ids[2], "restart")):
            answers.append(other.send_raw("POST", f"{PATH}/{delay_id}/{action}", {}).status_code)

    async def send_meanwhile(service: DelayedEvents, event: DelayedEvent) -> None:
        if not answers:
            await deferToThread(act)
        await send(service, event)

    async def send_all(service: DelayedEvents) -> None:
        await send_due(service)
        rounds.put(None)

    monkeypatch.setattr(DelayedEvents, "_send", send_meanwhile)
    monkeypatch.setattr(DelayedEvents, "_send_due", send_all)
    for wanted in (["1000"], ["1002", "1000"]):
        run_in_reactor(clock.advance, 2_000)
        rounds.get(timeout=120)
        assert answers == [404, 404, 200, 200]
        assert sent(alice, room) == wanted


def test_what_is_being_sent_when_the_server_stops_is_sent_before(
    hearth: Any, alice: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    room = alice.create_room()
    send, stop = DelayedEvents._send, Background.stop
    begun: Queue[str] = Queue()
    stopping: Deferred[None] = Deferred()

    async def send_when_stopping(service: DelayedEvents, event: DelayedEvent) -> None:
        begun.put(event.delay_id)
        await stopping
        await send(service, event)

    async def tell_and_stop(background: Background) -> None:
        stopping.callback(None)
        await stop(background)

    with monkeypatch.context() as patches, caplog.at_level(logging.ERROR):
        patches.setattr(DelayedEvents, "_send", send_when_stopping)
        patches.setattr(Background, "stop", tell_and_stop)
        assert schedule(alice, room, 1) == begun.get(timeout=120)
        hearth.stop()
    assert not caplog.messages
    monkeypatch.setattr(DelayedEvents, "_send_due", _send_nothing)
    hearth.start()
    alice.base_url = hearth.url
    assert sent(alice, room) == ["later"]


async def _send_nothing(_service: DelayedEvents) -> None:
    """As if nothing were due."""


def test_what_a_process_took_on_that_ended_is_sent_by_another(
    start_local: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.delayed_events.LOOK_AGAIN_MS", 300)
    one, two = start_local(), start_local()
    alice = one.register("alice")
    room = alice.create_room()
    schedule(alice, room, 1_000)
    one.stop()
    alice.base_url = two.url
    until(alice, lambda: sent(alice, room) == ["later"])
    one.start()


def test_what_is_due_in_two_processes_is_begun_by_one(database_url: str) -> None:
    with transaction(database_url) as connection:
        event = DelayedEvent(UserId("@a:x"), "one", None, RoomId("!r"), "m.a", None, b"{}", 1, 0, 1)
        save_delayed_event(connection, event, 10, None)
        assert load_due(connection, 2, 10) == ([event], None)
        assert [begin_sending(connection, "one", 2) for _ in range(2)] == [True, False]
        assert load_due(connection, 2, 10) == ([], None)
        assert [begun.delay_id for begun in load_begun(connection)] == ["one"]


def test_what_a_process_was_sending_when_it_ended_is_sent_by_another(
    start_local: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.delayed_events.LOOK_AGAIN_MS", 300)
    alice = start_local().register("alice")
    room = alice.create_room()
    delay_id = schedule(alice, room, LATER)
    with transaction(database_url) as connection:
        assert begin_sending(connection, delay_id, 2**62)
    until(alice, lambda: sent(alice, room) == ["later"])


@pytest.mark.parametrize("delay", [0, -1, "soon"])
def test_impossible_delays_are_refused(alice: Any, delay: Any) -> None:
    room = alice.create_room()
    path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/1"
    answer = alice.send_raw("PUT", path, {"body": "x"}, query={DELAY: delay})
    assert answer.status_code == 400
    assert answer.json()["errcode"] == "M_INVALID_PARAM"


def test_who_knows_the_id_may_act_without_a_token(hearth: Any, alice: Any) -> None:
    room = alice.create_room()
    one, two = schedule(alice, room, LATER, "one"), schedule(alice, room, LATER, "two")
    service = hearth.client()
    service.post(f"{PATH}/{one}/restart", {})
    service.post(f"{PATH}/{one}/send", {})
    service.post(f"{PATH}/{two}/cancel", {})
    assert sent(alice, room) == ["one"]
    assert service.post(f"{PATH}/{one}x/send", {}, expect=404)["errcode"] == "M_NOT_FOUND"
    service.get(PATH, expect=401)


def test_longest_delay_is_told(alice: Any) -> None:
    longest = alice.get("/capabilities")["capabilities"]["org.matrix.msc4140.delayed_events"]["max_delay_ms"]
    room = alice.create_room()
    path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/1"
    refused = alice.send_raw("PUT", path, {"body": "too late"}, query={DELAY: longest + 1})
    assert refused.status_code == 400
    assert (refused.json()["errcode"], refused.json()["max_delay"]) == ("M_MAX_DELAY_EXCEEDED", longest)
    # What matrix-js-sdk reads.
    assert refused.json()["org.matrix.msc4140.errcode"] == "M_MAX_DELAY_EXCEEDED"
    assert refused.json()["org.matrix.msc4140.max_delay"] == longest
    assert alice.send_raw("PUT", path, {"body": "late"}, query={DELAY: longest}).status_code == 200


def test_state_that_another_user_set_meanwhile_stays(hearth: Any, alice: Any) -> None:
    bob = hearth.register("bob")
    room = alice.create_room(preset="trusted_private_chat", invite=[bob.user_id])
    bob.join(room)
    path = f"/_matrix/client/v3/rooms/{room}/state/m.room.topic"
    for n in range(2):
        alice.send_raw("PUT", path, {"topic": f"later {n}"}, query={DELAY: LATER})
    other = alice.send_raw("PUT", path + "/key", {"topic": "elsewhere"}, query={DELAY: LATER}).json()["delay_id"]
    own = bob.send_raw("PUT", path, {"topic": "Bob's later"}, query={DELAY: LATER}).json()["delay_id"]
    hearth.restart()
    alice.base_url = bob.base_url = hearth.url
    bob.set_state(room, "m.room.topic", {"topic": "Bob's"})
    until(alice, lambda: [event["delay_id"] for event in alice.get(PATH)["delayed_events"]] == [other])
    assert [event["delay_id"] for event in bob.get(PATH)["delayed_events"]] == [own]
    alice.set_state(room, "m.room.topic", {"topic": "Alice's"})
    until(bob, lambda: bob.get(PATH) == {"delayed_events": []})
    assert alice.get_state(room, "m.room.topic") == {"topic": "Alice's"}


def test_what_a_suspended_user_scheduled_is_given_up(hearth: Any, database_url: str, alice: Any) -> None:
    room = alice.create_room(name="as it was")
    path = f"/_matrix/client/v3/rooms/{room}/state/m.room.name"
    at_once = schedule(alice, room, LATER, "at once")
    schedule(alice, room, LATER, "in time")
    alice.send_raw("PUT", path, {"name": "in time"}, query={DELAY: LATER})
    set_suspended(hearth, alice, True)
    assert alice.post(f"{PATH}/{at_once}/send", expect=403)["errcode"] == "M_USER_SUSPENDED"
    refused = alice.send_raw("PUT", path, {"name": "later"}, query={DELAY: LATER})
    assert (refused.status_code, refused.json()["errcode"]) == (403, "M_USER_SUSPENDED")
    waiting = [event["content"].get("body") for event in alice.get(PATH)["delayed_events"]]
    assert waiting == ["at once", "in time", None]
    let_time_pass(hearth, database_url)
    alice.base_url = hearth.url
    until(alice, lambda: alice.get(PATH) == {"delayed_events": []})
    set_suspended(hearth, alice, False)
    schedule(alice, room, 1, "again")
    until(alice, lambda: sent(alice, room) == ["again"])
    assert alice.get_state(room, "m.room.name") == {"name": "as it was"}


def set_suspended(hearth: Any, client: Any, is_suspended: bool) -> None:
    run_in_reactor(hearth.running.services.accounts.accounts.set_suspended, client.user_id, is_suspended)


def set_locked(hearth: Any, client: Any, is_locked: bool) -> None:
    run_in_reactor(hearth.running.services.accounts.accounts.set_locked, client.user_id, is_locked)


def let_time_pass(hearth: Any, database_url: str) -> None:
    """Everything that waits comes due while no process runs."""
    hearth.stop()
    with transaction(database_url) as connection:
        connection.exec_driver_sql("UPDATE delayed_events SET due_ts_ms = 0")
    hearth.start()
