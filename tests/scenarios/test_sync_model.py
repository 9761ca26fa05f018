"""Random activity over HTTP, with restarts: who follows by /sync and who follows by sliding sync see what the server has.

Each client folds what it is told into rooms of its own. In the end each has the rooms, the state and the timeline (as far back
as it knows without a gap) that the server tells of, no event twice. $HEARTH_MODEL_EXAMPLES sets how many runs there are.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from attrs import define, field
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.kit.client import Client, Unexpected

EXAMPLES = int(os.environ.get("HEARTH_MODEL_EXAMPLES", "15"))
SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
USERS = 3
MAX_ROOMS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["create", "join", "leave", "invite", "kick", "send", "burst", "topic", "name", "redact", "read", "tag"]
            + ["sync"] * 8
            + ["restart"]
        ),
        st.integers(0, USERS - 1),
        st.integers(0, MAX_ROOMS - 1),
        st.integers(0, 11),
    ),
    min_size=10,
    max_size=40,
)
_names = count(1)


@define
class Room:
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
class Follower:
    """A client, and what it knows."""

    client: Client
    rooms: dict[str, Room] = field(factory=dict)
    token: str | None = None

    def step(self) -> None:
        raise AssertionError


@define
class SyncFollower(Follower):
    filter: Any = None

    def step(self) -> None:
        query = {"since": self.token, "timeout": 0, "filter": self.filter}
        answer = self.client.get("/sync", query=query)
        self.token = answer["next_batch"]
        rooms = answer.get("rooms", {})
        for room_id, told in rooms.get("join", {}).items():
            room = self.rooms.setdefault(room_id, Room())
            room.tell(told["timeline"]["events"], limited=told["timeline"]["limited"])
            room.fold(told["state"]["events"] + told["timeline"]["events"])
        for room_id in rooms.get("leave", {}):
            self.rooms.pop(room_id, None)


@define
class SlidingFollower(Follower):
    def step(self) -> None:
        listed = {"ranges": [[0, 20]], "timeline_limit": 5, "required_state": [["*", "*"]]}
        body = {"lists": {"all": listed}, "extensions": {"account_data": {"enabled": True}}}
        try:
            answer = self.client.post(SLIDING, body, query={"pos": self.token, "timeout": 0})
        except Unexpected as error:
            assert error.body["errcode"] == "M_UNKNOWN_POS"
            self.token, self.rooms = None, {}
            return self.step()
        self.token = answer["pos"]
        for room_id, told in answer["rooms"].items():
            if told.get("initial"):
                self.rooms[room_id] = Room()
            room = self.rooms.setdefault(room_id, Room())
            room.tell(told.get("timeline", []), limited=bool(told.get("limited")))
            room.fold(told.get("required_state", []))
        joined = set(self.client.get("/joined_rooms")["joined_rooms"])
        for room_id in set(self.rooms) - joined:
            del self.rooms[room_id]
        return None


class World:
    """Users, their rooms and their clients, all new in each run."""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.users: list[Client] = [server.register(f"user{next(_names)}") for _ in range(USERS)]
        self.rooms: list[str] = []
        self.sent: list[tuple[str, str]] = []
        small = {"room": {"timeline": {"limit": 3}}}
        self.followers: list[Follower] = []
        for user in self.users:
            own = [SyncFollower(user.another_device()), SyncFollower(user.another_device(), filter=small)]
            self.followers += [*own, SlidingFollower(user.another_device())]
        self.act("create", 0, 0, 0)

    def act(self, what: str, user_index: int, room_index: int, number: int) -> None:
        """Do it, if the server allows it."""
        user = self.users[user_index]
        if what == "sync":
            self.followers[number % len(self.followers)].step()
        elif what == "restart":
            self.restart()
        elif what == "create":
            if len(self.rooms) < MAX_ROOMS:
                self.rooms.append(user.create_room(preset="public_chat"))
        else:
            room = self.rooms[room_index % len(self.rooms)]
            try:
                self._act_in(what, user, room, number)
            except Unexpected as error:
                assert error.status in (400, 403, 404), error

    def _act_in(self, what: str, user: Client, room: str, number: int) -> None:
        other = self.users[number % USERS]
        if what == "join":
            user.join(room)
        elif what == "leave":
            user.leave(room)
        elif what == "invite":
            user.invite(room, other.user_id)
        elif what == "kick":
            user.kick(room, other.user_id)
        elif what == "send":
            self.sent += [(room, user.send(room, str(n))) for n in range(number % 4 + 1)]
        elif what == "burst":
            self._burst(room)
        elif what == "topic":
            user.set_state(room, "m.room.topic", {"topic": str(number)})
        elif what == "name":
            user.put("/profile/{}/displayname", {"displayname": str(number)}, at=[user.user_id])
        elif what == "redact" and self.sent:
            user.redact(*self.sent[number % len(self.sent)])
        elif what == "read" and self.sent:
            user.post("/rooms/{}/receipt/m.read/{}", at=self.sent[number % len(self.sent)])
        elif what == "tag":
            user.put("/user/{}/rooms/{}/tags/{}", {}, at=(user.user_id, room, f"u.{number}"))

    def _burst(self, room: str) -> None:
        """Several write while others read."""

        def write(user: Client) -> None:
            try:
                user.another_device().send(room, "at once", txn_id=f"burst{next(_names)}")
            except Unexpected as error:
                assert error.status == 403, error

        with ThreadPoolExecutor(USERS * 2) as threads:
            running = [threads.submit(write, user) for user in self.users]
            running += [threads.submit(follower.step) for follower in self.followers[:: len(self.users)]]
            for future in running:
                future.result(60)

    def restart(self) -> None:
        self.server.restart()
        for client in [*self.users, *(follower.client for follower in self.followers)]:
            client.base_url = self.server.url

    def check(self) -> None:
        for follower in self.followers:
            follower.step()
            client = follower.client
            joined = client.get("/joined_rooms")["joined_rooms"]
            assert sorted(follower.rooms) == sorted(joined)
            for room_id, room in follower.rooms.items():
                state = client.get("/rooms/{}/state", at=[room_id])
                assert room.state == {(event["type"], event["state_key"]): event["event_id"] for event in state}
                newest = client.messages(room_id, limit=100)["chunk"]
                truth = [event["event_id"] for event in reversed(newest)]
                assert truth[-len(room.timeline) :] == room.timeline[-100:]
                assert len(set(room.timeline)) == len(room.timeline)


@pytest.mark.timeout(560)
def test_all_who_follow_see_what_the_server_has(hearth: Any) -> None:
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(STEPS)
    def run(steps: list[tuple[str, int, int, int]]) -> None:
        world = World(hearth)
        for step in steps:
            world.act(*step)
        world.check()

    run()
