"""What clients are told of a timeline in which events of another server are missing: where it is broken, it is `limited`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs

import pytest
from attrs import define, field

from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from tests.federation import resident
from tests.federation.peer_room import V1, PeerRoom, message
from tests.kit.client import Client, Json, bodies
from tests.kit.federation import Received
from tests.kit.stream import StreamClient
from tests.sync.test_sliding_model import SHAPES, to_stable
from tests.sync.test_sliding_sync import STABLE, ask, texts

MISSING, TOLD = 50, 10
ROWS = 100
FILTER = {"room": {"timeline": {"limit": 20}}}


@define(eq=False)
class GapRoom(PeerRoom):
    """`told` are the events that /get_missing_events gives."""

    told: set[EventId] = field(factory=set)

    def lose(self, count: int = MISSING, told: int = TOLD) -> list[Pdu]:
        """Bob says so much that the Hearth is not sent; of that it will get the newest few, when it asks."""
        pdus = [self.build("m.room.message", message(f"{number}")) for number in range(count)]
        self.told |= {pdu.event_id for pdu in pdus[-told:]} if told else set()
        self.serve_gap()
        return pdus

    def end(self, text: str = "End") -> Pdu:
        """The event that the Hearth is sent. It is there, with what came before it."""
        return self.take(self.build("m.room.message", message(text)))

    def take(self, pdu: Pdu) -> Pdu:
        assert self.send(pdu).json() == {"pdus": {pdu.event_id: {}}}
        self.wait_until_idle()
        return pdu

    def serve_gap(self) -> None:
        self.serve()
        self.serve_state(list(self.state.values()))
        self.peer.answer("POST", f"{V1}/get_missing_events/", self._some_missing_events)
        self.peer.answer("GET", f"{V1}/backfill/", self._backfill)

    def _some_missing_events(self, received: Received) -> Any:
        events = self._missing_events(received)["events"]
        told = [self.made[event_id].json for event_id in self.made if event_id in self.told]
        return {"events": [event for event in events if event in told]}

    def _backfill(self, received: Received) -> Any:
        query = parse_qs(received.query)
        found: dict[EventId, Pdu] = {}
        pending = [EventId(each) for each in query["v"]]
        while pending and len(found) < int(query["limit"][0]):
            pdu = self.made.get(pending.pop(0))
            if pdu is not None and pdu.event_id not in found:
                found[pdu.event_id] = pdu
                pending += pdu.prev_events
        return {"pdus": [pdu.json for pdu in found.values()]}


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> GapRoom:
    found = GapRoom.open(start_federated("hearth", {"caches": {"recent_rows": ROWS}}), start_peer())
    assert isinstance(found, GapRoom)
    return found


def forget_recent(room: GapRoom) -> None:
    """So much happens elsewhere that memory does not reach back."""
    other = room.hearth.register(f"other{len(room.made)}")
    for n in range(ROWS + 1):
        other.put("/user/{}/account_data/m.x", {"n": n}, at=[other.user_id])


def restart(room: GapRoom) -> None:
    room.hearth.restart()
    room.alice.base_url = room.hearth.url


def fill(room: GapRoom) -> None:
    """Somebody reads back over the gap."""
    reader = room.hearth.register(f"reader{len(room.made)}")
    reader.join(room.room_id)
    read_back(reader, room, None)


def fill_and_forget(room: GapRoom) -> None:
    fill(room)
    forget_recent(room)


LATER: dict[str, Callable[[GapRoom], None]] = {
    "memory": lambda room: None,
    "database": forget_recent,
    "restart": restart,
    "filled": fill,
    "filled and from the database": fill_and_forget,
}


def read_back(client: Client, room: PeerRoom, from_: str | None) -> list[str]:
    """The texts of all messages from a token back, newest first."""
    found: list[str] = []
    while True:
        page = client.messages(room.room_id, limit=30, **({"from_": from_} if from_ else {}))
        found += bodies(page["chunk"])
        if "end" not in page:
            return found
        from_ = page["end"]


def ignore(client: Client, user_id: str) -> None:
    ignored: Json = {"ignored_users": {user_id: {}}}
    client.put("/user/{}/account_data/m.ignored_user_list", ignored, at=[client.user_id])


def told_of(sync: Any, room: PeerRoom) -> Any:
    return sync["rooms"]["join"][room.room_id]


NEWEST = [str(number) for number in range(MISSING - TOLD, MISSING)]
OLDEST = [str(number) for number in range(MISSING - TOLD)]


# -- /sync ---------------------------------------------------------------------------------------------------------------


def test_client_that_waits_is_told_of_the_gap_before_what_is_behind_it(room: GapRoom) -> None:
    room.alice.sync(filter=FILTER)
    room.alice.send(room.room_id, "hi")
    room.catch_up()
    room.lose()
    last = room.build("m.room.message", message("End"))
    room.send(last)
    seen: list[str] = []
    is_limited = False
    while "End" not in seen:
        sync = room.alice.sync(filter=FILTER, timeout=30_000)
        for joined in sync.get("rooms", {}).get("join", {}).values():
            is_limited |= joined["timeline"]["limited"]
            for event in joined["timeline"]["events"]:
                assert event["sender"] == (room.bob if is_limited else room.alice.user_id)
            seen += bodies(joined["timeline"]["events"])
    assert is_limited
    assert [text for text in seen if text != "hi"] == [*NEWEST, "End"]


@pytest.mark.parametrize("later", LATER)
def test_client_from_before_the_gap_gets_what_is_behind_it(room: GapRoom, later: str) -> None:
    before = room.alice.sync(filter=FILTER)["next_batch"]
    room.alice.send(room.room_id, "hi")
    up_to_the_gap = room.alice.sync(filter=FILTER)["next_batch"]
    room.catch_up()
    room.lose()
    room.end()
    LATER[later](room)
    for since in (before, up_to_the_gap):
        timeline = told_of(room.alice.sync(since=since, filter=FILTER), room)["timeline"]
        assert bodies(timeline["events"]) == [*NEWEST, "End"]
        assert timeline["limited"] is True
        assert read_back(room.alice, room, timeline["prev_batch"]) == [*reversed(OLDEST), "hi"]


@pytest.mark.parametrize("later", LATER)
def test_first_sync_begins_behind_the_gap(room: GapRoom, later: str) -> None:
    room.alice.send(room.room_id, "hi")
    room.catch_up()
    room.lose()
    room.end()
    LATER[later](room)
    for limit in (20, 100):
        asked = {"room": {"timeline": {"limit": limit, "types": ["m.room.message"]}}}
        timeline = told_of(room.alice.sync(since=None, filter=asked), room)["timeline"]
        assert bodies(timeline["events"]) == [*NEWEST, "End"]
        assert timeline["limited"] is True
        assert "0" in read_back(room.alice, room, timeline["prev_batch"])


def test_only_what_comes_behind_a_gap_is_limited(room: GapRoom) -> None:
    room.alice.sync(filter=FILTER)
    room.catch_up()
    room.lose()
    room.end()
    told_of(room.alice.sync(filter=FILTER), room)
    room.end("more")
    timeline = told_of(room.alice.sync(filter=FILTER), room)["timeline"]
    assert (bodies(timeline["events"]), timeline["limited"]) == (["more"], False)


@pytest.mark.parametrize("later", ["memory", "database"])
def test_of_two_gaps_the_newer_one_counts(room: GapRoom, later: str) -> None:
    before = room.alice.sync(filter=FILTER)["next_batch"]
    room.lose(3, told=0)
    room.end("between")
    between = room.alice.sync(filter=FILTER)["next_batch"]
    room.lose(3, told=0)
    room.end()
    LATER[later](room)
    for since in (None, before, between):
        timeline = told_of(room.alice.sync(since=since, filter=FILTER), room)["timeline"]
        assert (bodies(timeline["events"]), timeline["limited"]) == (["End"], True)
    lost = ["2", "1", "0"]
    assert read_back(room.alice, room, timeline["prev_batch"]) == [*lost, "between", *lost]


@pytest.mark.parametrize("later", ["memory", "database"])
@pytest.mark.parametrize("kind", ["state", "state_after"])
def test_state_that_changed_before_the_gap_and_in_it_is_told(room: GapRoom, later: str, kind: str) -> None:
    query = {"filter": FILTER, "use_state_after": kind == "state_after"}
    before = room.alice.sync(**query)["next_batch"]
    topic = room.alice.set_state(room.room_id, "m.room.topic", {"topic": "before the gap"})
    room.catch_up()
    rename = room.build("m.room.member", {"membership": "join", "displayname": "Bob"}, state_key=room.bob)
    room.lose(20, told=3)
    room.end()
    LATER[later](room)
    told = told_of(room.alice.sync(since=before, **query), room)
    assert (bodies(told["timeline"]["events"]), told["timeline"]["limited"]) == (["17", "18", "19", "End"], True)
    assert {event["event_id"] for event in told[kind]["events"]} == {topic, rename.event_id}


@pytest.mark.parametrize("later", ["memory", "database"])
def test_gap_is_told_though_nothing_behind_it_is(room: GapRoom, later: str) -> None:
    """By a filter, or because the sender is ignored."""
    unwanted = {"room": {"timeline": {"not_senders": [room.bob]}}}
    before = room.alice.sync(filter=unwanted)["next_batch"]
    room.alice.send(room.room_id, "hi")
    room.catch_up()
    room.lose()
    room.end()
    LATER[later](room)
    filtered = told_of(room.alice.sync(since=before, filter=unwanted), room)["timeline"]
    ignore(room.alice, room.bob)
    ignored = told_of(room.alice.sync(since=before, filter=FILTER), room)["timeline"]
    for timeline in (filtered, ignored):
        assert (timeline["events"], timeline["limited"]) == ([], True)
        assert read_back(room.alice, room, timeline["prev_batch"])[-1] == "hi"


def test_readers_who_share_a_timeline_are_all_told_of_the_gap(room: GapRoom) -> None:
    readers = [room.hearth.register(f"reader{number}") for number in range(3)]
    ignore(readers[2], "@somebody:else.example")
    for reader in readers:
        reader.join(room.room_id)
        reader.sync(filter=FILTER)
    room.catch_up()
    room.lose()
    room.end()
    for reader in readers:
        timeline = told_of(reader.sync(filter=FILTER), room)["timeline"]
        assert (bodies(timeline["events"]), timeline["limited"]) == ([*NEWEST, "End"], True)


# -- which events follow a gap -------------------------------------------------------------------------------------------


def test_second_event_behind_the_same_missing_one_breaks_nothing(room: GapRoom) -> None:
    """Nothing more is missing before it than before the first."""
    room.catch_up()
    room.lose(3, told=0)
    tips = list(room.tips)
    room.take(room.build("m.room.message", message("one"), prev_events=tips))
    room.alice.sync(filter=FILTER)
    room.take(room.build("m.room.message", message("other"), prev_events=tips))
    timeline = told_of(room.alice.sync(filter=FILTER), room)["timeline"]
    assert (bodies(timeline["events"]), timeline["limited"]) == (["other"], False)


def test_missing_event_that_comes_late_breaks_nothing(room: GapRoom) -> None:
    room.catch_up()
    *_, late = room.lose(3, told=0)
    room.end()
    room.alice.sync(filter=FILTER)
    room.take(late)
    timeline = told_of(room.alice.sync(filter=FILTER), room)["timeline"]
    assert (bodies(timeline["events"]), timeline["limited"]) == (["2"], False)


def test_gap_before_an_event_that_is_hidden_is_one_before_the_next(room: GapRoom) -> None:
    """Carol joined in the gap, so what she says right behind it is soft failed."""
    before = room.alice.sync(filter=FILTER)["next_batch"]
    room.alice.send(room.room_id, "hi")
    room.catch_up()
    carol = f"@carol:{room.peer.server_name}"
    room.build("m.room.member", {"membership": "join"}, sender=carol, state_key=carol)
    room.lose(3, told=0)
    hidden = room.build("m.room.message", message("hidden"), sender=carol)
    room.told = {hidden.event_id}
    room.end()
    assert not room.sees(hidden.event_id)
    timeline = told_of(room.alice.sync(since=before, filter=FILTER), room)["timeline"]
    assert (bodies(timeline["events"]), timeline["limited"]) == (["End"], True)
    assert read_back(room.alice, room, timeline["prev_batch"]) == ["2", "1", "0", "hi"]


def test_room_that_is_joined_again_begins_behind_what_was_missed(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, there = hearth.register("alice"), resident.PeerRoom.create(peer).serve()

    def join() -> None:
        alice.post("/join/{}", {}, at=[there.room_id], query={"via": [peer.server_name]})

    join()
    before = alice.sync()["next_batch"]
    alice.send(there.room_id, "first stay")
    alice.leave(there.room_id)
    there.send(resident.MEMBER, {"membership": "leave"}, alice.user_id)
    for number in range(3):
        there.say(f"missed {number}")
    join()
    alice.send(there.room_id, "second stay")
    for since in (None, before):
        timeline = alice.sync(since=since)["rooms"]["join"][there.room_id]["timeline"]
        assert timeline["limited"] is True
        assert [event["type"] for event in timeline["events"]] == ["m.room.member", "m.room.message"]
        assert bodies(timeline["events"]) == ["second stay"]
    page = alice.messages(there.room_id, from_=timeline["prev_batch"], limit=6)["chunk"]
    assert bodies(page) == ["missed 2", "missed 1", "missed 0", "first stay"]


# -- the other ways to sync ----------------------------------------------------------------------------------------------


def slide(client: Client, path: str, pos: str | None, limit: int, conn_id: str = "c") -> Any:
    state = [["m.room.member", "$LAZY"], ["m.room.topic", ""]]
    body = {"lists": {"all": {"ranges": [[0, 9]], "timeline_limit": limit, "required_state": state}}, "extensions": {}}
    if path == STABLE:
        answer = client.post(STABLE, {**to_stable(body, client.user_id), "conn_id": conn_id, "pos": pos or None})
    else:
        answer = ask(client, {**body, "conn_id": conn_id}, pos)
    return answer


@pytest.mark.parametrize("later", ["memory", "database", "filled", "filled and from the database"])
@pytest.mark.parametrize("shape", SHAPES)
def test_sliding_sync_tells_of_the_gap(room: GapRoom, shape: str, later: str) -> None:
    path = SHAPES[shape]
    room.alice.send(room.room_id, "hi")
    first = slide(room.alice, path, None, 20)
    topic = room.alice.set_state(room.room_id, "m.room.topic", {"topic": "before the gap"})
    room.catch_up()
    room.lose()
    room.end()
    LATER[later](room)
    second = slide(room.alice, path, first["pos"], 20)
    told = second["rooms"][room.room_id]
    joins = ["m.room.member"] if "filled" in later else []
    assert (texts(told), told["limited"]) == ([*NEWEST, "End", *joins], True)
    assert told["num_live"] == TOLD + 1 + len(joins)
    assert topic in [event["event_id"] for event in told["required_state"]]
    assert read_back(room.alice, room, told["prev_batch"]) == [*reversed(OLDEST), "hi"]
    assert room.room_id not in slide(room.alice, path, second["pos"], 20)["rooms"]
    expanded = slide(room.alice, path, second["pos"], 90)["rooms"][room.room_id]
    assert (texts(expanded), expanded["limited"]) == ([*NEWEST, "End", *joins], True)
    assert expanded["prev_batch"] == told["prev_batch"]
    fresh = slide(room.alice, path, None, 90, "fresh")["rooms"][room.room_id]
    assert (texts(fresh), fresh["limited"]) == ([*NEWEST, "End", *joins], True)


@pytest.mark.parametrize("shape", SHAPES)
def test_sliding_sync_with_all_hidden_behind_the_gap_tells_of_it(room: GapRoom, shape: str) -> None:
    ignore(room.alice, room.bob)
    pos = slide(room.alice, SHAPES[shape], None, 20)["pos"]
    room.lose()
    room.end()
    told = slide(room.alice, SHAPES[shape], pos, 20)["rooms"][room.room_id]
    assert (told["timeline"], told["limited"], told["num_live"]) == ([], True, 0)


def test_stream_tells_of_the_gap(room: GapRoom) -> None:
    room.alice.sync(filter=FILTER)
    room.alice.send(room.room_id, "hi")
    room.catch_up()
    room.lose()
    room.end()
    stream = StreamClient(room.hearth.url, room.alice.token, since=room.alice.next_batch)
    timeline = told_of(stream.update(), room)["timeline"]
    assert (bodies(timeline["events"]), timeline["limited"]) == ([*NEWEST, "End"][-10:], True)
    assert stream.is_quiet()
    room.lose()
    room.end()
    timeline = told_of(stream.update_with(lambda update: "rooms" in update and update), room)["timeline"]
    assert timeline["limited"] is True
    stream.close()
