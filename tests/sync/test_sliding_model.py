"""Random runs of sliding sync: whoever follows a connection has in the end what a new connection is told.

MSC4186 promises it whatever answers are lost, and whatever the client asks for meanwhile. Between the acts of three users a
client asks, each time for other lists, rooms and extensions; a quarter of the answers never reach it, and it asks again from
where it was. The server remembers the whole run; where the seed is odd so little that gaps are read from the database.

A seed is one run, always the same. $HEARTH_SLIDING_SEEDS sets how many there are in each shape (8 by default).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from attrs import define, field

from tests.kit.client import Client, Json, Unexpected
from tests.sync.test_sliding_sync import STABLE, UNSTABLE

SEEDS = int(os.environ.get("HEARTH_SLIDING_SEEDS", "8"))
SHAPES = {"unstable": UNSTABLE, "stable": STABLE}
MANY_ROWS, FEW_ROWS = 4000, 100
STEPS = 40
MAX_ROOMS = 5

EVERYTHING, LAZY, ME = ["*", "*"], ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]
NAME, TOPIC = ["m.room.name", ""], ["m.room.topic", ""]
STATES: tuple[list[list[str]], ...] = ([EVERYTHING], [NAME], [TOPIC, LAZY], [NAME, LAZY, ME], [], [EVERYTHING, LAZY])
FILTERS: tuple[Json, ...] = (
    {"is_dm": True},
    {"is_dm": False},
    {"not_room_types": ["m.space"]},
    {"is_encrypted": False},
)
EXTENSIONS = ("account_data", "receipts", "typing")
WHOLE = {
    "lists": {"first": {"ranges": [[0, 99]], "timeline_limit": 20, "required_state": [EVERYTHING]}},
    "extensions": {name: {"enabled": True} for name in EXTENSIONS},
}
# What a room's part of an answer has only where it changed.
FIELDS = (
    "name",
    "heroes",
    "avatar",
    "is_dm",
    "joined_count",
    "invited_count",
    "notification_count",
    "highlight_count",
    "bump_stamp",
)


def draw_request(random: Random, rooms: list[str]) -> Json:
    """Some lists, subscriptions to some rooms, and some extensions, in the unstable shape."""
    lists: Json = {}
    for name in ("first", "second"):
        if random.random() < 0.75:
            last, limit = random.choice([0, 0, 1, 9]), random.choice([0, 1, 1, 3, 20])
            lists[name] = {"ranges": [[0, last]], "timeline_limit": limit, "required_state": random.choice(STATES)}
            if random.random() < 0.25:
                lists[name]["filters"] = random.choice(FILTERS)
    subscriptions = {
        room_id: {"timeline_limit": random.choice([1, 5, 20]), "required_state": random.choice(STATES)}
        for room_id in rooms
        if random.random() < 0.25
    }
    extensions = {name: _draw_extension(random, rooms) for name in EXTENSIONS if random.random() < 0.8}
    return {"lists": lists, "room_subscriptions": subscriptions, "extensions": extensions}


def _draw_extension(random: Random, rooms: list[str]) -> Json:
    if random.random() < 0.25:
        return {"enabled": False}
    extension: Json = {"enabled": True}
    if random.random() < 0.4:
        extension["lists"] = random.choice([[], ["first"], ["second"], ["*"]])
    if random.random() < 0.4:
        extension["rooms"] = random.choice([[], ["*"], rooms[:1]])
    return extension


def to_stable(request: Json, user_id: str) -> Json:
    """The same in the stable shape."""
    lists = {name: _to_stable_config(config, user_id) for name, config in request["lists"].items()}
    subscriptions = request.get("room_subscriptions", {})
    subscriptions = {room_id: _to_stable_config(config, user_id) for room_id, config in subscriptions.items()}
    return {"lists": lists, "room_subscriptions": subscriptions, "extensions": request["extensions"]}


def _to_stable_config(config: Json, user_id: str) -> Json:
    config = dict(config)
    if "ranges" in config:
        [config["range"]] = config.pop("ranges")
    include = [
        {} if pattern == EVERYTHING else {"type": pattern[0], "state_key": user_id if pattern == ME else pattern[1]}
        for pattern in config["required_state"]
        if pattern != LAZY
    ]
    return {**config, "required_state": {"include": include, "lazy_members": LAZY in config["required_state"]}}


@define
class Room:
    """A room as one client knows it."""

    fields: Json = field(factory=dict)
    state: dict[tuple[str, str], str] = field(factory=dict)
    timeline: list[str] = field(factory=list)
    members: set[str] = field(factory=set)
    own_membership: str | None = None

    def take(self, told: Json, user_id: str, *, is_lazy: bool) -> None:
        """Folds a room's part of an answer. `is_lazy` if members were asked for as they are needed, and in no other way."""
        self.fields.update((name, told[name]) for name in FIELDS if name in told)
        if told.get("name"):
            self.fields.pop("heroes", None)  # a room with a name has none
        stripped = told.get("invite_state") or told.get("stripped_state") or []
        events, state = told.get("timeline", []), told.get("required_state", [])
        if told.get("limited") and is_lazy:
            self.members.clear()
        if told.get("limited") or told.get("unstable_expanded_timeline") or told.get("expanded_timeline"):
            self.timeline.clear()
        for event in events:
            assert event["event_id"] not in self.timeline, "told twice"
            self.timeline.append(event["event_id"])
        self._fold(state)
        own = ("m.room.member", user_id)
        for event in [*stripped, *events, *state]:
            if (event["type"], event.get("state_key")) == own and "content" in event:
                self.own_membership = event["content"]["membership"]
        if is_lazy and not stripped and self.own_membership in (None, "join"):
            assert {event["sender"] for event in events} <= self.members, "senders are not known"

    def _fold(self, state: list[Json]) -> None:
        for event in state:
            key = (event["type"], event["state_key"])
            if "content" not in event:
                self.state.pop(key, None)
                continue
            self.state[key] = event["event_id"]
            if event["type"] == "m.room.member":
                self.members.add(event["state_key"])

    def check(self, fresh: Room) -> None:
        """This is what a new connection was told. Of timelines, the newest events that both have."""
        assert self.own_membership == fresh.own_membership
        if fresh.own_membership != "join":
            return
        assert self._known() == fresh._known()
        assert self.state == fresh.state
        both = min(len(self.timeline), len(fresh.timeline))
        assert both
        assert self.timeline[-both:] == fresh.timeline[-both:]

    def _known(self) -> Json:
        """The fields; null is told of what is no longer there."""
        return {"is_dm": False, **{name: value for name, value in self.fields.items() if value is not None}}


