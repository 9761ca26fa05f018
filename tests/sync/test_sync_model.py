"""Random acts of many users; each client's folded view equals the server's, whatever came in between.

The clients differ in what they ask for; the log that stays in memory is so short that gaps are read from the
database; some syncs run while events are being written; the server is restarted at any moment.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import orjson
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.writer import Draft
from homeserver.sync.request import StateKind
from tests.sync.model_client import ModelClient
from tests.sync.world import World

USERS = ["@a:test", "@b:test", "@c:test"]
LAZY = {"room": {"timeline": {"limit": 3}, "state": {"lazy_load_members": True}}}
SMALL = {"room": {"timeline": {"limit": 2}, "state": {}}}
KINDS = [
    ("plain", StateKind.BEFORE, None),
    ("small", StateKind.BEFORE, SMALL),
    ("after", StateKind.AFTER, SMALL),
    ("lazy", StateKind.BEFORE, LAZY),
    ("lazy-after", StateKind.UNSTABLE_AFTER, LAZY),
]
users = st.sampled_from(USERS)
indexes = st.integers(0, 5)


class SyncMachine(RuleBasedStateMachine):
    world: World

    def __init__(self, make_database: Callable[[], str]) -> None:
        super().__init__()
        self._make_database = make_database

    @initialize(max_rows=st.sampled_from([3, 12, 4000]))
    def start(self, max_rows: int) -> None:
        self.world = World(self._make_database(), max_rows=max_rows)
        self.rooms: list[RoomId] = []
        self.behind_gaps: set[str] = set()
        self.sent: list[tuple[RoomId, str]] = []
        self.clients = [ModelClient(user, name, kind, filter) for user in USERS for name, kind, filter in KINDS]
        self.create("@a:test", "shared")

    @rule(user=users, visibility=st.sampled_from(["shared", "joined", "invited", "world_readable"]))
    @precondition(lambda self: len(self.rooms) < 3)
    def create(self, user: str, visibility: str) -> None:
        self.rooms.append(self.world.create(user, visibility=visibility))

    @rule(
        sender=users,
        other=users,
        index=indexes,
        membership=st.sampled_from(["join", "leave", "invite", "ban"]),
    )
    def change_membership(self, sender: str, other: str, index: int, membership: str) -> None:
        self._try(index, Draft("m.room.member", UserId(sender), {"membership": membership}, other))

    @rule(user=users, index=indexes)
    def join(self, user: str, index: int) -> None:
        self._try(index, Draft("m.room.member", UserId(user), {"membership": "join"}, user))

    @rule(user=users, index=indexes, name=st.sampled_from(["x", "y"]))
    def change_profile(self, user: str, index: int, name: str) -> None:
        room_id = self._room(index)
        head = self.world.run(self.world.heads.load(room_id))
        if head.is_joined(UserId(user)):
            self._try(index, Draft("m.room.member", UserId(user), {"membership": "join", "displayname": name}, user))

    @rule(user=users, index=indexes, count=st.integers(1, 4))
    def send(self, user: str, index: int, count: int) -> None:
        for number in range(count):
            self._try(index, Draft("m.room.message", UserId(user), {"body": str(number)}))

    @rule(user=users, index=indexes, text=st.booleans())
    def send_behind_gap(self, user: str, index: int, text: bool) -> None:
        draft = Draft("m.room.message", UserId(user), {"body": "behind a gap"})
        topic = Draft("m.room.topic", UserId(user), {"topic": "behind a gap"}, "")
        try:
            events = self.world.write_behind_gap(self._room(index), draft if text else topic)
        except MatrixError:
            return
        self.behind_gaps.update(event.event_id for event in events)

    @rule(user=users, index=indexes, topic=st.sampled_from(["one", "two"]))
    def set_topic(self, user: str, index: int, topic: str) -> None:
        self._try(index, Draft("m.room.topic", UserId(user), {"topic": topic}, ""))

    @rule(user=users, index=indexes)
    def set_visibility(self, user: str, index: int) -> None:
        content = {"history_visibility": "joined"}
        self._try(index, Draft("m.room.history_visibility", UserId(user), content, ""))

    @rule(user=users, index=indexes)
    @precondition(lambda self: self.sent)
    def redact(self, user: str, index: int) -> None:
        room_id, event_id = self.sent[index % len(self.sent)]
        self._try(self.rooms.index(room_id), Draft("m.room.redaction", UserId(user), {}, redacts=event_id))  # type: ignore[arg-type]

    @rule(user=users, index=indexes)
    @precondition(lambda self: self.sent)
    def read(self, user: str, index: int) -> None:
        room_id, event_id = self.sent[index % len(self.sent)]
        self.world.receipt(user, room_id, event_id)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(index=st.integers(0, 14))
    def sync(self, index: int) -> None:
        self._sync(self.clients[index])

    @rule(index=st.integers(0, 14))
    def forget_everything(self, index: int) -> None:
        self.clients[index].forget()

    @rule(index=st.integers(0, 14))
    def lose_an_answer(self, index: int) -> None:
        client = self.clients[index]
        self.world.sync(client.user, client.token, **client.options())

    @rule(index=st.integers(0, 14), user=users, room=indexes, membership=st.sampled_from(["join", "leave"]))
    def sync_while_others_act(self, index: int, user: str, room: int, membership: str) -> None:
        world, client = self.world, self.clients[index]
        world.restart()  # so that the sync has to wait for the database
        room_id = self._room(room)
        request = world.request(client.user, client.token, **client.options())
        syncing = world.start(world.service.sync(request))
        drafts = [
            Draft("m.room.message", UserId(user), {"body": "meanwhile"}),
            Draft("m.room.member", UserId(user), {"membership": membership}, user),
            Draft("m.room.message", UserId(user), {"body": "after"}),
        ]
        writing = [world.start(world.writer.write(room_id, lambda _head, draft=draft: [draft])) for draft in drafts]  # type: ignore[misc]
        self._take(client, orjson.loads(world.wait(syncing)))
        for deferred in writing:
            try:
                world.wait(deferred)
            except MatrixError:
                continue

    @rule()
    def compare(self) -> None:
        for client in self.clients:
            self._sync(client)
            client.check(self.world)

    @invariant()
    def polls_of_those_who_know_all_are_empty(self) -> None:
        if not hasattr(self, "world"):
            return
        client = self.clients[0]
        self._sync(client)
        assert set(self.world.sync(client.user, client.token, **client.options())) == {"next_batch"}

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.compare()
            self.world.stop()

    def _room(self, index: int) -> RoomId:
        return self.rooms[index % len(self.rooms)]

    def _try(self, index: int, draft: Draft) -> None:
        """Do it if the rules of the room allow it."""
        room_id = self._room(index)
        try:
            self.sent += [(room_id, event.event_id) for event in self.world.write(room_id, draft)]
        except MatrixError:
            return

    def _sync(self, client: ModelClient) -> None:
        self._take(client, self.world.sync(client.user, client.token, **client.options()))

    def _take(self, client: ModelClient, answer: dict[str, Any]) -> None:
        for section in ("join", "leave"):
            for room in answer.get("rooms", {}).get(section, {}).values():
                timeline = room["timeline"]
                unbroken = timeline["events"][1:] if timeline["limited"] else timeline["events"]
                assert self.behind_gaps.isdisjoint(event["event_id"] for event in unbroken)
        client.take(self.world, answer)


def test_what_clients_fold_is_what_the_server_has(make_database: Callable[[str], str]) -> None:
    numbers = count(1)
    run_state_machine_as_test(
        lambda: SyncMachine(lambda: make_database(f"world{next(numbers)}")),
        settings=settings(max_examples=15, stateful_step_count=25),
    )
