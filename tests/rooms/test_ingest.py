"""Events of other servers: into the store, the head and the log."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.ingest import Ingest, Receipt
from homeserver.store.log import load_head_position
from tests.rooms.harness import ALICE, NoPush, RoomsServer
from tests.rooms.remote_room import RemoteRoom

ZOE = UserId("@zoe:remote.example")
YAN = UserId("@yan:other.example")
VERSIONS = ["1", "2", "6", "10", "11", "12"]


class IngestServer(RoomsServer):
    def __init__(self, url: str, data_dir: Path, **config: Any) -> None:
        super().__init__(url, data_dir, **config)
        self.ingest = Ingest(self.writer.server_name, self.database, self.heads, self.events, self.log, NoPush())

    def enter(self, room: RemoteRoom, user: UserId = ALICE, **options: Any) -> Pdu:
        """Join through another server, as the room is now."""
        join = room.join(user)
        state = room.state_events(join)
        self.wait(self.ingest.start_room(room.version, join, state, room.auth_chain([*state, join]), **options))
        return join

    def receive(self, pdu: Pdu, **options: Any) -> Receipt:
        receipt: Receipt = self.wait(self.ingest.receive(pdu, **options))
        return receipt

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
        self.ingest = Ingest(self.writer.server_name, self.database, self.heads, self.events, self.log, NoPush())


@pytest.fixture
def server(database_url: str, tmp_path: Path) -> Iterator[IngestServer]:
    server = IngestServer(database_url, tmp_path)
    yield server
    server.close()


def open_room(version: str = "11") -> RemoteRoom:
    room = RemoteRoom(ZOE, version).open(ZOE, power={YAN: 100})
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
