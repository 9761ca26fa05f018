"""A client that believes what /sync tells it by the rules of the specification, and the server's own word to compare it with.

Gaps in a timeline are filled through /messages. A lost answer is asked for again with the same token.
"""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any, Final

import requests
from attrs import define, field

from tests.kit.client import Client, Unexpected

Json = dict[str, Any]
LAZY: Final = {"lazy_load_members": True}
# name, filter, parameter and section of the state
KINDS: Final[tuple[tuple[str, Json | None, str | None, str], ...]] = (
    ("plain", None, None, "state"),
    ("small", {"room": {"timeline": {"limit": 2}}}, None, "state"),
    ("after", {"room": {"timeline": {"limit": 3}}}, "use_state_after", "state_after"),
    ("lazy", {"room": {"timeline": {"limit": 3}, "state": LAZY}}, None, "state"),
    (
        "lazy-after",
        {"room": {"timeline": {"limit": 2, "unread_thread_notifications": True}, "state": LAZY}},
        "org.matrix.msc4222.use_state_after",
        "org.matrix.msc4222.state_after",
    ),
)
POLL_MS: Final = 400


@define
class Room:
    """What is known of a room."""

    membership: str
    timeline: list[str] = field(factory=list)
    has_hole: bool = False
    state: dict[tuple[str, str], str] = field(factory=dict)
    account_data: dict[str, Any] = field(factory=dict)
    receipts: dict[tuple[str, str, str], str] = field(factory=dict)
    typing: set[str] = field(factory=set)
    summary: Json = field(factory=dict)
    unread: Json = field(factory=dict)
    unread_threads: Json = field(factory=dict)


@define
class SyncFollower:
    """One client of a user; `step` syncs once, `poll` begins to and `settle` takes what came."""

    name: str
    client: Client
    filter: Json | None
    parameter: str | None
    section: str
    token: str | None = None
    rooms: dict[str, Room] = field(factory=dict)
    account_data: dict[str, Any] = field(factory=dict)
    messages: list[int] = field(factory=list)
    _unacknowledged: int = 0  # of the messages: those told with the token
    _polling: Future[Json] | None = None

    @property
    def is_lazy(self) -> bool:
        return self.name.startswith("lazy")

    def forget_everything(self) -> None:
        self.settle()
        self.token, self.rooms, self.account_data = None, {}, {}
        # The server does not know that these came, and tells them again.
        del self.messages[len(self.messages) - self._unacknowledged :]
        self._unacknowledged = 0

    def forget_typing(self) -> None:
        """Who types is known to the server's memory alone, and nobody is told when that is gone with a restart."""
        self.settle()
        for room in self.rooms.values():
            room.typing.clear()

    def step(self, *, full_state: bool = False) -> None:
        self.settle()
        self._take(self._ask(0, full_state))

    def lose_an_answer(self) -> None:
        self.settle()
        self._ask(0, False)

    def poll(self, threads: Executor) -> None:
        """Waits for news in a thread, unless it does already."""
        if self._polling is None:
            self._polling = threads.submit(self._ask, POLL_MS, False)

    def settle(self) -> None:
        polling, self._polling = self._polling, None
        if polling is None:
            return
        try:
            answer = polling.result(120)
        except requests.ConnectionError:  # asked while the server was being restarted
            return
        self._take(answer)

    def _ask(self, timeout_ms: int, full_state: bool) -> Json:
        query: Json = {"since": self.token, "timeout": timeout_ms, "filter": self.filter}
        if full_state:
            query["full_state"] = True
        if self.parameter is not None:
            query[self.parameter] = True
        answer: Json = self.client.get("/sync", query=query)
        return answer

    def _take(self, answer: Json) -> None:
        self.token = answer["next_batch"]
        told = messages_of(answer.get("to_device", {}))
        self.messages += told
        self._unacknowledged = len(told)
        self.account_data |= {
            event["type"]: event["content"] for event in answer.get("account_data", {}).get("events", ())
        }
        sections = answer.get("rooms", {})
        for name in ("invite", "knock"):
            for room_id, told in sections.get(name, {}).items():
                assert "m.room.create" in {event["type"] for event in told[f"{name}_state"]["events"]}
                self.rooms.setdefault(room_id, Room(name)).membership = name
        for name in ("join", "leave"):
            for room_id, told in sections.get(name, {}).items():
                self._take_room(room_id, told, name)

    def _take_room(self, room_id: str, told: Json, membership: str) -> None:
        room = self.rooms.setdefault(room_id, Room(""))
        was, room.membership = room.membership, membership
        self._take_timeline(room_id, room, told["timeline"], was)
        self._take_state(room, told)
        room.account_data |= {
            event["type"]: event["content"] for event in told.get("account_data", {}).get("events", ())
        }
        for event in told.get("ephemeral", {}).get("events", ()):
            if event["type"] == "m.typing":
                room.typing = set(event["content"]["user_ids"])
            elif event["type"] == "m.receipt":
                room.receipts |= receipts_of(event["content"])
        room.summary |= told.get("summary", {})
        room.unread = told.get("unread_notifications", room.unread)
        room.unread_threads = told.get("unread_thread_notifications", room.unread_threads)
        if self.is_lazy and membership == "leave":  # nobody tells who else leaves from here on
            room.state = {key: event_id for key, event_id in room.state.items() if key[0] != "m.room.member"}
        if self.is_lazy and membership == "join":
            for hero in room.summary.get("m.heroes", ()):
                assert ("m.room.member", hero) in room.state or "m.heroes" not in told.get("summary", {}), (
                    f"hero {hero} is not known"
                )

    def _take_timeline(self, room_id: str, room: Room, told: Json, was: str) -> None:
        ids = [event["event_id"] for event in told["events"]]
        seen_twice = set(ids) & set(room.timeline)
        assert not seen_twice, f"{self.name} of {self.client.user_id} was told {seen_twice} twice"
        if told.get("limited") or room.has_hole:
            self._fill_gap(room_id, room, told["prev_batch"], was)
        room.timeline += ids

    def _fill_gap(self, room_id: str, room: Room, prev_batch: str, was: str) -> None:
        try:
            older = load_timeline(self.client, room_id, prev_batch)
        except Unexpected as error:
            assert error.status == 403, (
                error
            )  # by now the user has forgotten the room; when they come back it begins anew
            room.timeline, room.has_hole = [], True
            return
        known = set(room.timeline)
        if was == "join" and not room.has_hole:
            start = max((index + 1 for index, event_id in enumerate(older) if event_id in known), default=0)
            room.timeline += older[start:]
        else:  # what happened while the user was away may lie between what they knew
            assert known <= set(older), "lost some of the past"
            room.timeline = older
        room.has_hole = False

    def _take_state(self, room: Room, told: Json) -> None:
        for event in told.get(self.section, {}).get("events", ()):
            room.state[event["type"], event["state_key"]] = event["event_id"]
        events = told["timeline"]["events"]
        if self.section == "state":
            room.state |= {
                (event["type"], event["state_key"]): event["event_id"] for event in events if "state_key" in event
            }
        if self.is_lazy:
            for event in events:
                member = ("m.room.member", event["sender"])
                assert member in room.state or room.membership == "leave", f"the sender {event['sender']} is not known"

    def check(self, truth: Truth) -> None:
        """Raises: AssertionError unless what this client believes is what the server says now."""
        who = f"{self.name} of {self.client.user_id}"
        for membership, room_ids in truth.memberships.items():
            believed = {room_id for room_id, room in self.rooms.items() if room.membership == membership}
            assert believed == room_ids, f"{who}: {membership}"
        assert self.account_data == truth.account_data, who
        for room_id, true_room in truth.rooms.items():
            room, place = self.rooms[room_id], f"{who} in {room_id}"
            assert room.timeline == true_room.timeline, f"{place}: timeline"
            self._check_state(room, true_room, place)
            assert room.account_data == true_room.account_data, f"{place}: account data"
            assert room.receipts == true_room.receipts, f"{place}: receipts"
            assert room.typing == true_room.typing, f"{place}: typing"
            assert room.summary == true_room.summary, f"{place}: summary"
            if self.name != "lazy-after":
                assert room.unread == true_room.unread, f"{place}: unread"

    def _check_state(self, room: Room, true_room: Room, place: str) -> None:
        if not self.is_lazy:
            assert room.state == true_room.state, f"{place}: state"
            return
        for key, event_id in room.state.items():
            assert true_room.state.get(key) == event_id, f"{place}: {key} is out of date"
        assert {key for key in true_room.state if key[0] != "m.room.member"} <= room.state.keys(), place


