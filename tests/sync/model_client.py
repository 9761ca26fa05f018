"""A client that believes what /sync tells it, by the rules of the specification, and fills gaps through
/messages.
"""

from __future__ import annotations

from typing import Any

from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import RoomId, UserId
from homeserver.sync.request import StateKind
from homeserver.sync.tokens import parse_timeline_token
from tests.sync.world import World


class ModelRoom:
    def __init__(self) -> None:
        self.timeline: list[str] = []
        self.state: dict[tuple[str, str], str] = {}


class ModelClient:
    def __init__(self, user: str, device: str, kind: StateKind, filter: dict[str, Any] | None) -> None:
        self.user = user
        self.device = device
        self.kind = kind
        self.filter = filter
        self.forget()

    @property
    def is_lazy(self) -> bool:
        return self.filter is not None and bool(self.filter["room"]["state"].get("lazy_load_members"))

    def forget(self) -> None:
        self.token: str | None = None
        self.rooms: dict[str, ModelRoom] = {}
        self.membership: dict[str, str] = {}

    def options(self) -> dict[str, Any]:
        return {"filter": self.filter, "kind": self.kind, "device": self.device}

    def take(self, world: World, answer: dict[str, Any]) -> None:
        self.token = answer["next_batch"]
        sections = answer.get("rooms", {})
        for room_id, room in sections.get("join", {}).items():
            self._take_room(world, room_id, room, "join")
        for room_id, room in sections.get("leave", {}).items():
            self._take_room(world, room_id, room, "leave")
        for name in ("invite", "knock"):
            for room_id, room in sections.get(name, {}).items():
                self.membership[room_id] = name
                types = [event["type"] for event in room[f"{name}_state"]["events"]]
                assert "m.room.create" in types

    def _take_room(self, world: World, room_id: str, answer: dict[str, Any], membership: str) -> None:
        was = self.membership.get(room_id)
        self.membership[room_id] = membership
        room = self.rooms.setdefault(room_id, ModelRoom())
        told = answer["timeline"]
        ids = [event["event_id"] for event in told["events"]]
        seen_twice = set(ids) & set(room.timeline)
        assert not seen_twice, f"{self.user} got {seen_twice} twice"
        if told["limited"] and was == "join":
            room.timeline += self._fill(world, room_id, told["prev_batch"], set(room.timeline))
        elif told["limited"]:
            # Who comes back may see what happened meanwhile, between what they knew: it begins anew.
            known = room.timeline
            room.timeline = self._fill(world, room_id, told["prev_batch"], set())
            assert set(known) <= set(room.timeline)
        room.timeline += ids
        for event in answer.get(self.kind.value.decode(), {"events": []})["events"]:
            room.state[event["type"], event["state_key"]] = event["event_id"]
        if self.kind is StateKind.BEFORE:
            for event in told["events"]:
                if "state_key" in event:
                    room.state[event["type"], event["state_key"]] = event["event_id"]
        if self.is_lazy:
            senders = {event["sender"] for event in told["events"]}
            for sender in senders:
                assert ("m.room.member", sender) in room.state or membership == "leave", f"{sender} is not known"

    def _fill(self, world: World, room_id: str, prev_batch: str, known: set[str]) -> list[str]:
        found = []
        for event_id in server_timeline(world, self.user, room_id, parse_timeline_token(prev_batch).order)[::-1]:
            if event_id in known:
                break
            found.append(event_id)
        return found[::-1]

    def check(self, world: World) -> None:
        """What this client believes is what the server says."""
        rooms = world.run(world.memberships.load(UserId(self.user)))
        joined = {room_id for room_id, row in rooms.items() if row.membership == "join"}
        assert joined == {room_id for room_id, value in self.membership.items() if value == "join"}
        invited = {room_id for room_id, row in rooms.items() if row.membership == "invite"}
        assert invited == {room_id for room_id, value in self.membership.items() if value == "invite"}
        for room_id in joined:
            room = self.rooms[room_id]
            assert room.timeline == server_timeline(world, self.user, room_id), "timelines differ"
            head = world.run(world.heads.load(room_id))
            self._check_state(room, dict(head.state))

    def _check_state(self, room: ModelRoom, state: dict[tuple[str, str], str]) -> None:
        if not self.is_lazy:
            assert room.state == state
            return
        for key, event_id in room.state.items():
            assert state.get(key) == event_id, f"{key} is out of date"
        assert {key for key in state if key[0] != "m.room.member"} <= room.state.keys()


def server_timeline(world: World, user: str, room_id: str, upto: int = 2**61) -> list[str]:
    """All events that the user may see at or before `upto`, as /messages gives them, oldest first."""

    async def load() -> list[str]:
        try:
            view = await world.views.load(RoomId(room_id), UserId(user))
        except Forbidden:
            return []
        found: list[str] = []
        start: int | None = upto
        while start is not None:
            page = await world.paging.load_page(view, start, 50, backwards=True)
            found += [event.event_id for event in page.events]
            start = page.end
        return found[::-1]

    return world.run(load())
