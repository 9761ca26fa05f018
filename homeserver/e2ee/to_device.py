"""Messages to devices: kept until the device acknowledges them by the token of its next sync.

Log rows made here: "to_device" {device_ids} keyed by the recipient; for other servers' users "edu" {edu_type, content}
keyed by their server, with the time, from which federation sends them.

How much may wait for one device is bounded, the oldest go first: else whoever writes to a device that never comes back
fills the disk.

Spec: client-server-api#send-to-device-messaging
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from secrets import token_urlsafe
from typing import Any

from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.e2ee.limits import MAX_MESSAGE_BYTES, encode_bounded
from homeserver.matrix.ids import DeviceId, ServerName, UserId, domain_of, is_user_id, is_user_of
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import to_device as store
from homeserver.store.log import LogRow, load_head_position
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.to_device import ToDeviceMessage, Waiting

logger = logging.getLogger(__name__)

TO_DEVICE = "to_device"
EDU = "edu"
DIRECT_TO_DEVICE = "m.direct_to_device"
ALL_DEVICES = "*"
MAX_PAGE = 100  # messages in one response
MAX_QUEUES = 50_000
MAX_USERS = 20_000  # whose device ids are in memory
KEPT_TRANSACTIONS_MS = 30 * 24 * 60 * 60 * 1000
SENDS_BETWEEN_TRIMS = 10_000
# Of one device, looked at now and then.
MAX_WAITING = 100_000
MAX_WAITING_BYTES = 256 * 1024 * 1024

# User -> device (or "*") -> content.
Messages = Mapping[UserId, Mapping[str, Mapping[str, Any]]]
Row = tuple[str, str, dict[str, Any]]
_DEVICE_KINDS = frozenset({"device", "user"})


@define(eq=False)
class ToDevice:
    server_name: ServerName
    database: Database
    log_writer: LogWriter
    clock: Clock
    _queues: FoldedCache[tuple[UserId, DeviceId], Waiting] = field(factory=lambda: FoldedCache(MAX_QUEUES), init=False)
    _devices: FoldedCache[UserId, Sequence[DeviceId]] = field(factory=lambda: FoldedCache(MAX_USERS), init=False)
    _sent: int = field(default=0, init=False)

    async def send(self, sender: UserId, device_id: DeviceId, txn_id: str, type_: str, messages: Messages) -> None:
        """Accept a client's messages, once for each type and transaction id.

        Devices that there are not get nothing. Raises: TooLarge.
        """
        local, remote = self._split(messages)
        addressed = await self._address(sender, type_, local)
        rows = [*_rows(addressed), *self._edus(sender, type_, remote)]
        # The type belongs to the path, and the same transaction id in another path is another transaction.
        await self._save((sender, device_id, f"{type_}\n{txn_id}"), addressed, rows)

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """An m.direct_to_device EDU, taken once for each message id; what is not well-formed in it is passed over.

        Spec: server-server-api#definition-mdirect_to_device
        """
        sender, type_, message_id = content.get("sender"), content.get("type"), content.get("message_id")
        given = content.get("messages")
        if not (isinstance(sender, str) and isinstance(type_, str) and isinstance(message_id, str)):
            return
        if not is_user_of(sender, origin) or not isinstance(given, dict) or not _is_message_id(message_id):
            return
        known = {user_id: devices for user_id, devices in given.items() if isinstance(devices, dict)}
        local = {
            UserId(user_id): devices
            for user_id, devices in known.items()
            if domain_of(user_id) == self.server_name and is_user_id(user_id)
        }
        addressed = await self._address(UserId(sender), type_, local)
        await self._save((origin, DeviceId(""), message_id), addressed, _rows(addressed))

    # -- receiving devices -------------------------------------------------------------------------------------------

    async def load_page(
        self, user_id: UserId, device_id: DeviceId, after: int, upto: int, limit: int = MAX_PAGE
    ) -> list[tuple[int, bytes]]:
        """The oldest messages in (after, upto], each with its position."""
        return await self.database.read(store.load_messages, user_id, device_id, after, upto, limit)

    async def acknowledge(self, user_id: UserId, device_id: DeviceId, upto: int) -> None:
        """The device has what stands up to there: it is deleted. What the log has not come to, nobody has: see load_told."""
        waiting = await self.load_waiting(user_id, device_id)
        if not 0 < waiting.oldest <= upto or not await self.load_told(upto):
            return
        version = self._queues.version
        left = await self.database.run(store.delete_messages, user_id, device_id, upto)
        if self._queues.put((user_id, device_id), left, version) is None and self._queues.version != version:
            self._queues.drop((user_id, device_id))

    async def load_told(self, position: int) -> int:
        """The position up to which a device that came with this one was told; 0 where the log has not come as far.

        Such a token is of the time before the database was restored from a backup: the positions behind which its device
        is are given out once more, for messages that it has not got.
        """
        if position <= self.log_writer.position or position <= await self.database.read(load_head_position):
            return position
        return 0

    def get_waiting(self, user_id: UserId, device_id: DeviceId) -> Waiting | None:
        """What waits for the device, if memory knows."""
        return self._queues.get((user_id, device_id))

    async def load_waiting(self, user_id: UserId, device_id: DeviceId) -> Waiting:
        known = self._queues.get((user_id, device_id))
        if known is not None:
            return known
        version = self._queues.version
        waiting = await self.database.read(store.load_waiting, user_id, device_id)
        self._queues.put((user_id, device_id), waiting, version)
        return waiting

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            if row.kind == TO_DEVICE:
                for device_id in row.data["device_ids"]:
                    self._note((UserId(row.key), device_id), row.position)
            elif row.kind in _DEVICE_KINDS:
                self._devices.drop(UserId(row.key))
                for device_id in row.data.get("device_ids", ()):
                    self._queues.drop((UserId(row.key), device_id))

    def _note(self, key: tuple[UserId, DeviceId], position: int) -> None:
        known = self._queues.get(key)
        self._queues.touch()
        if known is not None:
            self._queues.put(key, Waiting(known.oldest or position, position), self._queues.version)

    # -- writing -----------------------------------------------------------------------------------------------------

    def _split(self, messages: Messages) -> tuple[Messages, Messages]:
        local = {user_id: devices for user_id, devices in messages.items() if domain_of(user_id) == self.server_name}
        return local, {user_id: devices for user_id, devices in messages.items() if user_id not in local}

    async def _address(self, sender: UserId, type_: str, messages: Messages) -> dict[UserId, dict[DeviceId, bytes]]:
        """The messages as JSON, for the devices that there are."""
        if not messages:
            return {}
        devices = await self._load_devices(messages)
        found: dict[UserId, dict[DeviceId, bytes]] = {}
        for user_id, by_device in messages.items():
            addressed = _addressed(by_device, devices.get(user_id, ()))
            if addressed:
                found[user_id] = {
                    device_id: encode_bounded(
                        {"content": content, "sender": sender, "type": type_}, "messages", MAX_MESSAGE_BYTES
                    )
                    for device_id, content in addressed.items()
                }
        return found

    async def _load_devices(self, messages: Messages) -> dict[UserId, Sequence[DeviceId]]:
        """The devices of each of the local users. Memory says which devices there are, not which there are not: another
        process may have logged one in that its log rows have not told of here."""
        found: dict[UserId, Sequence[DeviceId]] = {}
        for user_id, by_device in messages.items():
            known = self._devices.get(user_id)
            if known is not None and by_device.keys() <= set(known):
                found[user_id] = known
        missing = [user_id for user_id in messages if user_id not in found]
        if missing:
            version = self._devices.version
            loaded = await self.database.read(store.load_devices_of, missing)
            for user_id in missing:
                found[user_id] = loaded.get(user_id, ())
                self._devices.put(user_id, found[user_id], version)
        return found

    def _edus(self, sender: UserId, type_: str, messages: Messages) -> list[Row]:
        """The messages to other servers' users, as many EDUs as it takes. Raises: TooLarge."""
        by_server: dict[ServerName, dict[UserId, Mapping[str, Any]]] = {}
        for user_id, devices in messages.items():
            by_server.setdefault(domain_of(user_id), {})[user_id] = devices
        rows: list[Row] = []
        sent_ts_ms = self.clock.time_ms()
        for server, users in by_server.items():
            for part in _parts(sender, type_, users):
                content = {"sender": sender, "type": type_, "message_id": token_urlsafe(16), "messages": part}
                rows.append((EDU, server, {"edu_type": DIRECT_TO_DEVICE, "content": content, "sent_ts_ms": sent_ts_ms}))
        return rows

    async def _save(
        self, transaction: tuple[str, DeviceId, str], addressed: dict[UserId, dict[DeviceId, bytes]], rows: list[Row]
    ) -> None:
        if not rows:
            return
        now_ms = self.clock.time_ms()

        def save(conn: Connection, position: int) -> None:
            if not store.save_transaction(conn, *transaction, now_ms):  # done before: the rows say nothing
                for _, _, data in rows:
                    data.clear()
                    data["device_ids"] = []
                return
            messages = [
                ToDeviceMessage(user_id, device_id, position + place, json)
                for place, (user_id, devices) in enumerate(addressed.items())
                for device_id, json in devices.items()
            ]
            store.save_messages(conn, messages)

        (kind, key, data), *also = rows
        await self.log_writer.submit(LogItem(kind, key, data, save, also))
        self._sent += 1
        if self._sent % SENDS_BETWEEN_TRIMS == 0:
            await self.database.run(store.delete_old_transactions, now_ms - KEPT_TRANSACTIONS_MS)
            await self.trim()

    async def trim(self) -> None:
        """Delete the oldest messages of devices for which too much waits. What memory knows of them stays true enough: there
        is something up to its `newest`."""
        for user_id, device_id in await self.database.read(store.load_overfull, MAX_WAITING, MAX_WAITING_BYTES):
            deleted = await self.database.run(store.trim_messages, user_id, device_id, MAX_WAITING, MAX_WAITING_BYTES)
            logger.warning("%d messages that waited for %s of %s are dropped", deleted, device_id, user_id)


