"""Sliding sync: looks for news, waits for some, answers. Built like /sync, from the same memory at one position.

Spec: MSC4186
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import immutables
import orjson
from attrs import define, evolve, field

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.ids import RoomId
from homeserver.sync.notifier import Notifier
from homeserver.sync.service import ATTEMPTS, SyncBusy
from homeserver.sync.sliding.beginnings import Beginnings
from homeserver.sync.sliding.connections import Connections, ConnectionState, Key, SentRoom, next_marks
from homeserver.sync.sliding.extensions import SlidingExtensions, extensions_of_all, extensions_of_some
from homeserver.sync.sliding.lists import RoomLists, Windows
from homeserver.sync.sliding.request import SlidingRequest
from homeserver.sync.sliding.rooms import RoomBuilder, RoomPart
from homeserver.sync.view import Sources, View


@define
class _Built:
    answer: dict[str, Any]
    state: ConnectionState
    is_news: bool


@define(eq=False)
class SlidingSync:
    sources: Sources
    notifier: Notifier
    lists: RoomLists
    extensions: SlidingExtensions
    connections: Connections = field(factory=Connections)
    beginnings: Beginnings = field(factory=Beginnings)

    async def sync(self, request: SlidingRequest) -> bytes:
        """The response's JSON, as soon as it says something or the timeout is over.

        Raises: UnknownPos, SyncBusy; InvalidParam for a `since` of an extension.
        """
        key: Key = (request.user_id, request.device_id, request.conn_id)
        state = self.connections.find(key, request.pos) if request.pos else None
        await self.extensions.acknowledge(request)
        if state is None:
            self.connections.begin(key)
        clock = self.sources.clock
        deadline_ms = clock.monotonic_ms() + request.timeout_ms
        is_news = True
        while True:
            built, rooms = await self._build(request, key, state)
            left_ms = deadline_ms - clock.monotonic_ms()
            if state is None or built.is_news or left_ms <= 0 or not is_news:
                self.connections.put(key, built.state)
                return _encode(request, built.answer, built.state)
            is_news = await self.notifier.wait(request.user_id, rooms, left_ms)

    def _is_quiet(self, view: View, request: SlidingRequest, state: ConnectionState, rooms: UserRooms) -> bool:
        """Nothing happened in the user's rooms or to the user since, and the request asks for nothing else than before."""
        recent, typing = self.sources.recent, self.sources.typing
        return (
            state.fingerprint == request.fingerprint
            and state.position >= recent.floor
            and recent.last_position(view.user_id) <= state.position
            and not any(room_id in rooms for room_id in typing.rooms_changed_since(state.ephemeral))
            and not self._touched(rooms, state.position)
        )

    def _touched(self, rooms: UserRooms, after: int) -> bool:
        """Something happened in one of the rooms: asked of the rows or of the rooms, whichever are fewer."""
        recent = self.sources.recent
        if recent.position - after <= len(rooms):
            return any(row.key in rooms for row in recent.all_after(after))
        return bool(recent.changed_after(rooms, after))

    async def _build(
        self, request: SlidingRequest, key: Key, state: ConnectionState | None
    ) -> tuple[_Built, UserRooms]:
        """No await behind the moment for which the response stands."""
        view = View(self.sources, request.user_id)
        picked: Windows | None = None
        picked_at = -1
        for _ in range(ATTEMPTS):
            view.begin()
            rooms, unwanted = view.get_rooms(), view.get_unwanted()
            if rooms is not None and unwanted is not None:
                if state is not None and self._is_quiet(view, request, state, rooms):
                    windows: Windows | None = Windows(counts=dict(state.counts), matched=state.matched)
                else:
                    if picked is None or picked_at != view.now:
                        picked, picked_at = self.lists.pick(view, request, rooms, unwanted, state), view.now
                    windows = picked
                built = None
                if windows is not None:
                    built = self._build_now(view, request, key, state, rooms, unwanted.users, windows)
                if built is not None and view.is_complete:
                    return built, rooms
            await view.load()
        raise SyncBusy("The server is too busy, try again")

    def _build_now(
        self,
        view: View,
        request: SlidingRequest,
        key: Key,
        state: ConnectionState | None,
        rooms: UserRooms,
        ignored: frozenset[str],
        windows: Windows,
    ) -> _Built | None:
        ephemeral = self.sources.typing.serial
        parts = self._rooms(view, request, state, rooms, windows, ignored, ephemeral)
        marks = next_marks(state, request, view.now)
        told = self.extensions.tell(view, request, state, rooms, windows, parts, ignored)
        if told is None or not view.is_complete:
            return None
        shown = {room_id: part.json for room_id, part in parts.items() if part.json is not None}
        answer = {"lists": _counts(windows.counts), "rooms": shown, "extensions": told.json}
        counts_changed = state is not None and dict(state.counts) != windows.counts
        after = ConnectionState(
            self.connections.next_serial(key),
            view.now,
            ephemeral,
            _sent_rooms(state, parts, extensions_of_some(request, windows)),
            windows.counts,
            request.fingerprint,
            marks,
            windows.matched,
        )
        return _Built(answer, after, bool(shown) or told.is_news or counts_changed)

    def _rooms(
        self,
        view: View,
        request: SlidingRequest,
        state: ConnectionState | None,
        rooms: UserRooms,
        windows: Windows,
        ignored: frozenset[str],
        ephemeral: int,
    ) -> dict[RoomId, RoomPart]:
        parts: dict[RoomId, RoomPart] = {}
        if not windows.configs:
            return parts
        since = state.position if state is not None else None
        builder = RoomBuilder(view, request, ignored, ephemeral, extensions_of_all(request), since, self.beginnings)
        for room_id, config in windows.configs.items():
            sent = state.rooms.get(room_id) if state is not None else None
            bump = self.lists.bump_stamp(room_id, rooms[room_id])
            part = builder.build(rooms[room_id], config, sent, windows.lists.get(room_id, ()), bump)
            if part is not None:
                parts[room_id] = part
        return parts


def _sent_rooms(
    state: ConnectionState | None, parts: dict[RoomId, RoomPart], extensions: Mapping[RoomId, frozenset[str]]
) -> immutables.Map[RoomId, SentRoom]:
    rooms: immutables.Map[RoomId, SentRoom] = state.rooms if state is not None else immutables.Map()
    sent = {room_id: part.sent for room_id, part in parts.items()}
    for room_id, names in extensions.items():
        if room_id in sent:
            sent[room_id] = evolve(sent[room_id], extensions=names)
    return rooms.update(sent)


def _counts(counts: Any) -> dict[str, Any]:
    return {name: {"count": count} for name, count in counts.items()}


def _encode(request: SlidingRequest, answer: dict[str, Any], state: ConnectionState) -> bytes:
    named = {} if request.txn_id is None else {"txn_id": request.txn_id}
    return orjson.dumps({"pos": state.pos, **named, **answer})
