"""Subscriptions to threads (MSC4306), and what sliding sync tells of them (MSC4308)."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.store.thread_subscriptions import ThreadSubscription, save_subscription
from tests.kit.reactor import run_in_reactor

PATH = "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{}/subscription"
CHANGES = "/_matrix/client/unstable/io.element.msc4308/thread_subscriptions"
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
EXTENSION = "io.element.msc4308.thread_subscriptions"


@pytest.fixture
def room(alice: Any) -> str:
    room_id: str = alice.create_room()
    return room_id


def reply(client: Any, room: str, root: str) -> str:
    relation = {"rel_type": "m.thread", "event_id": root}
    event_id: str = client.send(room, {"msgtype": "m.text", "body": "in the thread", "m.relates_to": relation})
    return event_id


def slide(client: Any, pos: str | None = None, limit: int = 100, timeout: int = 0) -> tuple[str, Any]:
    body = {"extensions": {EXTENSION: {"enabled": True, "limit": limit}}}
    answer = client.post(SLIDING, body, query={"pos": pos, "timeout": timeout})
    return answer["pos"], answer["extensions"].get(EXTENSION)


def test_a_thread_is_subscribed_to_and_unsubscribed_from(alice: Any, room: str) -> None:
    root = alice.send(room, "root")
    at = (room, root)
    alice.get(PATH, at=at, expect="M_NOT_FOUND")
    alice.put(PATH, {"automatic": reply(alice, room, root)}, at=at)
    assert alice.get(PATH, at=at) == {"automatic": True}
    alice.put(PATH, {}, at=at)
    assert alice.get(PATH, at=at) == {"automatic": False}
    alice.put(PATH, {"automatic": reply(alice, room, root)}, at=at)
    assert alice.get(PATH, at=at) == {"automatic": False}
    alice.delete(PATH, at=at)
    alice.delete(PATH, at=at)
    alice.get(PATH, at=at, expect="M_NOT_FOUND")


def test_an_event_before_the_unsubscription_does_not_subscribe(alice: Any, room: str) -> None:
    root = alice.send(room, "root")
    before = reply(alice, room, root)
    alice.put(PATH, {}, at=(room, root))
    alice.delete(PATH, at=(room, root))
    error = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"
    alice.put(PATH, {"automatic": before}, at=(room, root), expect=error)
    alice.get(PATH, at=(room, root), expect="M_NOT_FOUND")
    alice.put(PATH, {"automatic": reply(alice, room, root)}, at=(room, root))
    assert alice.get(PATH, at=(room, root)) == {"automatic": True}


def test_threads_that_are_not_there_or_not_seen_are_not_found(hearth: Any, alice: Any, room: str) -> None:
    root, other = alice.send(room, "root"), alice.send(room, "other")
    bob = hearth.register("bob")
    for call in (alice.put, alice.get, alice.delete):
        call(PATH, at=(room, "$nonesuch"), expect="M_NOT_FOUND")
    for call in (bob.put, bob.get, bob.delete):
        call(PATH, at=(room, root), expect="M_NOT_FOUND")
    error = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"
    for cause in (other, root, "$nonesuch"):
        alice.put(PATH, {"automatic": cause}, at=(room, root), expect=error)
    alice.put(PATH, {"automatic": True}, at=(room, root), expect="M_BAD_JSON")
    alice.put(PATH, {"automatic": "no id"}, at=(room, root), expect="M_INVALID_PARAM")


def test_sliding_sync_tells_changes_once_and_wakes(alice: Any, room: str) -> None:
    first, second = alice.send(room, "first"), alice.send(room, "second")
    alice.put(PATH, {}, at=(room, first))
    pos, told = slide(alice)
    assert told["subscribed"][room][first]["automatic"] is False
    stamp = told["subscribed"][room][first]["bump_stamp"]
    pos, told = slide(alice, pos)
    assert told is None
    alice.put(PATH, {"automatic": reply(alice, room, second)}, at=(room, second))
    alice.delete(PATH, at=(room, first))
    pos, told = slide(alice, pos, timeout=60_000)
    assert told["subscribed"][room][second]["automatic"] is True
    assert told["unsubscribed"][room][first]["bump_stamp"] > stamp
    again = slide(alice, pos)
    assert again[1] is None


def test_changes_that_were_too_many_are_paged(hearth: Any, alice: Any, room: str) -> None:
    pos, _ = slide(alice)
    roots = [alice.send(room, str(n)) for n in range(7)]
    for root in roots:
        alice.put(PATH, {}, at=(room, root))
    _, told = slide(alice, pos, limit=2)
    assert set(told["subscribed"][room]) == set(roots[5:])
    query = {"dir": "b", "from": told["prev_batch"], "to": pos, "limit": 3}
    page = alice.get(CHANGES, query=query)
    assert set(page["subscribed"][room]) == set(roots[2:5])
    last = alice.get(CHANGES, query={**query, "from": page["end"]})
    assert set(last["subscribed"][room]) == set(roots[:2]) and "end" not in last
    assert alice.get(CHANGES, query={"dir": "b", "to": slide(alice)[0]}) == {}
    alice.get(CHANGES, query={"from": "x"}, expect="M_INVALID_PARAM")
    alice.get(CHANGES, query={"to": "x"}, expect="M_INVALID_PARAM")
    alice.get(CHANGES, query={"dir": "f"}, expect="M_INVALID_PARAM")
    hearth.restart()
    alice.base_url = hearth.url
    assert set(slide(alice)[1]["subscribed"][room]) == set(roots)


def test_a_change_that_is_just_being_made_hides_no_others(hearth: Any, alice: Any, room: str) -> None:
    pos, _ = slide(alice)
    *roots, newest = [alice.send(room, str(n)) for n in range(5)]
    for root in roots:
        alice.put(PATH, {}, at=(room, root))
    # Committed, and not yet told of.
    ahead = ThreadSubscription(room, newest, subscribed=True, automatic=False, position=2**40)
    run_in_reactor(hearth.running.services.core.database.run, save_subscription, alice.user_id, ahead)
    _, told = slide(alice, pos, limit=2)
    assert set(told["subscribed"][room]) == set(roots[2:])
    rest = alice.get(CHANGES, query={"dir": "b", "from": told["prev_batch"], "to": pos})
    assert set(rest["subscribed"][room]) == set(roots[:2])