def _rows(addressed: Mapping[UserId, Mapping[DeviceId, bytes]]) -> list[Row]:
    """One for each recipient, at whose position the messages stand."""
    return [(TO_DEVICE, user_id, {"device_ids": list(devices)}) for user_id, devices in addressed.items()]


def _parts(sender: UserId, type_: str, messages: Messages) -> Iterable[dict[UserId, dict[str, Mapping[str, Any]]]]:
    """The messages, in order, in parts that are no larger than one message may be.

    So a transaction, which has at most 100 EDUs, is no larger than servers take. Raises: TooLarge.
    """
    part: dict[UserId, dict[str, Mapping[str, Any]]] = {}
    size_bytes = 0
    for user_id, devices in messages.items():
        for device_id, content in devices.items():
            message = {"content": content, "sender": sender, "type": type_}
            more_bytes = len(encode_bounded(message, "messages", MAX_MESSAGE_BYTES)) + len(user_id) + len(device_id)
            if part and size_bytes + more_bytes > MAX_MESSAGE_BYTES:
                yield part
                part, size_bytes = {}, 0
            part.setdefault(user_id, {})[device_id] = content
            size_bytes += more_bytes
    if part:
        yield part


def _is_message_id(value: str) -> bool:
    return len(value) <= 255 and "\0" not in value


def _addressed(by_device: Mapping[str, Any], devices: Sequence[DeviceId]) -> dict[DeviceId, Any]:
    """Device -> content, for those of the named devices that there are; "*" names all others."""
    everybody = by_device.get(ALL_DEVICES)
    found = {device_id: by_device.get(device_id, everybody) for device_id in devices}
    return {device_id: content for device_id, content in found.items() if isinstance(content, dict)}
