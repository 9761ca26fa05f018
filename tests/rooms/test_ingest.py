"""Events of other servers: into the store, the head and the log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.extremities import MAX_EXTREMITIES, Extremities
from homeserver.rooms.ingest import Ingest, Receipt
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.writer import Draft
from homeserver.runtime.background import Background
from homeserver.runtime.coroutine import gather
from homeserver.store.log import load_head_position
from homeserver.store.tables.federated_rooms import event_gaps
from homeserver.store.tables.rooms import current_state, events, memberships, rooms, state_deltas, state_snapshots
from tests.rooms.harness import ALICE, NoPush, RoomsServer
from tests.rooms.remote_room import RemoteRoom

ZOE = UserId("@zoe:remote.example")
YAN = UserId("@yan:other.example")
VERSIONS = ["1", "2", "6", "10", "11", "12"]


class IngestServer(RoomsServer):
    def __init__(self, url: str, data_dir: Path, **config: Any) -> None:
        super().__init__(url, data_dir, **config)
        self.start_ingest()

    def start_ingest(self) -> None:
        self.partial = PartialStates(self.writer.server_name, self.database, self.writer.clock)
        self.wait(self.partial.start())
        name = self.writer.server_name
        self.ingest = Ingest(name, self.database, self.heads, self.events, self.log, NoPush(), self.partial)

    def enter(self, room: RemoteRoom, user: UserId = ALICE, **options: Any) -> Pdu:
        """Join through another server, as the room is now."""
        join = room.join(user)
        state = room.state_events(join)
        self.wait(self.ingest.start_room(room.version, join, state, room.auth_chain([*state, join]), **options))
        return join

    def receive(self, pdu: Pdu, **options: Any) -> Receipt:
        receipt: Receipt = self.wait(self.ingest.receive(pdu, **options))
        return receipt

    def log_write(self, room_id: RoomId, draft: Draft) -> Any:
        """A write of a local user that is under way."""
        return Deferred.fromCoroutine(self.writer.write(room_id, lambda _: [draft]))

    def head(self, room: RemoteRoom) -> Any:
        assert room.room_id is not None
        return self.wait(self.heads.load(room.room_id))

    def event(self, pdu: Pdu) -> Any:
        return self.wait(self.events.load(pdu.event_id, pdu.room_id, pdu.version))

    def seen(self, room: RemoteRoom) -> list[EventId]:
        assert room.room_id is not None
        return [event.event_id for event in self.timeline(room.room_id)]

    def forget(self) -> None:
        """As after a restart: memory has nothing."""
        self.rows.clear()
        self._build(RoomsConfig())
        self.log.position = self.wait(self.database.read(load_head_position))
        self.start_ingest()


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[IngestServer]:
    server = IngestServer(database_url, tmp_path)
    yield server
    server.close()


def open_room(version: str = "11") -> RemoteRoom:
    room = RemoteRoom(ZOE, version).open(ZOE, power={YAN: 50})
    room.join(YAN)
    return room


@pytest.mark.parametrize("version", VERSIONS)
def test_room_is_entered_with_the_state_before_the_join(server: IngestServer, version: str) -> None:
    room = open_room(version)
    join = server.enter(room)
    head = server.head(room)
    assert dict(head.state) == room.current
    assert head.extremities == (join.event_id,)
    assert dict(head.members) == {ZOE: "join", YAN: "join", ALICE: "join"}
    server.forget()
    head = server.head(room)
    assert dict(head.state) == room.current
    assert (head.joined, head.members[ALICE]) == (3, "join")
    said = room.say(ZOE)
    assert server.receive(said) is Receipt.ACCEPTED
    assert server.receive(said) is Receipt.KNOWN
    assert server.seen(room) == [said.event_id]
    assert server.head(room).extremities == (said.event_id,)


@pytest.mark.parametrize("version", VERSIONS)
def test_fork_is_resolved_the_same_whichever_side_comes_first(
    database_url: str, tmp_path: Path, server: IngestServer, version: str
) -> None:
    room = open_room(version)
    server.enter(room)
    base = [room.events[tip] for tip in room.tips]
    left = room.send("m.room.topic", ZOE, {"topic": "left"}, "", after=base)
    left2 = room.member(ZOE, "@ned:third.example", "ban", after=[left])
    right = room.send("m.room.topic", YAN, {"topic": "right"}, "", after=base)
    right2 = room.say(YAN, after=[right])
    assert len(room.tips) == 2
    for pdu in (left, right, left2, right2):
        assert server.receive(pdu) is Receipt.ACCEPTED
    head = server.head(room)
    assert set(head.extremities) == set(room.tips)
    assert dict(head.state) == room.current
    server.forget()
    assert dict(server.head(room).state) == room.current
    merged = room.send("m.room.name", ZOE, {"name": "one again"}, "")
    assert server.receive(merged) is Receipt.ACCEPTED
    head = server.head(room)
    assert head.extremities == (merged.event_id,)
    assert dict(head.state) == room.current


def test_event_that_its_auth_events_do_not_allow_is_rejected_and_hidden(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    levels = room.events[room.current["m.room.power_levels", ""]]
    create = room.create
    bad = room.say("@eve:evil.example", auth=[create, levels])
    room.forget_tip(bad)
    before = server.head(room)
    assert server.receive(bad) is Receipt.REJECTED
    assert server.head(room) is before
    assert server.seen(room)[1:] == []
    stored = server.event(bad)
    assert "not in the room" in stored.rejected
    assert stored.timeline_order is None
    # What follows it is judged as if it were not there.
    after = room.say(ZOE, after=[bad, room.events[before.extremities[0]]])
    assert server.receive(after) is Receipt.ACCEPTED
    assert server.head(room).extremities == (after.event_id,)


def test_event_that_names_a_rejected_one_is_rejected(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    levels = room.events[room.current["m.room.power_levels", ""]]
    grab = room.send("m.room.power_levels", ALICE, {"users": {ALICE: 100}}, "", after=base)
    assert server.receive(grab) is Receipt.REJECTED
    member = room.events[room.current["m.room.member", ALICE]]
    name = room.send("m.room.name", ALICE, {"name": "mine"}, "", after=base, auth=[room.create, grab, member])
    assert server.receive(name) is Receipt.REJECTED
    assert "rejected event" in server.event(name).rejected
    assert server.head(room).state["m.room.power_levels", ""] == levels.event_id


def test_event_allowed_before_but_not_now_is_soft_failed(server: IngestServer) -> None:
    room = open_room()
    eve = "@eve:evil.example"
    room.join(eve)
    server.enter(room)
    base = [room.events[room.tips[0]]]
    ban = room.member(ZOE, eve, "ban")
    assert server.receive(ban) is Receipt.ACCEPTED
    evasion = room.say(eve, "not gone yet", after=base)
    room.forget_tip(evasion)
    assert server.receive(evasion) is Receipt.SOFT_FAILED
    head = server.head(room)
    assert head.extremities == (ban.event_id,)
    assert evasion.event_id not in server.seen(room)
    assert server.event(evasion).soft_failed
    # A soft-failed event may be built on by others; then what it followed is no extremity any more.
    merge = room.say(ZOE, after=[ban, evasion])
    assert server.receive(merge) is Receipt.ACCEPTED
    assert server.head(room).extremities == (merge.event_id,)
    assert dict(server.head(room).state) == room.states[merge.event_id]
    follow = room.say(ZOE, "on a branch", after=[evasion, base[0]])
    assert server.receive(follow) is Receipt.ACCEPTED


def test_what_it_builds_on_must_be_there(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    first = room.say(ZOE)
    second = room.say(ZOE)
    with pytest.raises(MissingEvents) as missing:
        server.receive(second)
    assert missing.value.ids == {first.event_id}
    joined = room.join("@new:third.example")
    spoken = room.say("@new:third.example")
    assert server.receive(first) is Receipt.ACCEPTED
    assert server.receive(second) is Receipt.ACCEPTED
    with pytest.raises(MissingEvents):
        server.receive(spoken)
    with pytest.raises(MissingEvents) as missing:
        server.receive(spoken, state_before={})
    assert missing.value.ids == {joined.event_id}


def test_event_behind_a_gap_brings_its_state_and_what_comes_late_is_no_extremity(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    known = room.say(ZOE)
    assert server.receive(known) is Receipt.ACCEPTED
    topic = room.send("m.room.topic", YAN, {"topic": "unseen"}, "")
    newest = room.say(YAN)
    given = room.state_before(newest.prev_events)
    state = [room.events[event_id] for event_id in given.values()]
    server.wait(server.ingest.store_outliers(room.version, [*room.auth_chain(state), *state]))
    assert server.event(topic).is_outlier
    assert server.receive(newest, state_before=given) is Receipt.ACCEPTED
    head = server.head(room)
    assert set(head.extremities) == {known.event_id, newest.event_id}
    assert dict(head.state) == given
    assert server.receive(topic) is Receipt.ACCEPTED
    assert not server.event(topic).is_outlier
    assert server.head(room).extremities == (newest.event_id,)
    assert dict(server.head(room).state) == given
    server.forget()
    assert dict(server.head(room).state) == given
    assert server.event(topic).timeline_order > server.event(newest).timeline_order


def test_local_events_merge_the_extremities(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    forks = [room.send("m.room.topic", user, {"topic": user}, "", after=base) for user in (ZOE, YAN)]
    for fork in forks:
        assert server.receive(fork) is Receipt.ACCEPTED
    assert room.room_id is not None
    draft = Draft("m.room.message", ALICE, {"body": "x"})
    [sent] = server.wait(server.writer.write(room.room_id, lambda _: [draft]))
    assert set(sent.pdu.prev_events) == {fork.event_id for fork in forks}
    assert server.head(room).extremities == (sent.event_id,)
    room.events[sent.event_id] = sent.pdu
    room.states[sent.event_id] = room.state_before(sent.pdu.prev_events)
    answer = room.say(ZOE, after=[sent.pdu])
    assert server.receive(answer) is Receipt.ACCEPTED
    assert dict(server.head(room).state) == room.states[answer.event_id]


def test_late_redaction_hits_its_target_when_that_comes(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    target = room.say(YAN, "oh dear", after=base)
    redaction = room.send("m.room.redaction", ZOE, {"redacts": target.event_id}, after=base)
    assert server.receive(redaction) is Receipt.ACCEPTED
    assert server.receive(target) is Receipt.ACCEPTED
    assert server.event(target).redacted_by == redaction.event_id
    server.forget()
    assert server.event(target).pdu.content == {}


def fork_events(room: RemoteRoom) -> list[Pdu]:
    """Two sides that ban, demote and contradict each other, and what comes behind them."""
    eve = "@eve:evil.example"
    base = [room.events[room.tips[0]]]
    demoted = room.send("m.room.power_levels", ZOE, {"users": {ZOE: 100}}, "", after=base)
    named = room.send("m.room.name", ZOE, {"name": "zoe's"}, "", after=[demoted])
    banned = room.member(YAN, eve, "ban", after=base)
    topic = room.send("m.room.topic", YAN, {"topic": "yan's"}, "", after=[banned])
    spoken = room.say(eve, after=base)
    return [demoted, named, banned, topic, spoken]


@pytest.mark.parametrize("version", ["2", "10"])
def test_order_of_arrival_does_not_matter(database_url: str, tmp_path: Path, version: str) -> None:
    room = open_room(version)
    room.join("@eve:evil.example")
    server = IngestServer(database_url, tmp_path)
    join = server.enter(room)
    made = fork_events(room)
    outcomes = set()
    for number, order in enumerate(permutations(range(3))):
        sides = [made[0:2], made[2:4], made[4:5]]
        for side in order:
            for pdu in sides[side]:
                server.receive(pdu)
        state = dict(server.head(room).state)
        outcomes.add(tuple(sorted(state.items())))
        server.close()
        if number < 5:
            server = reset(database_url, tmp_path, room, join)
    assert len(outcomes) == 1


def reset(url: str, path: Path, room: RemoteRoom, join: Pdu) -> IngestServer:
    """The server as it was right after its join."""
    server = IngestServer(url, path)
    server.wait(server.database.run(_wipe, join.room_id))
    server.heads.drop(join.room_id)
    state = room.state_events(join)
    server.wait(server.ingest.start_room(room.version, join, state, room.auth_chain([*state, join])))
    return server


def _wipe(conn: Any, room_id: str) -> None:
    for table in (rooms, events, current_state, memberships, state_deltas, state_snapshots, event_gaps):
        conn.execute(table.delete().where(table.c.room_id == room_id))


@pytest.mark.parametrize("version", ["11", "12"])
def test_old_state_brought_in_by_a_fork_does_not_reset_the_room(server: IngestServer, version: str) -> None:
    """MSC4297: a fork whose state lacks what happened since (as a wrong /state answer tells it) loses."""
    room = open_room(version)
    server.enter(room)
    old = room.state_before(room.tips)
    base = [room.events[room.tips[0]]]
    eve = "@eve:evil.example"
    first = room.send("m.room.join_rules", ZOE, {"join_rule": "invite"}, "", after=base)
    second = room.send("m.room.power_levels", ZOE, {"users": {} if version == "12" else {ZOE: 100}}, "")
    third = room.member(ZOE, eve, "ban")
    for pdu in (first, second, third):
        assert server.receive(pdu) is Receipt.ACCEPTED
    good = dict(server.head(room).state)
    stale = room.say(YAN, after=[third])
    room.states[stale.event_id] = old
    branch = room.say(YAN, after=[stale])
    assert server.receive(branch, state_before=old) in (Receipt.ACCEPTED, Receipt.SOFT_FAILED)
    for key in (("m.room.join_rules", ""), ("m.room.power_levels", ""), ("m.room.member", eve)):
        assert server.head(room).state.get(key) == good[key]


def test_room_that_was_left_goes_on_where_it_is_now(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    said = room.say(ZOE)
    assert server.receive(said) is Receipt.ACCEPTED
    left = room.member(ALICE, ALICE, "leave")
    assert server.receive(left) is Receipt.ACCEPTED
    room.member(ZOE, YAN, "ban")
    room.send("m.room.name", ZOE, {"name": "without them"}, "")
    join = server.enter(room)
    head = server.head(room)
    assert dict(head.state) == room.current
    assert dict(head.members) == {ZOE: "join", YAN: "ban", ALICE: "join"}
    assert (head.joined, head.extremities) == (2, (join.event_id,))
    server.forget()
    assert dict(server.head(room).members) == {ZOE: "join", YAN: "ban", ALICE: "join"}
    with pytest.raises(AuthRejected):
        server.enter(room, UserId("@yan:other.example"))


def test_second_local_user_who_joins_by_another_server_is_received(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    bob = server.enter(room, UserId("@bob:test.example"))
    assert server.seen(room)[-1] == bob.event_id
    assert server.head(room).extremities == (bob.event_id,)


def test_many_extremities_are_merged_by_an_event_of_ours(server: IngestServer) -> None:
    background = Background()
    extremities = Extremities(server.writer.server_name, server.heads, server.writer, background)
    server.log.follow(extremities.on_rows)
    room = open_room()
    server.enter(room)
    base = [room.events[room.tips[0]]]
    forks = [room.say(ZOE, f"{number}", after=base) for number in range(MAX_EXTREMITIES + 1)]
    for fork in forks:
        assert server.receive(fork) is Receipt.ACCEPTED
    server.wait(Deferred.fromCoroutine(background.wait()))
    [dummy] = server.head(room).extremities
    assert server.seen(room)[-1] == dummy
    assert len(server.timeline(base[0].room_id)[-1].pdu.prev_events) == MAX_EXTREMITIES + 1


def test_outliers_that_come_from_two_sides_at_once_are_stored_once(server: IngestServer) -> None:
    room = open_room()
    server.enter(room)
    first, second = room.say(ZOE, "first"), room.say(ZOE, "second")
    store = server.ingest.store_outliers

    async def store_both() -> list[set[EventId]]:
        return await gather([store(room.version, [first]), store(room.version, [first, second])])

    assert server.wait(store_both()) == [set(), set()]
    assert server.event(first).is_outlier
    assert server.event(second).is_outlier
