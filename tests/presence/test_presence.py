"""Presence as time passes, and over HTTP."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from twisted.internet.task import Clock as TwistedClock

from homeserver.matrix.ids import ServerName, UserId
from homeserver.presence.presence import CURRENTLY_ACTIVE_MS, IDLE_MS, REMOTE_LIFETIME_MS, SYNC_GRACE_MS, Presence
from homeserver.runtime.serial import Serial

ALICE, REMOTE = UserId("@alice:test.example"), UserId("@bob:elsewhere.example")
ON = {"presence": {"enabled": True}}
STATUS = "/presence/{}/status"
BUSY_FLAG = "org.matrix.msc3026.busy_presence"


class ManualClock:
    """Time stands still until it is moved."""

    def __init__(self) -> None:
        self._timers = TwistedClock()

    def time_ms(self) -> int:
        return 1_000_000_000 + int(self._timers.seconds() * 1000)

    monotonic_ms = time_ms

    def call_later(self, delay_ms: int, function: Any, *args: Any) -> Any:
        return self._timers.callLater(delay_ms / 1000, function, *args)

    def pass_ms(self, duration_ms: int) -> None:
        """In steps, so that timers that set others go off in their order."""
        for _ in range(0, duration_ms + 2000, 500):
            self._timers.advance(0.5)


def make() -> tuple[Presence, ManualClock, list[str]]:
    clock = ManualClock()
    presence = Presence(ServerName("test.example"), clock, Serial(clock))  # type: ignore[arg-type]
    told: list[str] = []
    presence.follow(lambda user_id: told.append(presence.get(user_id).presence))
    return presence, clock, told


def test_a_user_is_online_while_syncing_and_a_while_after() -> None:
    presence, clock, told = make()
    presence.begin_sync(ALICE, "A", "online")
    clock.pass_ms(SYNC_GRACE_MS * 2)
    assert presence.get(ALICE).presence == "online"
    presence.end_sync(ALICE, "A", "online")
    clock.pass_ms(SYNC_GRACE_MS - 5000)
    assert presence.get(ALICE).presence == "online"
    clock.pass_ms(5000)
    assert presence.get(ALICE).presence == "offline"
    assert told[0] == "online"
    assert told[-1] == "offline"


def test_an_online_user_who_does_nothing_is_idle_until_active_again() -> None:
    presence, clock, told = make()
    presence.begin_sync(ALICE, "A", "online")
    assert presence.get(ALICE).currently_active
    clock.pass_ms(CURRENTLY_ACTIVE_MS)
    assert not presence.get(ALICE).currently_active
    clock.pass_ms(IDLE_MS - CURRENTLY_ACTIVE_MS)
    assert presence.get(ALICE).presence == "unavailable"
    presence.begin_sync(ALICE, "A", "online")  # a poll alone is no activity
    presence.note_activity(ALICE)
    assert presence.get(ALICE).presence == "online"
    assert told == ["online", "online", "unavailable", "online"]


def test_the_most_present_device_counts() -> None:
    presence, _, _ = make()
    presence.begin_sync(ALICE, "A", "unavailable")
    assert presence.get(ALICE).presence == "unavailable"
    presence.begin_sync(ALICE, "B", "online")
    assert presence.get(ALICE).presence == "online"
    presence.set_state(ALICE, "A", "busy", "on a call")
    assert presence.get(ALICE).presence == "busy"
    presence.begin_sync(ALICE, "A", "online")  # busy is taken back by saying so only
    assert presence.get(ALICE).presence == "busy"
    presence.set_state(ALICE, "A", "offline", None)
    assert presence.get(ALICE).presence == "online"


def test_who_says_to_be_idle_is_online_again_by_being_active() -> None:
    presence, _, _ = make()
    presence.begin_sync(ALICE, "A", "unavailable")
    presence.note_activity(ALICE)
    assert (presence.get(ALICE).presence, presence.get(ALICE).currently_active) == ("online", True)
    presence.set_state(ALICE, "A", "busy", None)
    presence.note_activity(ALICE)
    assert presence.get(ALICE).presence == "busy"


def test_last_activity_is_up_to_date_for_who_asks() -> None:
    presence, clock, told = make()
    presence.begin_sync(ALICE, "A", "online")
    clock.pass_ms(CURRENTLY_ACTIVE_MS - 10_000)
    presence.note_activity(ALICE)
    assert presence.get(ALICE).content(clock.time_ms())["last_active_ago"] == 0
    assert told == ["online"]


def test_others_are_busy_by_either_name() -> None:
    presence, _, _ = make()
    presence.receive(REMOTE, {"presence": "org.matrix.msc3026.busy"})
    assert presence.get(REMOTE).presence == "busy"


def test_who_is_away_does_not_become_active_by_events_of_others_devices() -> None:
    presence, _, told = make()
    presence.note_activity(ALICE)
    assert told == []


def test_other_servers_users_go_offline_when_their_server_falls_silent() -> None:
    presence, clock, _ = make()
    presence.receive(REMOTE, {"presence": "online", "last_active_ago": 1000, "status_msg": "here"})
    assert presence.get(REMOTE).content(clock.time_ms()) == {
        "presence": "online",
        "last_active_ago": 1000,
        "currently_active": False,
        "status_msg": "here",
    }
    for malformed in ({"presence": "dancing"}, {"presence": "offline", "status_msg": 7}, {}):
        presence.receive(REMOTE, malformed)
    assert presence.get(REMOTE).presence == "online"
    clock.pass_ms(REMOTE_LIFETIME_MS)
    assert presence.get(REMOTE).presence == "offline"


def test_changes_are_found_by_serial() -> None:
    presence, _, _ = make()
    presence.receive(REMOTE, {"presence": "online"})
    seen = presence._serial.value
    presence.begin_sync(ALICE, "A", "online")
    assert presence.changed_since(seen) == [ALICE]
    assert presence.changed_since(0) == [ALICE, REMOTE]


# -- over HTTP -------------------------------------------------------------------------------------------------------


def senders(answer: Any) -> dict[str, str]:
    events = answer.get("presence", {}).get("events", [])
    return {event["sender"]: event["content"]["presence"] for event in events}


def test_sync_that_is_not_to_count_ends_none_that_does() -> None:
    presence, clock, _ = make()
    presence.begin_sync(ALICE, "A", "online")
    presence.begin_sync(ALICE, "A", "offline")
    presence.end_sync(ALICE, "A", "offline")
    clock.pass_ms(SYNC_GRACE_MS * 2)
    assert presence.get(ALICE).presence == "online"
    presence.end_sync(ALICE, "A", "online")
    clock.pass_ms(SYNC_GRACE_MS * 2)
    assert presence.get(ALICE).presence == "offline"


def test_those_who_share_a_room_see_each_other(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    for client in (alice, bob, carol):
        client.sync()
    alice.put(STATUS, {"presence": "unavailable", "status_msg": "at lunch"}, at=[alice.user_id])
    assert senders(bob.sync(since=None)) == {alice.user_id: "unavailable", bob.user_id: "online"}
    assert senders(carol.sync(since=None)) == {carol.user_id: "online"}
    seen = bob.get(STATUS, at=[alice.user_id])
    assert (seen["presence"], seen["status_msg"]) == ("unavailable", "at lunch")
    assert carol.get(STATUS, at=[alice.user_id], expect=403)["errcode"] == "M_FORBIDDEN"
    assert alice.put(STATUS, {"presence": "online"}, at=[bob.user_id], expect=403)["errcode"] == "M_FORBIDDEN"
    assert alice.put(STATUS, {"presence": "dancing"}, at=[alice.user_id], expect=400)["errcode"] == "M_BAD_JSON"


def test_a_change_wakes_who_waits_and_a_filter_keeps_it_out(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(invite=[bob.user_id])
    bob.join(room)
    bob.sync()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(bob.sync, timeout=60_000)
        alice.put(STATUS, {"presence": "online", "status_msg": "here"}, at=[alice.user_id])
        assert senders(waiting.result(120))[alice.user_id] == "online"
    assert senders(bob.sync()) == {}
    no_presence = {"presence": {"types": []}}
    alice.put(STATUS, {"presence": "unavailable"}, at=[alice.user_id])
    assert senders(bob.sync(filter=no_presence)) == {}


def test_joining_a_room_shows_who_is_there(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    alice.sync()
    bob.sync()
    bob.join(room)
    assert senders(bob.sync())[alice.user_id] == "online"
    assert senders(alice.sync())[bob.user_id] == "online"


def test_without_presence_everybody_is_offline(hearth: Any) -> None:
    alice = hearth.register("alice")
    alice.put(STATUS, {"presence": "online"}, at=[alice.user_id])
    assert "presence" not in alice.sync()
    assert alice.get(STATUS, at=[alice.user_id]) == {"presence": "offline"}
    assert BUSY_FLAG not in alice.get("/_matrix/client/versions")["unstable_features"]


def test_busy_is_a_state_of_its_own(start_local: Any) -> None:
    alice = start_local(ON).register("alice")
    assert alice.get("/_matrix/client/versions")["unstable_features"][BUSY_FLAG] is True
    alice.put(STATUS, {"presence": "busy"}, at=[alice.user_id])
    alice.sync()
    path = f"/_matrix/client/v3/presence/{alice.user_id}/status"
    assert alice.send_raw("GET", path).json()["presence"] == "busy"


def test_the_older_initial_sync_tells_of_presence_too(start_local: Any) -> None:
    hearth = start_local(ON)
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    alice.sync()
    assert alice.user_id in {event["sender"] for event in bob.get("/initialSync")["presence"]}