@define
class Follower:
    """A client on one connection, and all that it was told there."""

    client: Client
    path: str
    conn_id: str
    pos: str | None = None
    rooms: dict[str, Room] = field(factory=dict)
    account_data: dict[str, Json] = field(factory=dict)
    room_account_data: dict[str, dict[str, Json]] = field(factory=dict)
    receipts: dict[str, dict[tuple[str, str, str | None], str]] = field(factory=dict)
    typing: dict[str, set[str]] = field(factory=dict)

    def step(self, request: Json, *, is_lost: bool = False) -> None:
        """Asks; an answer that is lost is as if it never came."""
        try:
            answer = self._ask(request)
        except Unexpected as error:
            assert error.body["errcode"] == "M_UNKNOWN_POS"
            self._begin_anew()
            answer = self._ask(request)
        if not is_lost:
            configs = [*request["lists"].values(), *request.get("room_subscriptions", {}).values()]
            self._take(answer, is_lazy=all(LAZY in config["required_state"] for config in configs))

    def _ask(self, request: Json) -> Json:
        answer: Json
        if self.path == STABLE:
            pos = {} if self.pos is None else {"pos": self.pos}
            body = {**to_stable(request, self.client.user_id), "conn_id": self.conn_id, **pos}
            answer = self.client.post(STABLE, body)
        else:
            body = {**request, "conn_id": self.conn_id}
            answer = self.client.post(UNSTABLE, body, query={"pos": self.pos, "timeout": 0})
        return answer

    def _begin_anew(self) -> None:
        self.pos = None
        for known in (self.rooms, self.account_data, self.room_account_data, self.receipts, self.typing):
            known.clear()

    def _take(self, answer: Json, *, is_lazy: bool) -> None:
        self.pos = answer["pos"]
        for room_id, told in answer["rooms"].items():
            assert told.get("initial") or room_id in self.rooms, "has no beginning"
            if told.get("initial"):
                self.rooms[room_id] = Room()
            self.rooms[room_id].take(told, self.client.user_id, is_lazy=is_lazy)
        extensions = answer["extensions"]
        account_data = extensions.get("account_data", {})
        self.account_data.update((data["type"], data["content"]) for data in account_data.get("global", ()))
        for room_id, several in account_data.get("rooms", {}).items():
            known = self.room_account_data.setdefault(room_id, {})
            known.update((data["type"], data["content"]) for data in several)
        for room_id, event in extensions.get("receipts", {}).get("rooms", {}).items():
            self._take_receipts(room_id, event["content"])
        for room_id, event in extensions.get("typing", {}).get("rooms", {}).items():
            self.typing[room_id] = set(event["content"]["user_ids"])

    def _take_receipts(self, room_id: str, content: Json) -> None:
        known = self.receipts.setdefault(room_id, {})
        for event_id, kinds in content.items():
            for kind, users in kinds.items():
                for user_id, about in users.items():
                    known[kind, user_id, about.get("thread_id")] = event_id

    def check(self) -> None:
        """Asks for everything; so does a new connection of the same client, and both know the same."""
        self.step(WHOLE)
        fresh = Follower(self.client, self.path, "fresh")
        fresh.step(WHOLE)
        assert self.account_data == fresh.account_data
        assert fresh.rooms.keys() <= self.rooms.keys()
        for room_id, room in fresh.rooms.items():
            self.rooms[room_id].check(room)
            if room.own_membership == "join":
                self._check_extensions(room_id, fresh)
        for room_id in self.rooms.keys() - fresh.rooms.keys():
            assert self.rooms[room_id].own_membership not in ("join", "invite"), "has left, and was not told"

    def _check_extensions(self, room_id: str, fresh: Follower) -> None:
        assert self.room_account_data.get(room_id, {}) == fresh.room_account_data.get(room_id, {})
        assert self.receipts.get(room_id, {}).items() >= fresh.receipts.get(room_id, {}).items()
        assert self.typing.get(room_id, set()) == fresh.typing.get(room_id, set())


