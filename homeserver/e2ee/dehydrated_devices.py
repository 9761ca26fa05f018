"""Dehydrated devices: a device without a client, which collects keys while all others are logged out (MSC3814)."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.e2ee.limits import MAX_DEVICE_KEYS_BYTES, encode_bounded
from homeserver.e2ee.to_device import ToDevice
from homeserver.e2ee.upload_bodies import KeyUpload
from homeserver.e2ee.uploads import UploadWrite, check_own_signatures
from homeserver.matrix.errors import Forbidden, InvalidParam, NotFound
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import access_tokens, devices
from homeserver.store import dehydrated_devices as store
from homeserver.store.log_writer import LogItem, LogWriter

ALGORITHMS = frozenset({"m.dehydration.v1.olm", "org.matrix.msc3814.v1.olm", "m.dehydration.v2"})
EVENTS_PER_PAGE = 100


@frozen
class EventsPage:
    """Messages for the dehydrated device, and where to go on."""

    events: list[bytes]
    next_batch: str


@define(eq=False)
class DehydratedDevices:
    database: Database
    log_writer: LogWriter
    clock: Clock
    to_device: ToDevice
    checks_signatures: bool

    async def load(self, user_id: UserId) -> tuple[DeviceId, Any]:
        """Its id and data. Raises: NotFound."""
        found = await self.database.read(store.load_dehydrated_device, user_id)
        if found is None:
            raise NotFound("No dehydrated device")
        return found[0], orjson.loads(found[1])

    async def replace(
        self, user_id: UserId, device_id: DeviceId, display_name: str | None, data: dict[str, Any], keys: KeyUpload
    ) -> None:
        """Put the device in the place of the one before it, if there is one, with its keys: all of it in one transaction.

        Raises: InvalidParam, TooLarge; Forbidden when a device that is logged in has that id; InvalidSignature where
            signatures are checked.
        """
        if data.get("algorithm") not in ALGORITHMS:
            raise InvalidParam("device_data.algorithm", "not known")
        encoded = encode_bounded(data, "device_data", MAX_DEVICE_KEYS_BYTES)
        await self.database.read(_check_id, user_id, device_id)
        if self.checks_signatures:
            await check_own_signatures(self.database, user_id, device_id, keys)
        upload = UploadWrite(user_id, device_id, keys)
        row: dict[str, Any] = {}

        def save(conn: Connection, position: int) -> None:
            before = _check_id(conn, user_id, device_id)  # what was true before may be no more
            row.clear()
            row.update(device_ids=[before or device_id], deleted=before is not None)
            if before is not None:
                row["prev"] = _delete(conn, user_id, before, position)
            devices.save_device(conn, user_id, device_id, display_name, self.clock.time_ms())
            store.save_dehydrated_device(conn, user_id, device_id, encoded)
            upload.save(conn, position + 1)

        await self.log_writer.submit(LogItem("device", user_id, row, save, upload.rows()))
        if upload.error is not None:
            raise upload.error

    async def delete(self, user_id: UserId) -> DeviceId:
        """Raises: NotFound."""
        device_id, _ = await self.load(user_id)
        data: dict[str, Any] = {"device_ids": [device_id], "deleted": True}

        def save(conn: Connection, position: int) -> None:
            data["prev"] = _delete(conn, user_id, device_id, position)

        await self.log_writer.submit(LogItem("device", user_id, data, save))
        return device_id

    async def load_events(self, user_id: UserId, device_id: DeviceId, next_batch: str | None) -> EventsPage:
        """Messages that came for the device; those before next_batch are deleted. Raises: NotFound, InvalidParam."""
        known, _ = await self.load(user_id)
        if known != device_id:
            raise Forbidden("Not the dehydrated device")
        after = await self.to_device.load_told(_parse_batch(next_batch))
        if after:
            await self.to_device.acknowledge(user_id, device_id, after)
        found = await self.to_device.load_page(user_id, device_id, after, self.log_writer.position, EVENTS_PER_PAGE)
        return EventsPage([json for _, json in found], f"d{found[-1][0] if found else after}")


def _check_id(conn: Connection, user_id: UserId, device_id: DeviceId) -> DeviceId | None:
    """The id of the dehydrated device that there is. Raises: Forbidden when a device that is logged in has the new id."""
    known = store.load_dehydrated_device(conn, user_id)
    before = known[0] if known is not None else None
    if before != device_id and devices.load_device(conn, user_id, device_id) is not None:
        raise Forbidden("A device that is logged in has that ID")
    return before


def _delete(conn: Connection, user_id: UserId, device_id: DeviceId, position: int) -> int | None:
    """The position of the change of the user's devices before this one."""
    access_tokens.delete_device_tokens(conn, user_id, [device_id])  # of a client that logged in by its id
    return devices.delete_devices(conn, user_id, [device_id], position)


def _parse_batch(text: str | None) -> int:
    if text is None:
        return 0
    if not text.startswith("d") or not text[1:].isascii() or not text[1:].isdigit() or len(text) > 19:
        raise InvalidParam("next_batch", "not a token of this server")
    return int(text[1:])
