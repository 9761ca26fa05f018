"""Servers that lie about what came before an event, never come to an end, or never answer."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import EventId
from tests.federation.peer_room import V1, PeerRoom, message
from tests.federation.quiet import Log, log
from tests.kit.federation import Answer, Received

__all__ = ["log"]

MODULES = "federation.inbound"
FOR_EVER_MS = 3_600_000


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


@pytest.fixture(autouse=True)
def hurry(monkeypatch: Any) -> None:
    """Servers are asked again as ever, only sooner."""
    monkeypatch.setattr(f"{MODULES}.room_queue.RETRY_AFTER_MS", (100,))


@pytest.fixture
def patience(monkeypatch: Any) -> None:
    """Whoever waits for a server waits longer than any test."""
    for module in ("fetching", "receive_pdu"):
        monkeypatch.setattr(f"{MODULES}.{module}.FETCH_TIMEOUT_MS", FOR_EVER_MS)
    monkeypatch.setattr(f"{MODULES}.receive_pdu.GAP_TIMEOUT_MS", FOR_EVER_MS)


SILENCE = Answer({}, delay_s=FOR_EVER_MS // 1000)  # nothing, as long as the peer is there


def follows_gap(room: PeerRoom, text: str = "after the gap") -> Any:
    """An event of which the Hearth lacks the one before."""
    room.build("m.room.message", message("lost"))
    return room.build("m.room.message", message(text))


def still_works(room: PeerRoom) -> None:
    """The room takes events in as ever."""
    room.catch_up()
    pdu = room.build("m.room.message", message("as ever"))
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    room.wait_for_event(pdu.event_id)


# -- gaps that are filled ------------------------------------------------------------------------------------------------


def test_gap_is_passed_with_the_state_that_is_told(room: PeerRoom) -> None:
    """The state is as we know it, so nothing changes but that there is an event more."""
    pdu = follows_gap(room)
    room.serve_state(list(room.state.values()))
    room.send(pdu)
    assert room.wait_for_event(pdu.event_id)["content"] == message("after the gap")
    assert room.head().membership(room.bob) == "join"


def test_state_events_in_the_gap_are_fetched(room: PeerRoom) -> None:
    rename = room.build("m.room.member", {"membership": "join", "displayname": "Bob"}, state_key=room.bob)
    pdu = follows_gap(room)
    room.serve_state(list(room.state.values()))
    room.peer.answer("GET", f"{V1}/event/", room._event)
    room.send(pdu)
    room.wait_for_event(pdu.event_id)
    assert room.head().state["m.room.member", room.bob] == rename.event_id
    assert room.alice.get_state(room.room_id, "m.room.member", room.bob)["displayname"] == "Bob"


def test_events_that_wait_behind_a_gap_come_in_once_it_is_passed(room: PeerRoom) -> None:
    """One after another, and each gap is asked about once."""
    room.peer.answer("POST", f"{V1}/get_missing_events/", Answer({"events": []}, delay_s=0.5))
    pdus = [follows_gap(room), *(room.build("m.room.message", message(str(number))) for number in range(5))]
    room.serve_state(list(room.state.values()))
    room.send(*pdus)
    for pdu in pdus:
        room.wait_for_event(pdu.event_id)
    assert len(room.peer.received(f"{V1}/state_ids")) == 1


def test_event_is_tried_again_when_its_server_could_not_answer(room: PeerRoom, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{MODULES}.room_queue.RETRY_AFTER_MS", (100,) * 1_000)
    pdu = follows_gap(room)
    room.send(pdu)
    room.wait_until(lambda: room.peer.received(f"{V1}/state_ids"))
    room.serve()
    room.serve_state(list(room.state.values()))
    room.wait_for_event(pdu.event_id)


def test_accepted_event_survives_a_restart(room: PeerRoom, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{MODULES}.room_queue.RETRY_AFTER_MS", (600_000,))
    pdu = follows_gap(room)
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
    room.wait_until_idle()
    room.serve_state(list(room.state.values()))
    room.hearth.restart()
    room.alice.base_url = room.hearth.url
    room.wait_for_event(pdu.event_id)


@pytest.mark.usefixtures("patience")
def test_restart_does_not_wait_for_a_server_that_never_answers(room: PeerRoom, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{MODULES}.room_queue.STOP_TIMEOUT_MS", 100)
    room.peer.answer("POST", f"{V1}/get_missing_events/", SILENCE)
    pdu = follows_gap(room)
    room.send(pdu)
    room.wait_until(lambda: room.peer.received(f"{V1}/get_missing_events"))
    room.serve_state(list(room.state.values()))
    room.peer.answer("POST", f"{V1}/get_missing_events/", {"events": []})
    room.hearth.restart()
    room.alice.base_url = room.hearth.url
    room.wait_for_event(pdu.event_id)


# -- lies ----------------------------------------------------------------------------------------------------------------


BAD_STATES: dict[str, Any] = {
    "nothing": {},
    "no JSON object": [],
    "ids that are no list": {"pdu_ids": {}, "auth_chain_ids": []},
    "ids that are no ids": {"pdu_ids": ["a", 5, None], "auth_chain_ids": []},
    "NUL in ids": {"pdu_ids": ["$a\0"], "auth_chain_ids": []},
    "no auth chain": {"pdu_ids": []},
    "an empty state": {"pdu_ids": [], "auth_chain_ids": []},
    "events that nobody has": {"pdu_ids": ["$" + "x" * 43], "auth_chain_ids": ["$" + "y" * 43]},
    "very many events": {"pdu_ids": [f"${number}" for number in range(200_001)], "auth_chain_ids": []},
}


@pytest.mark.parametrize("what", sorted(BAD_STATES))
def test_state_that_can_not_be_is_no_state(room: PeerRoom, log: Log, what: str) -> None:
    before = dict(room.head().state)
    room.peer.answer("GET", f"{V1}/state_ids/", BAD_STATES[what])
    pdu = follows_gap(room)
    log.clear()
    room.send(pdu)
    room.wait_until(lambda: any("given up" in line for line in log.lines()))
    assert log.faults() == []
    assert dict(room.head().state) == before
    still_works(room)


def test_server_can_not_take_the_room_back_to_an_older_state(room: PeerRoom) -> None:
    """It says that before its event alice had not banned mallory."""
    mallory = f"@mallory:{room.peer.server_name}"
    room.catch_up()
    room.send(room.build("m.room.member", {"membership": "join"}, sender=mallory, state_key=mallory))
    room.wait_for_member(mallory, "join")
    older = dict(room.state)
    room.alice.ban(room.room_id, mallory)
    room.catch_up()
    banned = dict(room.head().state)
    known = room.tips[0]
    for prev_events in ([known, "$" + "m" * 43], ["$" + "n" * 43]):
        room.state = dict(older)
        forged = room.build("m.room.message", message("I am back"), sender=mallory, prev_events=prev_events)
        room.serve_state(list(older.values()))
        room.send(forged)
        room.wait_until_idle()
        assert room.head().state["m.room.member", mallory] == banned["m.room.member", mallory]
        assert not room.sees(forged.event_id)
    still_works(room)


def test_state_of_another_room_is_not_taken(room: PeerRoom) -> None:
    other = PeerRoom.open(room.hearth, room.peer)
    before = dict(room.head().state)
    pdu = follows_gap(room)
    room.made.update(other.made)
    room.serve()
    room.serve_state(list(other.state.values()))
    room.send(pdu)
    room.wait_until_idle()
    assert dict(room.head().state) == before


def test_server_answers_with_another_event_than_was_asked_for(room: PeerRoom, log: Log) -> None:
    other = room.build("m.room.topic", {"topic": "x"}, state_key="", advance=False)
    pdu = follows_gap(room)
    room.peer.answer("GET", f"{V1}/event/", {"pdus": [other.json]})
    room.serve_state([*room.state.values(), "$" + "x" * 43])
    log.clear()
    room.send(pdu)
    room.wait_for_event(pdu.event_id)
    assert ("m.room.topic", "") not in room.head().state
    assert log.faults() == []


# -- without end ---------------------------------------------------------------------------------------------------------


def test_endless_chain_of_missing_events_is_left(room: PeerRoom, log: Log) -> None:
    """Each answer has twenty new events, before which there are more."""

    def more(received: Received) -> Any:
        (latest,) = received.json["latest_events"][:1]
        tip = room.made[EventId(latest)].prev_events[0]
        return {"events": chain_to(room, tip)}

    pdu = chained(room)
    room.peer.answer("POST", f"{V1}/get_missing_events/", more)
    room.peer.answer("GET", f"{V1}/state_ids/", {})
    log.clear()
    room.send(pdu)
    room.wait_until(lambda: any("given up" in line for line in log.lines()))
    asked = len(room.peer.received(f"{V1}/get_missing_events"))
    assert asked <= 40, asked
    assert log.faults() == []
    still_works(room)


def chained(room: PeerRoom, length: int = 1_000) -> Any:
    """The newest of a long chain of events that hangs in the air."""
    prev = "$" + "z" * 43
    for number in range(length):
        pdu = room.build("m.room.message", message(str(number)), prev_events=[prev], advance=False)
        prev = pdu.event_id
    return pdu


def chain_to(room: PeerRoom, tip: EventId) -> list[Any]:
    found: list[Any] = []
    while tip in room.made and len(found) < 20:
        found.insert(0, room.made[tip].json)
        tip = room.made[tip].prev_events[0]
    return found


def test_endless_auth_chain_is_left(room: PeerRoom, log: Log, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{MODULES}.fetching.MAX_AUTH_ROUNDS", 5)
    auth: Any = list(room.state.values())[:3]
    for number in range(30):
        content = {"membership": "join", "displayname": str(number)}
        link = room.build("m.room.member", content, state_key=room.bob, auth_events=auth[:8], advance=False)
        auth = [link.event_id]
    pdu = room.build("m.room.message", message("x"), auth_events=auth)
    room.peer.answer("GET", f"{V1}/event/", room._event)
    log.clear()
    room.send(pdu)
    room.wait_until(lambda: any("given up" in line for line in log.lines()))
    assert log.faults() == []
    assert len(room.peer.received(f"{V1}/event/")) <= 20
    still_works(room)


@pytest.mark.parametrize("references", ["prev_events", "auth_events"])
def test_events_in_a_circle_are_refused(start_federated: Any, start_peer: Any, log: Log, references: str) -> None:
    """Room versions 1 and 2 let servers choose event ids, so that two events can name each other."""
    room = PeerRoom.open(start_federated(), start_peer(), "1")
    one, two = (EventId(f"${number}:{room.peer.server_name}") for number in (1, 2))
    for event_id, other in ((one, two), (two, one)):
        about: Any = {references: [*([other] if references == "prev_events" else [*auth_of(room), other])]}
        room.build("m.room.message", message("x"), event_id=event_id, advance=False, **about)
    room.serve()
    room.peer.answer("GET", f"{V1}/event_auth/", {"auth_chain": [room.made[one].json, room.made[two].json]})
    log.clear()
    room.send(room.made[one], room.made[two])
    room.wait_until(lambda: len([line for line in log.lines() if "given up" in line or "not taken in" in line]) >= 1)
    room.wait_until_idle()
    assert log.faults() == []
    assert not room.sees(one)
    still_works(room)


def auth_of(room: PeerRoom) -> list[str]:
    return [
        room.state[key] for key in (("m.room.create", ""), ("m.room.member", room.bob), ("m.room.power_levels", ""))
    ]


def test_event_that_comes_before_itself_is_refused(start_federated: Any, start_peer: Any, log: Log) -> None:
    room = PeerRoom.open(start_federated(), start_peer(), "1")
    own = EventId(f"$own:{room.peer.server_name}")
    pdu = room.build("m.room.message", message("x"), event_id=own, prev_events=[own], advance=False)
    log.clear()
    room.send(pdu)
    room.wait_until(lambda: log.lines())
    room.wait_until_idle()
    assert log.faults() == []
    still_works(room)


def test_many_unknown_prev_events_cost_few_requests(room: PeerRoom, log: Log) -> None:
    prev = [f"${number}".ljust(44, "x") for number in range(20)]
    pdus = [room.build("m.room.message", message(str(each)), prev_events=prev, advance=False) for each in range(5)]
    log.clear()
    room.send(*pdus)
    room.wait_until(lambda: len([line for line in log.lines() if "given up" in line]) == 5)
    assert len(room.peer.requests) < 100
    assert log.faults() == []
    still_works(room)


# -- never ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("patience")
def test_room_of_a_server_that_never_answers_holds_up_no_other(room: PeerRoom) -> None:
    """Nor does the event that hangs hold up others of its room."""
    room.peer.answer("POST", f"{V1}/get_missing_events/", SILENCE)
    other = PeerRoom.open(room.hearth, room.peer)
    tips = list(room.tips)
    for number in range(10):
        room.send(follows_gap(room, str(number)))
    pdu = other.build("m.room.message", message("quick"))
    room.tips = tips
    same = room.build("m.room.message", message("quick, too"))
    other.send(pdu, same)
    other.wait_for_event(pdu.event_id)
    room.wait_for_event(same.event_id)


@pytest.mark.usefixtures("patience")
def test_event_of_which_the_server_stays_silent_is_told_to_be_accepted(room: PeerRoom) -> None:
    """The sender needn't wait until we have asked it everything: it has our word."""
    room.peer.answer("POST", f"{V1}/get_missing_events/", SILENCE)
    pdu = follows_gap(room)
    assert room.send(pdu).json() == {"pdus": {pdu.event_id: {}}}


def test_full_queue_goes_on_in_the_database(room: PeerRoom, monkeypatch: Any) -> None:
    monkeypatch.setattr(f"{MODULES}.room_queue.MAX_QUEUED_OF_ROOM", 5)
    pdus = [room.build("m.room.message", message(str(number))) for number in range(50)]
    assert room.send(*pdus).json() == {"pdus": {pdu.event_id: {} for pdu in pdus}}
    room.wait_for_event(pdus[-1].event_id)
    assert all(room.sees(pdu.event_id) for pdu in pdus)


def test_what_the_database_shall_not_hold_is_refused(room: PeerRoom, monkeypatch: Any, log: Log) -> None:
    monkeypatch.setattr(f"{MODULES}.room_queue.MAX_QUEUED_OF_ROOM", 0)
    monkeypatch.setattr(f"{MODULES}.room_queue.MAX_STAGED_BYTES_OF_ROOM", 0)
    pdu = room.build("m.room.message", message("too much"))
    assert "Too many" in room.send(pdu).json()["pdus"][pdu.event_id]["error"]
    assert log.faults() == []
