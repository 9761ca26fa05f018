"""Presence: in memory only. A restart makes everybody offline until they sync again.

The idea: a user is as present as the most present of the user's devices. A device is present while a sync of it is
under way and for SYNC_GRACE_MS after; activity (sending an event, saying that one is online) makes the user active; without
it an online user is idle after IDLE_MS. All that happens by time alone is found by one timer, which looks at users whose
moment has come; a poll costs a few dictionary operations and no timer of its own.

Spec: client-server-api#presence
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from attrs import define, evolve, field, frozen

from homeserver.matrix.ids import ServerName, UserId, domain_of
from homeserver.runtime.clock import Clock
from homeserver.runtime.serial import Serial
from homeserver.store.log import LogRow

ONLINE: Final = "online"
UNAVAILABLE: Final = "unavailable"
OFFLINE: Final = "offline"
BUSY: Final = "busy"  # MSC3026
UNSTABLE_BUSY: Final = "org.matrix.msc3026.busy"
STATES: Final = (OFFLINE, UNAVAILABLE, ONLINE, BUSY)  # the more present of two stands behind

SYNC_GRACE_MS: Final = 30_000
IDLE_MS: Final = 300_000
CURRENTLY_ACTIVE_MS: Final = 60_000
REMOTE_LIFETIME_MS: Final = 30 * 60_000
TICK_MS: Final = 1_000
MAX_USERS: Final = 100_000  # with those gone offline, oldest change first out
MAX_DEVICES: Final = 50  # of one user


@frozen
class Published:
    """What others see. last_active_ms: wall clock; 0 when never seen active."""

    presence: str = OFFLINE
    status_msg: str | None = None
    currently_active: bool = False
    last_active_ms: int = 0

    def content(self, now_ms: int) -> dict[str, Any]:
        """The content of an m.presence event.

        Spec: client-server-api#mpresence
        """
        content: dict[str, Any] = {"presence": self.presence}
        if self.last_active_ms:
            content["last_active_ago"] = max(0, now_ms - self.last_active_ms)
        if self.presence != OFFLINE:
            content["currently_active"] = self.currently_active
        if self.status_msg:
            content["status_msg"] = self.status_msg
        return content

    def looks_like(self, other: Published) -> bool:
        return (self.presence, self.status_msg, self.currently_active) == (
            other.presence,
            other.status_msg,
            other.currently_active,
        )


@define(eq=False)
class _Device:
    state: str
    syncing: int = 0
    until_ms: int = 0  # when no sync is under way


@define(eq=False)
class _User:
    devices: dict[str, _Device] = field(factory=dict)
    status_msg: str | None = None
    last_active_ms: int = 0
    published: Published = field(factory=Published)
    due_ms: int = 0  # when it is looked at next; 0: not


Listener = Callable[[UserId], object]


class Presence:
    """Everybody's presence. Listeners are told of each user whose published presence changes."""

    def __init__(self, server_name: ServerName, clock: Clock, serial: Serial) -> None:
        self._server_name = server_name
        self._clock = clock
        self._serial = serial
        self._users: dict[UserId, _User] = {}
        self._remote_until: dict[UserId, int] = {}
        self._changes: OrderedDict[UserId, int] = OrderedDict()  # user -> serial, in the order of the changes
        self._due: list[tuple[int, UserId]] = []
        self._ticking = False
        self._listeners: list[Listener] = []

    def follow(self, listener: Listener) -> None:
        self._listeners.append(listener)

    # -- what is known -----------------------------------------------------------------------------------------------

    def get(self, user_id: UserId) -> Published:
        user = self._users.get(user_id)
        return user.published if user is not None else Published()

    def present_users(self) -> Collection[UserId]:
        """Who is not offline."""
        return [user_id for user_id, user in self._users.items() if user.published.presence != OFFLINE]

    def changed_since(self, serial: int) -> Sequence[UserId]:
        """Whose published presence changed behind the serial, newest first."""
        found = []
        for user_id, changed in reversed(self._changes.items()):
            if changed <= serial:
                break
            found.append(user_id)
        return found

    # -- what happens ------------------------------------------------------------------------------------------------

    def set_state(self, user_id: UserId, device_id: str, state: str, status_msg: str | None) -> None:
        """What the user says of themselves, on a device."""
        user = self._user(user_id)
        user.status_msg = status_msg
        self._set_device(user, device_id, state)
        if state == ONLINE:
            user.last_active_ms = self._clock.time_ms()
        self._refresh(user_id, user)

    def begin_sync(self, user_id: UserId, device_id: str, state: str) -> None:
        """A sync of the device is under way; with `state` offline it does not count."""
        if state == OFFLINE:
            return
        user = self._user(user_id)
        device = user.devices.get(device_id)
        if device is not None and device.syncing:
            device.syncing += 1
            if device.state in (state, BUSY):
                return
        was = device.state if device is not None else OFFLINE
        device = self._set_device(user, device_id, BUSY if was == BUSY else state)
        device.syncing = max(device.syncing, 1)
        if was != ONLINE and state == ONLINE:
            user.last_active_ms = self._clock.time_ms()
        self._refresh(user_id, user)

    def end_sync(self, user_id: UserId, device_id: str, state: str) -> None:
        """`state`: as it began."""
        if state == OFFLINE:
            return
        user = self._users.get(user_id)
        device = user.devices.get(device_id) if user is not None else None
        if user is None or device is None or not device.syncing:
            return
        device.syncing -= 1
        device.until_ms = self._clock.time_ms() + SYNC_GRACE_MS
        self._schedule(user_id, user)

    def note_activity(self, user_id: UserId) -> None:
        """A local user did something. Only who is present becomes active by it, and is idle no longer.

        Spec: client-server-api#idle-timeout
        """
        user = self._users.get(user_id)
        if user is None or not user.devices:
            return
        user.last_active_ms = self._clock.time_ms()
        if user.published.currently_active:
            user.published = evolve(user.published, last_active_ms=user.last_active_ms)
            return
        for device in user.devices.values():
            if device.state == UNAVAILABLE:
                device.state = ONLINE
        self._refresh(user_id, user)

    def receive(self, user_id: UserId, content: Mapping[str, Any]) -> None:
        """What another server says of one of its users; what is not well-formed is passed over.

        Spec: server-server-api#presence
        """
        state, ago, message = content.get("presence"), content.get("last_active_ago"), content.get("status_msg")
        if state == UNSTABLE_BUSY:
            state = BUSY
        if state not in STATES or not isinstance(message, str | None):
            return
        now_ms = self._clock.time_ms()
        active_ms = now_ms - ago if isinstance(ago, int) and not isinstance(ago, bool) and 0 <= ago <= now_ms else 0
        user = self._user(user_id)
        user.last_active_ms, user.status_msg = active_ms, message[:1024] if message else None
        self._remote_until[user_id] = now_ms + REMOTE_LIFETIME_MS
        self._publish(
            user_id, user, Published(state, user.status_msg, content.get("currently_active") is True, active_ms)
        )
        self._schedule(user_id, user)

    def touch(self, user_id: UserId) -> None:
        """Tell of the user again: others have come to share a room."""
        user = self._users.get(user_id)
        if user is not None and user.published.presence != OFFLINE:
            self._tell(user_id)

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log: who sends an event is active, who joins a room is news there."""
        for row in rows:
            if row.event is not None and domain_of(row.event.pdu.sender) == self._server_name:
                self.note_activity(row.event.pdu.sender)
            if row.membership is not None and row.membership.membership == "join":
                self.touch(row.membership.user_id)

    # -- state -------------------------------------------------------------------------------------------------------

    def _user(self, user_id: UserId) -> _User:
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _User()
        return user

    def _set_device(self, user: _User, device_id: str, state: str) -> _Device:
        device = user.devices.get(device_id)
        if device is None:
            if len(user.devices) >= MAX_DEVICES:
                del user.devices[next(iter(user.devices))]
            device = user.devices[device_id] = _Device(state)
        device.state = state
        device.until_ms = self._clock.time_ms() + SYNC_GRACE_MS
        return device

    def _refresh(self, user_id: UserId, user: _User) -> None:
        """Work out a local user's presence, and when it may change by itself."""
        now_ms = self._clock.time_ms()
        for device_id in [name for name, device in user.devices.items() if _is_over(device, now_ms)]:
            del user.devices[device_id]
        state = max((device.state for device in user.devices.values()), key=STATES.index, default=OFFLINE)
        idle_ms = now_ms - user.last_active_ms
        if state == ONLINE and idle_ms >= IDLE_MS:
            state = UNAVAILABLE
        active = state in (ONLINE, BUSY) and idle_ms < CURRENTLY_ACTIVE_MS
        self._publish(user_id, user, Published(state, user.status_msg, active, user.last_active_ms))
        self._schedule(user_id, user)

    def _publish(self, user_id: UserId, user: _User, new: Published) -> None:
        is_news = not new.looks_like(user.published)
        user.published = new
        if is_news:
            self._tell(user_id)

    def _tell(self, user_id: UserId) -> None:
        self._changes[user_id] = self._serial.raise_it()
        self._changes.move_to_end(user_id)
        if len(self._changes) > MAX_USERS:
            self._forget(next(iter(self._changes)))
        for listener in self._listeners:
            listener(user_id)

    def _forget(self, user_id: UserId) -> None:
        del self._changes[user_id]
        if self.get(user_id).presence == OFFLINE:
            self._users.pop(user_id, None)

    # -- time --------------------------------------------------------------------------------------------------------

    def _schedule(self, user_id: UserId, user: _User) -> None:
        """Look at the user again when time alone may have changed something."""
        due_ms = self._next_change_ms(user_id, user)
        if due_ms is None or 0 < user.due_ms <= due_ms:
            return
        user.due_ms = due_ms
        heapq.heappush(self._due, (due_ms, user_id))
        if not self._ticking:
            self._ticking = True
            self._clock.call_later(TICK_MS, self._tick)

    def _next_change_ms(self, user_id: UserId, user: _User) -> int | None:
        moments = [device.until_ms for device in user.devices.values() if not device.syncing]
        if user.published.currently_active:
            moments.append(user.last_active_ms + CURRENTLY_ACTIVE_MS)
        elif user.published.presence == ONLINE:
            moments.append(user.last_active_ms + IDLE_MS)
        if user_id in self._remote_until:
            moments = [self._remote_until[user_id]]
        return min(moments, default=None)

    def _tick(self) -> None:
        now_ms = self._clock.time_ms()
        for due_ms, user_id in self._take_due(now_ms):
            user = self._users.get(user_id)
            if user is None or user.due_ms != due_ms:  # an earlier moment was found since
                continue
            user.due_ms = 0
            until_ms = self._remote_until.get(user_id)
            if until_ms is None:
                self._refresh(user_id, user)
            elif until_ms <= now_ms:  # its server fell silent
                del self._remote_until[user_id]
                self._publish(user_id, user, Published(OFFLINE, user.status_msg, False, user.last_active_ms))
            else:
                self._schedule(user_id, user)
        self._ticking = bool(self._due)
        if self._ticking:
            self._clock.call_later(TICK_MS, self._tick)

    def _take_due(self, now_ms: int) -> Iterable[tuple[int, UserId]]:
        while self._due and self._due[0][0] <= now_ms:
            yield heapq.heappop(self._due)


def _is_over(device: _Device, now_ms: int) -> bool:
    return not device.syncing and device.until_ms <= now_ms