class Activity:
    """Three users and what they do, at random; the first is the one who follows."""

    def __init__(self, server: Any, random: Random) -> None:
        self.random = random
        self.done: list[str] = []
        self.users: list[Client] = [server.register(f"user{number}") for number in range(3)]
        self.follower = self.users[0]
        self.rooms: list[str] = []
        self.sent: list[tuple[str, str]] = []
        for _ in range(2):
            self.create(self.random.choice(self.users), preset="public_chat")
        for user in self.users:
            for room_id in self.rooms:
                user.join(room_id)

    def act(self, names: list[str]) -> None:
        """One of the named acts, if the server allows it."""
        name = self.random.choice(names)
        user_index, room_index = self.random.randrange(len(self.users)), self.random.randrange(len(self.rooms))
        self.done.append(f"{name} {user_index} {room_index}")
        try:
            ACTS[name](self, self.users[user_index], self.rooms[room_index])
        except Unexpected as error:
            assert error.status in (400, 403, 404), error

    def create(self, user: Client, **about: Any) -> None:
        levels = {"events": {}, "state_default": 0, "events_default": 0, "invite": 0, "kick": 0, "ban": 0}
        self.rooms.append(user.create_room(power_level_content_override=levels, **about))

    def create_another(self, user: Client, _room_id: str) -> None:
        if len(self.rooms) < MAX_ROOMS:
            named = {"name": "n"} if self.random.random() < 0.5 else {}
            self.create(user, preset=self.random.choice(["public_chat", "public_chat", "private_chat"]), **named)

    # -- events

    def send(self, user: Client, room_id: str) -> None:
        self.sent.append((room_id, user.send(room_id, self.text())))

    def send_many(self, user: Client, room_id: str) -> None:
        for _ in range(self.random.choice([3, 8, 25])):
            self.send(user, room_id)

    def set_state(self, user: Client, room_id: str, event_type: str, content: Json) -> None:
        self.sent.append((room_id, user.set_state(room_id, event_type, content)))

    def set_topic(self, user: Client, room_id: str) -> None:
        self.set_state(user, room_id, "m.room.topic", {"topic": self.text()})

    def set_name(self, user: Client, room_id: str) -> None:
        self.set_state(user, room_id, "m.room.name", {"name": self.random.choice(["", "x", "y"])})

    def set_avatar(self, user: Client, room_id: str) -> None:
        self.set_state(user, room_id, "m.room.avatar", self.random.choice([{}, {"url": "mxc://a/b"}]))

    def set_visibility(self, user: Client, room_id: str) -> None:
        content = {"history_visibility": self.random.choice(["shared", "joined", "invited"])}
        user.set_state(room_id, "m.room.history_visibility", content)

    def redact(self, user: Client, _room_id: str) -> None:
        if self.sent:
            user.redact(*self.random.choice(self.sent))

    # -- memberships

    def forget(self, user: Client, room_id: str) -> None:
        user.leave(room_id)
        user.forget(room_id)

    def rejoin(self, user: Client, room_id: str) -> None:
        user.leave(room_id)
        user.join(room_id)

    def anyone(self) -> str:
        return self.random.choice(self.users).user_id

    def rename(self, user: Client, _room_id: str) -> None:
        user.put("/profile/{}/displayname", {"displayname": self.text()}, at=[user.user_id])

    # -- what the extensions tell

    def read(self, user: Client, _room_id: str) -> None:
        if self.sent:
            room_id, event_id = self.random.choice(self.sent[-6:])
            kind = self.random.choice(["m.read", "m.read.private"])
            user.post("/rooms/{}/receipt/{}/{}", at=(room_id, kind, event_id))

    def type(self, user: Client, room_id: str) -> None:
        body = {"typing": self.random.random() < 0.6, "timeout": 120_000}
        user.put("/rooms/{}/typing/{}", body, at=(room_id, user.user_id))

    def note(self, _user: Client, _room_id: str) -> None:
        self.set_account_data(self.random.choice(["x.a", "x.b"]), {"text": self.text()})

    def note_in_room(self, _user: Client, room_id: str) -> None:
        where = (self.follower.user_id, room_id, self.random.choice(["x.a", "x.b"]))
        self.follower.put("/user/{}/rooms/{}/account_data/{}", {"text": self.text()}, at=where)

    def choose_direct(self, _user: Client, _room_id: str) -> None:
        direct = self.random.sample(self.rooms, self.random.randrange(len(self.rooms) + 1))
        self.set_account_data("m.direct", {"@someone:else.example": direct})

    def set_account_data(self, data_type: str, content: Json) -> None:
        self.follower.put("/user/{}/account_data/{}", content, at=(self.follower.user_id, data_type))

    def text(self) -> str:
        return str(self.random.random())

    def fill_memory(self, _user: Client, _room_id: str) -> None:
        """So much of what is nothing to the follower that a server of little memory forgets all before."""
        other = self.users[1]
        for number in range(FEW_ROWS + 10):
            other.put("/user/{}/account_data/x.c", {"n": number}, at=[other.user_id])


