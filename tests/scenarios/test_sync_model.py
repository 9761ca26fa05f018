"""Random activity over HTTP, with restarts: who follows by /sync, by sliding sync and by the WebSocket see what the server has.

Each client folds what it is told into rooms of its own; in the end each has exactly what the server tells who asks anew, no event
twice and none missed. The clients differ in what they ask for; polls wait while others act, answers get lost, several write at
once. To search: $HEARTH_MODEL_SECONDS sets for how long there are new runs, $HEARTH_MODEL_SEED which they are.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, ClassVar

import pytest
from attrs import define, field
from hypothesis import Phase, given, seed, settings
from hypothesis import strategies as st

from tests.kit.client import Client, Unexpected
from tests.scenarios.stream_follower import StreamFollower
from tests.scenarios.sync_follower import KINDS, SyncFollower, load_truth, messages_of

SECONDS = int(os.environ.get("HEARTH_MODEL_SECONDS", "0"))
SEED = int(os.environ.get("HEARTH_MODEL_SEED", "1"))
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
RUNS_AT_A_TIME = 8
MIN_TIMES = 6
USERS = 3
MAX_ROOMS = 3
PRESETS = ("public_chat", "private_chat", "trusted_private_chat")
VISIBILITIES = ("shared", "joined", "invited", "world_readable")
JOIN_RULES = ("public", "invite", "knock")
VERSIONS = ("6", "10", "11", "12")
PASSWORD = "password of the tests"
OF_OWN_DEVICE = "plain"
_names = count(1)


@define
class SlidingRoom:
    state: dict[tuple[str, str], str] = field(factory=dict)
    timeline: list[str] = field(factory=list)

    def tell(self, events: list[Any], *, limited: bool) -> None:
        if limited:
            self.timeline.clear()
        for event in events:
            assert event["event_id"] not in self.timeline, "told twice"
            self.timeline.append(event["event_id"])

    def fold(self, events: list[Any]) -> None:
        for event in events:
            if "state_key" in event:
                self.state[event["type"], event["state_key"]] = event["event_id"]


@define
class SlidingFollower:
    """A client by sliding sync, and what it knows of joined rooms."""

    name: ClassVar[str] = "sliding"
    client: Client
    rooms: dict[str, SlidingRoom] = field(factory=dict)
    token: str | None = None
    messages: list[int] = field(factory=list)
    _acknowledged: str | None = None

    def step(self) -> None:
        listed = {"ranges": [[0, 20]], "timeline_limit": 5, "required_state": [["*", "*"]]}
        to_device = {"enabled": True, **({"since": self._acknowledged} if self._acknowledged is not None else {})}
        extensions = {"account_data": {"enabled": True}, "to_device": to_device}
        body = {"lists": {"all": listed}, "extensions": extensions}
        try:
            answer = self.client.post(SLIDING, body, query={"pos": self.token, "timeout": 0})
        except Unexpected as error:
            assert error.body["errcode"] == "M_UNKNOWN_POS"
            self.token, self.rooms = None, {}
            return self.step()
        self.token = answer["pos"]
        told = answer["extensions"].get("to_device")
        if told is not None:
            self._acknowledged = told["next_batch"]
            self.messages += messages_of(told)
        for room_id, told in answer["rooms"].items():
            if told.get("initial"):
                self.rooms[room_id] = SlidingRoom()
            room = self.rooms.setdefault(room_id, SlidingRoom())
            room.tell(told.get("timeline", []), limited=bool(told.get("limited")))
            room.fold(told.get("required_state", []))
        joined = set(self.client.get("/joined_rooms")["joined_rooms"])
        for room_id in set(self.rooms) - joined:
            del self.rooms[room_id]
        return None

    def check(self) -> None:
        self.step()
        joined = self.client.get("/joined_rooms")["joined_rooms"]
        assert sorted(self.rooms) == sorted(joined)
        for room_id, room in self.rooms.items():
            state = self.client.get("/rooms/{}/state", at=[room_id])
            assert room.state == {(event["type"], event["state_key"]): event["event_id"] for event in state}
            newest = self.client.messages(room_id, limit=100)["chunk"]
            truth = [event["event_id"] for event in reversed(newest)]
            assert truth[-len(room.timeline) :] == room.timeline[-100:]
            assert len(set(room.timeline)) == len(room.timeline)


class World:
    """Users, their rooms and their clients, all new in each run."""

    def __init__(self, server: Any, threads: ThreadPoolExecutor) -> None:
        self.server = server
        self.threads = threads
        self.users: list[Client] = [server.register(f"user{next(_names)}") for _ in range(USERS)]
        self.rooms: list[str] = []
        self.sent: list[tuple[str, str]] = []
        self.messages: dict[str, list[int]] = {user.user_id: [] for user in self.users}
        self.followers = [SyncFollower(k[0], self._log_in(user, k[0]), *k[1:]) for user in self.users for k in KINDS]
        self.sliding = [SlidingFollower(self._log_in(user)) for user in self.users]
        self.streams = [StreamFollower(self._log_in(user)) for user in self.users]
        self.act("create", 0, 0, 0)

    def _log_in(self, user: Client, kind: str = OF_OWN_DEVICE) -> Client:
        """One for each transport has a device of its own, so that messages to it are for nobody else."""
        if kind != OF_OWN_DEVICE:
            return user.another_device()
        client: Client = self.server.client()
        client.login(user.user_id, PASSWORD)
        return client

    def act(self, what: str, user_index: int, room_index: int, number: int) -> None:
        """Do it, if the server allows it."""
        user = self.users[user_index]
        follower = self.followers[(user_index * len(KINDS) + number) % len(self.followers)]
        if what in FOLLOWING:
            FOLLOWING[what](self, follower)
            return
        try:
            if what in ABOUT_USERS:
                ABOUT_USERS[what](self, user, number)
            else:
                room = self.rooms[room_index % len(self.rooms)]
                IN_ROOMS[what](self, user, room, number)
        except Unexpected as error:
            assert error.status in (400, 403, 404), error

    # -- acts of those who follow

    def slide(self, _follower: SyncFollower) -> None:
        for sliding in self.sliding:
            sliding.step()

    def stream(self, _follower: SyncFollower) -> None:
        for stream in self.streams:
            stream.step()

    def lose_streams(self, _follower: SyncFollower) -> None:
        for stream in self.streams:
            stream.lose_connection()

    def restart(self, _follower: SyncFollower) -> None:
        self.server.restart()
        following = [one.client for one in (*self.followers, *self.sliding, *self.streams)]
        for client in [*self.users, *following]:
            client.base_url = self.server.url
        self.stream(_follower)
        for follower in [*self.followers, *(stream.follower for stream in self.streams)]:
            follower.forget_typing()

    # -- acts of users

    def create(self, user: Client, number: int) -> None:
        if len(self.rooms) < MAX_ROOMS:
            visibility = {
                "type": "m.room.history_visibility",
                "content": {"history_visibility": VISIBILITIES[number % 4]},
            }
            version = VERSIONS[number // 3 % 4]
            options = {"preset": PRESETS[number % 3], "room_version": version, "initial_state": [visibility]}
            levels = {"events": {}, "state_default": 0, "events_default": 0, "invite": 0, "kick": 0, "ban": 0}
            self.rooms.append(user.create_room(**options, power_level_content_override=levels))

    def rename(self, user: Client, number: int) -> None:
        user.put("/profile/{}/displayname", {"displayname": str(number)}, at=[user.user_id])

    def note(self, user: Client, number: int) -> None:
        user.put("/user/{}/account_data/{}", {"n": next(_names)}, at=(user.user_id, f"x.{number % 3}"))

    def add_rule(self, user: Client, number: int) -> None:
        body = {"pattern": str(number), "actions": ["notify", {"set_tweak": "highlight"}]}
        user.put("/pushrules/global/content/{}", body, at=[f"r{number}"])

    def send_to_devices(self, user: Client, number: int) -> None:
        for _ in range(number % 3 + 1):
            to, n = self.other(number), next(_names)
            user.put("/sendToDevice/x.test/{}", {"messages": {to: {"*": {"n": n}}}}, at=[str(n)])
            self.messages[to].append(n)

    # -- acts in rooms

    def other(self, number: int) -> str:
        return self.users[number % USERS].user_id

    def send(self, user: Client, room: str, number: int) -> None:
        for _ in range(number % 4 + 1):
            self.sent.append((room, user.send(room, f"{number} at all")))

    def send_in_thread(self, user: Client, room: str, number: int) -> None:
        root = next((event_id for where, event_id in self.sent if where == room), None)
        if root is not None:
            relation = {"rel_type": "m.thread", "event_id": root}
            content = {"msgtype": "m.text", "body": str(number), "m.relates_to": relation}
            self.sent.append((room, user.send(room, content)))

    def set_topic(self, user: Client, room: str, number: int) -> None:
        self.sent.append((room, user.set_state(room, "m.room.topic", {"topic": str(number)})))

    def set_visibility(self, user: Client, room: str, number: int) -> None:
        user.set_state(room, "m.room.history_visibility", {"history_visibility": VISIBILITIES[number % 4]})

    def set_join_rule(self, user: Client, room: str, number: int) -> None:
        user.set_state(room, "m.room.join_rules", {"join_rule": JOIN_RULES[number % 3]})

    def redact(self, user: Client, _room: str, number: int) -> None:
        if self.sent:
            user.redact(*self.sent[number % len(self.sent)])

    def read(self, user: Client, _room: str, number: int) -> None:
        if self.sent:
            kind = ("m.read", "m.read.private")[number % 2]
            where = self.sent[-1 - number % len(self.sent)]
            user.post("/rooms/{}/receipt/{}/{}", at=(where[0], kind, where[1]))

    def mark_read(self, user: Client, _room: str, number: int) -> None:
        if self.sent:
            room, event_id = self.sent[-1 - number % len(self.sent)]
            user.post("/rooms/{}/read_markers", {"m.fully_read": event_id, "m.read": event_id}, at=[room])

    def type(self, user: Client, room: str, number: int) -> None:
        body = {"typing": True, "timeout": 120_000} if number % 3 else {"typing": False}
        user.put("/rooms/{}/typing/{}", body, at=(room, user.user_id))

    def tag(self, user: Client, room: str, number: int) -> None:
        where = (user.user_id, room, f"u.{number % 3}")
        if number % 2:
            user.put("/user/{}/rooms/{}/tags/{}", {"order": 0.5}, at=where)
        else:
            user.delete("/user/{}/rooms/{}/tags/{}", at=where)

    def note_in_room(self, user: Client, room: str, number: int) -> None:
        where = (user.user_id, room, f"x.{number % 3}")
        user.put("/user/{}/rooms/{}/account_data/{}", {"n": next(_names)}, at=where)

    def burst(self, _user: Client, room: str, number: int) -> None:
        """All write at once, and one leaves and comes back, while others read."""
        readers = self.followers[number % 2 :: 2]
        for follower in readers:
            follower.settle()
        writers = [self.threads.submit(self._write, user, room, number) for user in self.users]
        readings = [self.threads.submit(follower.step) for follower in readers]
        for future in [*writers, *readings]:
            future.result(120)

    def _write(self, user: Client, room: str, number: int) -> None:
        writer = user.another_device()
        acts: list[Callable[[], object]] = [
            lambda: writer.send(room, "at once", txn_id=f"burst{next(_names)}"),
            lambda: writer.set_state(room, "m.room.topic", {"topic": user.user_id}),
        ]
        if self.users.index(user) == number % USERS:
            acts += [lambda: writer.leave(room), lambda: writer.join(room)]
        for act in acts:
            try:
                act()
            except Unexpected as error:
                assert error.status in (403, 404), error

    def check(self) -> None:
        for user_index, user in enumerate(self.users):
            own = self.followers[user_index * len(KINDS) :][: len(KINDS)]
            for follower in own:
                follower.step()
            truth = load_truth(user)
            for follower in own:
                follower.check(truth)
            self.streams[user_index].check(truth)
        for sliding in self.sliding:
            sliding.check()
        followers = [follower for follower in self.followers if follower.name == OF_OWN_DEVICE]
        following = [*followers, *self.sliding, *(stream.follower for stream in self.streams)]
        for one in following:
            who = f"{one.name} of {one.client.user_id}"
            assert one.messages == self.messages[one.client.user_id], f"{who}: messages to its device"


FOLLOWING: dict[str, Callable[[World, SyncFollower], None]] = {
    "sync": lambda _world, follower: follower.step(),
    "poll": lambda world, follower: follower.poll(world.threads),
    "full_state": lambda _world, follower: follower.step(full_state=True),
    "lose": lambda _world, follower: follower.lose_an_answer(),
    "anew": lambda _world, follower: follower.forget_everything(),
    "slide": World.slide,
    "stream": World.stream,
    "lose_streams": World.lose_streams,
    "restart": World.restart,
}
ABOUT_USERS = {
    "create": World.create,
    "rename": World.rename,
    "note": World.note,
    "add_rule": World.add_rule,
    "send_to_devices": World.send_to_devices,
}
IN_ROOMS: dict[str, Callable[[World, Client, str, int], object]] = {
    "join": lambda _world, user, room, _number: user.join(room),
    "leave": lambda _world, user, room, _number: user.leave(room),
    "forget": lambda _world, user, room, _number: user.forget(room),
    "knock": lambda _world, user, room, _number: user.post("/knock/{}", {}, at=[room]),
    "invite": lambda world, user, room, number: user.invite(room, world.other(number)),
    "kick": lambda world, user, room, number: user.kick(room, world.other(number)),
    "ban": lambda world, user, room, number: user.ban(room, world.other(number)),
    "unban": lambda world, user, room, number: user.unban(room, world.other(number)),
    "send": World.send,
    "thread": World.send_in_thread,
    "burst": World.burst,
    "topic": World.set_topic,
    "visibility": World.set_visibility,
    "join_rule": World.set_join_rule,
    "redact": World.redact,
    "read": World.read,
    "mark_read": World.mark_read,
    "type": World.type,
    "tag": World.tag,
    "note_in_room": World.note_in_room,
}
ACTS = ["sync"] * 10 + ["poll"] * 4 + ["send"] * 4 + ["join"] * 4 + ["invite"] * 3 + ["leave"] * 2 + ["read"] * 2
ACTS += ["send_to_devices"] * 2
STEPS = st.lists(
    st.tuples(
        st.sampled_from([*ACTS, *FOLLOWING, *ABOUT_USERS, *IN_ROOMS]),
        st.integers(0, USERS - 1),
        st.integers(0, MAX_ROOMS - 1),
        st.integers(0, 11),
    ),
    min_size=20,
    max_size=60,
)


@pytest.mark.timeout(24 * 3600)
def test_all_who_follow_see_what_the_server_has(hearth: Any) -> None:
    end_s = time.monotonic() + SECONDS
    for number in count(SEED):
        if number >= SEED + MIN_TIMES and time.monotonic() > end_s:
            return
        run_some(hearth, number)


def run_some(server: Any, number: int) -> None:
    """A few runs; those of a number are always the same but for what happens at once."""

    @seed(number)
    @settings(max_examples=RUNS_AT_A_TIME, phases=[Phase.generate], report_multiple_bugs=False)
    @given(STEPS)
    def run(steps: list[tuple[str, int, int, int]]) -> None:
        with ThreadPoolExecutor(USERS * (len(KINDS) + 1)) as threads:
            world = World(server, threads)
            try:
                for step in steps:
                    world.act(*step)
                world.check()
            except Exception as error:
                error.add_note(f"steps = {steps}")
                raise

    run()
