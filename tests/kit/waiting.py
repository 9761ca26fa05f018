"""Waiting for what another server does: conditions are asked anew whenever a client's /sync has news.

until(bob, lambda: bob.get_state(room, "m.room.name")["name"] == "new")
invite = until_synced(bob, lambda sync: sync["rooms"]["invite"].get(room))
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from tests.kit.client import Client, Json, Unexpected

T = TypeVar("T")
TIMEOUT_S = 90
# News that /sync does not wake for (it shows only in other answers) is seen after so long.
RECHECK_MS = 500
# Enough to be woken by anything.
NEWS = {"room": {"timeline": {"limit": 1}, "state": {"lazy_load_members": True}}}


class NotYet(AssertionError):
    """What should have become true did not."""


def until(client: Client, condition: Callable[[], T], timeout_s: float = TIMEOUT_S) -> T:
    """What `condition()` gives, once that is true. An answer that a request refuses counts as not yet.

    Raises: NotYet with what it gave last.
    """
    deadline = time.monotonic() + timeout_s
    watcher = client.another_device()
    while True:
        try:
            value: object = (found := condition())
            if found:
                return found
        except Unexpected as error:
            value = error
        if time.monotonic() > deadline:
            raise NotYet(f"not so after {timeout_s} s: {value!r}")
        watcher.sync(timeout=RECHECK_MS, filter=NEWS)


def until_equal(client: Client, get: Callable[[], object], wanted: object, timeout_s: float = TIMEOUT_S) -> None:
    """As `until`, for what is to become `wanted`: the test fails with what it is at the end."""
    with suppress(NotYet):
        until(client, lambda: get() == wanted, timeout_s)
    assert get() == wanted


def until_synced(client: Client, find: Callable[[Json], T], timeout_s: float = TIMEOUT_S, **query: Any) -> T:
    """Syncs on from where the client is until `find(answer)` gives something true; that. `query`: more of what is asked for.

    Raises: NotYet with the last answer.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        answer = client.sync(timeout=RECHECK_MS if client.next_batch else 0, **query)
        found = find(answer)
        if found:
            return found
        if time.monotonic() > deadline:
            raise NotYet(f"nothing such in /sync after {timeout_s} s: {str(answer)[:2000]}")


def get_history(client: Client, room: str) -> list[Json]:
    """All events that the client can page back to, newest first."""
    events: list[Json] = []
    token = None
    while True:
        page = client.messages(room, limit=100, from_=token)
        events += page["chunk"]
        token = page.get("end")
        if token is None:
            return events


def get_texts(client: Client, room: str) -> list[str]:
    """The texts of all messages, oldest first."""
    texts = [event["content"].get("body") for event in get_history(client, room) if event["type"] == "m.room.message"]
    return [text for text in reversed(texts) if text is not None]


def get_current_state(client: Client, room: str) -> dict[tuple[str, str], str]:
    """Which event is the state of what."""
    return {
        (event["type"], event["state_key"]): event["event_id"] for event in client.get("/rooms/{}/state", at=[room])
    }