ACTS: dict[str, Callable[[Activity, Client, str], object]] = {
    "create": Activity.create_another,
    "send": Activity.send,
    "send_many": Activity.send_many,
    "topic": Activity.set_topic,
    "name": Activity.set_name,
    "avatar": Activity.set_avatar,
    "visibility": Activity.set_visibility,
    "redact": Activity.redact,
    "join": lambda _activity, user, room_id: user.join(room_id),
    "follower_joins": lambda activity, _user, room_id: activity.follower.join(room_id),
    "leave": lambda _activity, user, room_id: user.leave(room_id),
    "follower_leaves": lambda activity, _user, room_id: activity.follower.leave(room_id),
    "forget": Activity.forget,
    "follower_forgets": lambda activity, _user, room_id: activity.forget(activity.follower, room_id),
    "rejoin": Activity.rejoin,
    "invite": lambda activity, user, room_id: user.invite(room_id, activity.anyone()),
    "kick": lambda activity, user, room_id: user.kick(room_id, activity.anyone()),
    "ban": lambda activity, user, room_id: user.ban(room_id, activity.anyone()),
    "unban": lambda activity, user, room_id: user.unban(room_id, activity.anyone()),
    "rename": Activity.rename,
    "read": Activity.read,
    "type": Activity.type,
    "note": Activity.note,
    "note_in_room": Activity.note_in_room,
    "direct": Activity.choose_direct,
    "fill_memory": Activity.fill_memory,
}
OFTEN = ["send"] * 3 + ["join", "follower_joins", "read", "type"]


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("shape", SHAPES)
def test_who_follows_has_what_a_new_connection_is_told(start_local: Any, shape: str, seed: int) -> None:
    random = Random(seed)
    recent_rows = FEW_ROWS if seed % 2 else MANY_ROWS
    activity = Activity(start_local({"caches": {"recent_rows": recent_rows}}), random)
    follower = Follower(activity.follower, SHAPES[shape], "followed")
    names = [name for name in [*ACTS, *OFTEN] if name != "fill_memory" or recent_rows == FEW_ROWS]
    try:
        for _ in range(STEPS):
            if random.random() < 0.35:
                is_lost = random.random() < 0.25
                activity.done.append("lose" if is_lost else "follow")
                follower.step(draw_request(random, activity.rooms), is_lost=is_lost)
            else:
                activity.act(names)
        follower.check()
    except Exception as error:
        error.add_note(f"done = {activity.done}")
        raise
