"""Wakes the long polls that a change concerns, and no others.

Each user who waits has a stream, which is registered in the rooms that the user is joined to. So a new event
costs as much as the room has waiting users, and a new waiter costs nothing but itself: streams stay
registered between polls, the longest unused go first. Membership rows keep the registration true. Who looks at a room
without being in it has a stream for the one poll.

What is woken is woken together, in the reactor's next turn: the sender's answer goes out first, and rows that
come in one commit wake once. Of some dozens the answers go out together. Timeouts share one timer for each STEP_MS.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.folds.memberships import Memberships, UserRooms
from homeserver.matrix.ids import RoomId, UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.outgoing import Outgoing
from homeserver.store.log import LogRow
from homeserver.store.sync import PRIVATE_RECEIPT

logger = logging.getLogger(__name__)

STEP_MS = 100
MAX_STREAMS = 50_000
TOGETHER = 32
_USER_KINDS = frozenset(
    {"account_data", "push_rules", "to_device", "one_time_keys", "signatures", "thread_subscription"}
)
_LIST_KINDS = frozenset({"device", "device_list"})


class Waiter:
    """One long poll. Its Deferred fires with True when there may be news, with False when time is up."""

    __slots__ = ("deferred", "slot", "stream")

    def __init__(self, stream: Stream, slot: int) -> None:
        self.stream = stream
        self.slot = slot
        self.deferred: Deferred[bool] = Deferred(self._cancel)

    def _cancel(self, _deferred: Deferred[bool]) -> None:
        """The client has gone away. (The timer's slot lets go of the waiter when its time comes.)"""
        self.stream.waiters.discard(self)


class Listener(Protocol):
    """Whoever is told of each change and goes on waiting: unlike a poll, it needs nothing made anew for the next one."""

    def on_news(self) -> None:
        """There may be news, or the server stops."""
        ...


class Stream:
    """A user who waits or did lately."""

    __slots__ = ("listeners", "rooms", "user_id", "waiters")

    def __init__(self, user_id: UserId, rooms: set[RoomId]) -> None:
        self.user_id = user_id
        self.rooms = rooms
        self.waiters: set[Waiter] = set()
        self.listeners: tuple[Listener, ...] = ()

    @property
    def is_used(self) -> bool:
        return bool(self.waiters or self.listeners)


class Notifier:
    """Follows the log (on_rows) and ephemeral changes (on_ephemeral); see the module's text."""

    def __init__(self, clock: Clock, memberships: Memberships, max_streams: int = MAX_STREAMS) -> None:
        self.outgoing = Outgoing()  # the answers to those who are woken
        self._clock = clock
        self._memberships = memberships
        self._max_streams = max_streams
        self._streams: OrderedDict[UserId, Stream] = OrderedDict()
        self._peeking: set[Stream] = set()
        self._by_room: dict[RoomId, set[Stream]] = {}
        self._woken: set[Stream] = set()
        self._slots: dict[int, set[Waiter]] = {}
        self._draining = False

    def wait(self, user_id: UserId, rooms: UserRooms, timeout_ms: int) -> Deferred[bool]:
        """Fires with True at the next change that concerns the user, with False after the timeout.

        `rooms` are the user's as of now. Between looking for news and calling this there must be no await.
        """
        return _no_news() if self._draining else self._wait(self._stream(user_id, rooms), timeout_ms)

    def listen(self, user_id: UserId, rooms: UserRooms, listener: Listener) -> None:
        """Tell it of each change that concerns the user; as `wait`."""
        self._stream(user_id, rooms).listeners += (listener,)

    def unlisten(self, user_id: UserId, listener: Listener) -> None:
        stream = self._streams[user_id]
        stream.listeners = tuple(other for other in stream.listeners if other is not listener)

    def wait_in_room(self, user_id: UserId, room_id: RoomId, timeout_ms: int) -> Deferred[bool]:
        """As `wait`, for the changes of one room, which the user need not be in."""
        if self._draining:
            return _no_news()
        stream = Stream(user_id, {room_id})
        self._peeking.add(stream)
        self._by_room.setdefault(room_id, set()).add(stream)
        return self._wait(stream, timeout_ms).addBoth(self._end_peek, stream)

    def _end_peek(self, news: Any, stream: Stream) -> Any:
        self._peeking.discard(stream)
        for room_id in stream.rooms:
            self._unregister(stream, room_id)
        return news

    def _wait(self, stream: Stream, timeout_ms: int) -> Deferred[bool]:
        waiter = Waiter(stream, (self._clock.monotonic_ms() + timeout_ms) // STEP_MS + 1)
        stream.waiters.add(waiter)
        self._set_timer(waiter)
        return waiter.deferred

    @property
    def is_draining(self) -> bool:
        return self._draining

    def count_waiting(self) -> int:
        streams = (*self._streams.values(), *self._peeking)
        return sum(len(stream.waiters) + len(stream.listeners) for stream in streams)

    def drain(self) -> None:
        """Answer everybody who waits, and from now on everybody at once: the server stops."""
        self._draining = True
        for stream in (*self._streams.values(), *self._peeking):
            self._fire(stream, False)

    # -- what happens ----------------------------------------------------------------------------------------

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            if row.membership is not None:
                self._move(row.membership.user_id, RoomId(row.key), row.membership.membership == "join")
            self._wake(self._concerned(row))

    def on_ephemeral(self, room_ids: Collection[RoomId]) -> None:
        """Typing changed in these rooms."""
        for room_id in room_ids:
            self._wake(self._by_room.get(room_id, ()))

    def on_presence(self, user_id: UserId) -> None:
        """The user's presence changed."""
        self._wake(self._sharing(user_id))

    def _concerned(self, row: LogRow) -> Iterable[Stream]:
        if row.kind == "event":
            in_room = self._by_room.get(RoomId(row.key), ())
            return in_room if row.membership is None else {*in_room, *self._of_user(row.membership.user_id)}
        if row.membership is not None:
            return self._of_user(row.membership.user_id)
        if row.kind == "receipt":
            if row.data["receipt_type"] == PRIVATE_RECEIPT:
                return self._of_user(row.data["user_id"])
            return self._by_room.get(RoomId(row.key), ())
        if row.kind in _LIST_KINDS:
            return self._sharing(UserId(row.key))
        return self._of_user(UserId(row.key)) if row.kind in _USER_KINDS else ()

    def _sharing(self, user_id: UserId) -> Iterable[Stream]:
        """Who shares a room with the user; where memory lacks the user's rooms, that is found out by and by."""
        rooms = self._memberships.get(user_id)
        if rooms is None:
            Deferred.fromCoroutine(self._wake_sharing(user_id)).addErrback(_log_failure)
            return self._of_user(user_id)
        joined = [room_id for room_id, row in rooms.items() if row.membership == "join"]
        return {*self._of_user(user_id), *(stream for room_id in joined for stream in self._by_room.get(room_id, ()))}

    async def _wake_sharing(self, user_id: UserId) -> None:
        rooms = await self._memberships.load(user_id)
        for room_id, row in rooms.items():
            if row.membership == "join":
                self._wake(self._by_room.get(room_id, ()))

    def _of_user(self, user_id: UserId) -> tuple[Stream, ...]:
        stream = self._streams.get(user_id)
        return () if stream is None else (stream,)

    def _wake(self, streams: Iterable[Stream]) -> None:
        idle = not self._woken
        self._woken.update(stream for stream in streams if stream.waiters or stream.listeners)  # PERF: not by is_used
        if idle and self._woken:
            self._clock.call_later(0, self._fire_woken)

    def _fire_woken(self) -> None:
        woken, self._woken = list(self._woken), set()
        for first in range(0, len(woken), TOGETHER):
            with self.outgoing.together():
                for stream in woken[first : first + TOGETHER]:
                    self._fire(stream, True)

    def _fire(self, stream: Stream, news: bool) -> None:
        waiters, stream.waiters = stream.waiters, set()
        for waiter in waiters:
            self._forget_timer(waiter)
            waiter.deferred.callback(news)
        for listener in stream.listeners:
            listener.on_news()

    # -- streams ---------------------------------------------------------------------------------------------

    def _stream(self, user_id: UserId, rooms: UserRooms) -> Stream:
        stream = self._streams.get(user_id)
        if stream is not None:
            if len(self._streams) > self._max_streams // 2:  # PERF: the order says nothing before some may be dropped
                self._streams.move_to_end(user_id)
            return stream
        joined = {room_id for room_id, row in rooms.items() if row.membership == "join"}
        stream = self._streams[user_id] = Stream(user_id, joined)
        for room_id in joined:
            self._by_room.setdefault(room_id, set()).add(stream)
        if len(self._streams) > self._max_streams:
            self._drop_unused()
        return stream

    def _move(self, user_id: UserId, room_id: RoomId, joined: bool) -> None:
        stream = self._streams.get(user_id)
        if stream is None:
            return
        if joined:
            stream.rooms.add(room_id)
            self._by_room.setdefault(room_id, set()).add(stream)
        elif room_id in stream.rooms:
            stream.rooms.remove(room_id)
            self._unregister(stream, room_id)

    def _unregister(self, stream: Stream, room_id: RoomId) -> None:
        registered = self._by_room[room_id]
        registered.discard(stream)
        if not registered:
            del self._by_room[room_id]

    def _drop_unused(self) -> None:
        """Forget the longest unused stream that nobody waits at; with all of them in use, none."""
        for stream in self._streams.values():
            if not stream.is_used:
                break
        else:
            return
        del self._streams[stream.user_id]
        for room_id in stream.rooms:
            self._unregister(stream, room_id)

    # -- timeouts --------------------------------------------------------------------------------------------

    def _set_timer(self, waiter: Waiter) -> None:
        waiting = self._slots.get(waiter.slot)
        if waiting is None:
            waiting = self._slots[waiter.slot] = set()
            delay_ms = waiter.slot * STEP_MS - self._clock.monotonic_ms()
            self._clock.call_later(max(0, delay_ms), self._time_out, waiter.slot)
        waiting.add(waiter)

    def _forget_timer(self, waiter: Waiter) -> None:
        waiting = self._slots.get(waiter.slot)
        if waiting is not None:
            waiting.discard(waiter)

    def _time_out(self, slot: int) -> None:
        for waiter in self._slots.pop(slot, ()):
            if waiter in waiter.stream.waiters:
                waiter.stream.waiters.discard(waiter)
                waiter.deferred.callback(False)


def _no_news() -> Deferred[bool]:
    done: Deferred[bool] = Deferred()
    done.callback(False)
    return done


def _log_failure(failure: Failure) -> None:
    logger.error("Who shares a room with a user could not be read: %s", failure.value)
