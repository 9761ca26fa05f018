"""What sync tells of end-to-end encryption: messages to the device, its key counts, whose devices changed.

Spec: client-server-api#e2e-extensions-to-sync
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

import orjson
from attrs import define, field

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.e2ee.to_device import MAX_PAGE, ToDevice
from homeserver.e2ee.uploads import ONE_TIME_KEYS
from homeserver.folds.memberships import UserRooms
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.db import Database
from homeserver.store.device_keys import KeyCounts, load_key_counts
from homeserver.store.log import LogRow
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.message_sessions import MessageSessions
from homeserver.sync.ports import NO_PARTS, Parts
from homeserver.sync.request import SyncRequest
from homeserver.sync.tokens import SyncToken
from homeserver.sync.view import Lookup, View

MAX_DEVICES = 50_000
SIGNED_CURVE25519 = "signed_curve25519"


@define(eq=False)
class DeviceKeyCounts:
    """How many keys of each device wait to be claimed; follows the log."""

    database: Database
    _cache: FoldedCache[tuple[UserId, DeviceId], KeyCounts] = field(
        factory=lambda: FoldedCache(MAX_DEVICES), init=False
    )

    def get_known(self, user_id: UserId, device_id: DeviceId) -> KeyCounts | None:
        """The counts if memory has them."""
        return self._cache.get((user_id, device_id))

    def get(self, view: View, device_id: DeviceId) -> KeyCounts | None:
        """None where the view notes a need."""
        known = self.get_known(view.user_id, device_id)
        if known is not None:
            return known
        user_id = view.user_id
        counts: KeyCounts | None = view.get_value(
            Lookup("key_counts", user_id, (device_id,), lambda: self._load(user_id, device_id))
        )
        return counts

    async def _load(self, user_id: UserId, device_id: DeviceId) -> KeyCounts:
        version = self._cache.version
        counts = await self.database.read(load_key_counts, user_id, device_id)
        self._cache.put((user_id, device_id), counts, version)
        return counts

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind in (ONE_TIME_KEYS, "device"):
                for device_id in row.data["device_ids"]:
                    self._cache.drop((UserId(row.key), device_id))


@define(eq=False)
class EncryptionExtension:
    """A SyncExtension."""

    to_device: ToDevice
    counts: DeviceKeyCounts
    device_lists: DeviceLists
    sessions: MessageSessions

    def acknowledge(self, request: SyncRequest) -> Awaitable[None] | None:
        """Delete the messages that the request's token stands behind; None when there are none."""
        if request.device_id is None or request.since is None or request.is_legacy:
            return None
        read = request.since.to_device_position
        waiting = self.to_device.get_waiting(request.user_id, request.device_id)
        if waiting is not None and not 0 < waiting.oldest <= read:
            return None
        return self.to_device.acknowledge(request.user_id, request.device_id, read)

    def get_parts(self, view: View, request: SyncRequest, rooms: UserRooms) -> Parts | None:
        if request.device_id is None or request.is_legacy:
            return NO_PARTS
        since = request.since
        found = Parts()
        messages = self.get_messages(view, request.device_id, since.to_device_position if since is not None else 0)
        if messages:
            found.news.append(b'"to_device":{"events":[%b]}' % b",".join(json for _, json in messages))
            if len(messages) == MAX_PAGE:
                found.to_device = messages[-1][0]
        if since is not None:
            changes = self.device_lists.get_changes(view, rooms, since.position)
            if changes is not None and (changes.changed or changes.left):
                lists = {"changed": sorted(changes.changed), "left": sorted(changes.left)}
                found.news.append(b'"device_lists":%b' % orjson.dumps(lists))
        counts = self.counts.get(view, request.device_id)
        if counts is not None:
            target = found.news if self.is_count_news(view, request.device_id, since) else found.quiet
            target.append(encode_counts(counts))
        return found if view.is_complete else None

    def get_quiet(self, request: SyncRequest) -> Sequence[bytes] | None:
        if request.device_id is None or request.is_legacy:
            return ()
        counts = self.counts.get_known(request.user_id, request.device_id)
        return None if counts is None else (encode_counts(counts),)

    def get_messages(
        self, view: View, device_id: DeviceId, after: int, limit: int = MAX_PAGE
    ) -> list[tuple[int, bytes]]:
        """The oldest messages behind `after`, with their positions; none also while the view notes a need."""
        user_id = view.user_id
        if after > view.now:  # told by another process, or by nobody: see ToDevice.load_told
            told = view.get_value(Lookup("told", user_id, (after,), lambda: self.to_device.load_told(after)))
            if told is None:
                return []
            after = told
        waiting = self.to_device.get_waiting(user_id, device_id) or view.get_value(
            Lookup("to_device", user_id, (device_id,), lambda: self.to_device.load_waiting(user_id, device_id))
        )
        if waiting is None or waiting.newest <= after:
            return []
        page = view.get_value(
            Lookup(
                "to_device_page",
                user_id,
                (device_id, after, limit),
                lambda: self.to_device.load_page(user_id, device_id, after, 2**62, limit),
            )
        )
        return [message for message in page or () if message[0] <= view.now]

    def is_count_news(self, view: View, device_id: DeviceId, since: SyncToken | None) -> bool:
        if since is None or since.position < view.sources.recent.floor:
            return True
        if view.sources.recent.last_position(view.user_id) <= since.position:
            return False
        rows = view.sources.recent.rows_after(view.user_id, since.position)
        return any(row.kind == ONE_TIME_KEYS and device_id in row.data["device_ids"] for row in rows)


def encode_counts(counts: KeyCounts) -> bytes:
    """Both key counts, as members of a response. That of signed_curve25519 is told even at 0: clients wait for it."""
    if not counts.one_time and not counts.unused_fallback:
        return _NO_KEYS
    return _encode_counts(counts)


def _encode_counts(counts: KeyCounts) -> bytes:
    one_time = orjson.dumps({SIGNED_CURVE25519: 0, **counts.one_time})
    unused = orjson.dumps(list(counts.unused_fallback))
    return (
        b'"device_one_time_keys_count":%b,"device_unused_fallback_key_types":%b,'
        b'"org.matrix.msc2732.device_unused_fallback_key_types":%b' % (one_time, unused, unused)
    )


_NO_KEYS = _encode_counts(KeyCounts({}, ()))
