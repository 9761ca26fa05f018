"""Delayed events (MSC4140)."""

from __future__ import annotations

from queue import Queue
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.runtime.clock import ManualClock
from homeserver.store.delayed_events import DelayedEvent
from tests.kit.client import bodies
from tests.kit.databases import transaction
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

PATH = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
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


def test_an_event_that_may_not_be_sent_any_more_is_forgotten(hearth: Any, alice: Any) -> None:
    bob = hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    delay_id = schedule(bob, room, LATER)
    alice.kick(room, bob.user_id)
    assert bob.post(f"{PATH}/{delay_id}/send", expect=403)["errcode"] == "M_FORBIDDEN"
    assert bob.get(PATH) == {"delayed_events": []}


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
    assert [event["content"].get("body") for event in alice.get(PATH)["delayed_events"]] == ["in time", None]
    let_time_pass(hearth, database_url)
    alice.base_url = hearth.url
    until(alice, lambda: alice.get(PATH) == {"delayed_events": []})
    set_suspended(hearth, alice, False)
    schedule(alice, room, 1, "again")
    until(alice, lambda: sent(alice, room) == ["again"])
    assert alice.get_state(room, "m.room.name") == {"name": "as it was"}


def set_suspended(hearth: Any, client: Any, is_suspended: bool) -> None:
    run_in_reactor(hearth.running.services.accounts.accounts.set_suspended, client.user_id, is_suspended)


def let_time_pass(hearth: Any, database_url: str) -> None:
    """Everything that waits comes due while no process runs."""
    hearth.stop()
    with transaction(database_url) as connection:
        connection.exec_driver_sql("UPDATE delayed_events SET due_ts_ms = 0")
    hearth.start()
