"""Which member events a device with lazy-loaded members has been sent, so that they are not sent again.

May forget (then they are sent again), must never claim too much. A response may get lost, and a client may go
back to a token that it saved long ago. So each entry carries the position of the response that had it, and a
request makes the device forget everything that was sent behind its `since`.

Spec: client-server-api#lazy-loading-room-members
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from homeserver.matrix.ids import EventId, RoomId, UserId

MAX_ENTRIES = 500_000

DeviceKey = tuple[UserId, str | None]
# user -> (their member event, position of the response that had it)
Sent = dict[UserId, tuple[EventId, int]]


class _Device:
    __slots__ = ("rooms", "upto")

    def __init__(self) -> None:
        self.rooms: dict[RoomId, Sent] = {}
        self.upto = 0


class MembersSent:
    """At most `max_entries` members in all; the devices that have not synced for longest go first."""

    def __init__(self, max_entries: int = MAX_ENTRIES) -> None:
        self._max_entries = max_entries
        self._entries = 0
        self._devices: OrderedDict[DeviceKey, _Device] = OrderedDict()

    def rewind(self, key: DeviceKey, position: int) -> None:
        """The device is known to have what was sent up to `position`, and nothing else."""
        device = self._devices.get(key)
        if device is None or device.upto <= position:
            return
        for room_id, sent in list(device.rooms.items()):
            # The whole room, not the entry: what a late entry had replaced, the device still has.
            if any(sent_at > position for _, sent_at in sent.values()):
                self._entries -= len(sent)
                del device.rooms[room_id]
        device.upto = position

    def get_sent(self, key: DeviceKey, room_id: RoomId) -> Sent | None:
        """What the device has of the room; None when that is not known."""
        device = self._devices.get(key)
        return None if device is None else device.rooms.get(room_id)

    def add(self, key: DeviceKey, room_id: RoomId, members: Mapping[UserId, EventId], position: int) -> None:
        """These go out with the response that brings the device to `position`."""
        device = self._devices.get(key)
        if device is None:
            device = self._devices[key] = _Device()
        self._devices.move_to_end(key)
        sent = device.rooms.setdefault(room_id, {})
        before = len(sent)
        for user_id, event_id in members.items():
            sent[user_id] = (event_id, position)
        device.upto = max(device.upto, position)
        self._entries += len(sent) - before
        while self._entries > self._max_entries and len(self._devices) > 1:
            _, dropped = self._devices.popitem(last=False)
            self._entries -= sum(map(len, dropped.rooms.values()))