@define
class Truth:
    """What a user's server says of everything, asked anew."""

    memberships: dict[str, set[str]]
    account_data: dict[str, Any]
    rooms: dict[str, Room]


def load_truth(client: Client) -> Truth:
    """By an initial sync and by the endpoints of each room."""
    answer = client.get("/sync", query={"timeout": 0})
    sections = answer.get("rooms", {})
    memberships = {name: set(sections.get(name, {})) for name in ("join", "invite", "knock")}
    assert memberships["join"] == set(client.get("/joined_rooms")["joined_rooms"])
    fresh = SyncFollower("truth", client, None, None, "state")
    fresh._take(answer)
    for room_id in memberships["join"]:
        room = fresh.rooms[room_id]
        room.timeline = load_timeline(client, room_id, None)
        state = client.get("/rooms/{}/state", at=[room_id])
        room.state = {(event["type"], event["state_key"]): event["event_id"] for event in state}
    joined = {room_id: fresh.rooms[room_id] for room_id in memberships["join"]}
    return Truth(memberships, fresh.account_data, joined)


def load_timeline(client: Client, room_id: str, start: str | None) -> list[str]:
    """All events that the user may see before `start`, oldest first."""
    found: list[str] = []
    while True:
        page = client.messages(room_id, limit=100, from_=start)
        found += [event["event_id"] for event in page["chunk"]]
        start = page.get("end")
        if start is None:
            assert len(set(found)) == len(found), "a page repeats another"
            return found[::-1]


def messages_of(told: Json) -> list[int]:
    """The numbers of the messages to the device."""
    return [event["content"]["n"] for event in told.get("events", ())]


def receipts_of(content: Json) -> dict[tuple[str, str, str], str]:
    """The event by kind of receipt, user and thread."""
    return {
        (kind, user_id, receipt.get("thread_id", "")): event_id
        for event_id, kinds in content.items()
        for kind, users in kinds.items()
        for user_id, receipt in users.items()
    }
