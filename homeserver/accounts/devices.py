"""A user's devices, as the user sees them. Sessions begin and end them.

Spec: client-server-api#device-management
"""

from __future__ import annotations

from typing import Any

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.limits import MAX_DEVICE_NAME_BYTES, check_text
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import UserId, parse_device_id
from homeserver.runtime.db import Database
from homeserver.store import devices as store
from homeserver.store.devices import DeviceRow
from homeserver.store.log_writer import LogItem, LogWriter


@define(eq=False)
class Devices:
    database: Database
    log_writer: LogWriter

    async def load_devices(self, user_id: UserId) -> list[DeviceRow]:
        return await self.database.read(store.load_devices, user_id)

    async def load_device(self, user_id: UserId, device_id: str) -> DeviceRow:
        """Raises: NotFound, InvalidParam."""
        device = await self.database.read(store.load_device, user_id, parse_device_id(device_id))
        if device is None:
            raise NotFound("No such device")
        return device

    async def rename_device(self, user_id: UserId, device_id: str, display_name: str | None) -> None:
        """Set the display name; None leaves it.

        Raises: NotFound, InvalidParam.
        """
        if display_name is not None:
            check_text("display_name", display_name, MAX_DEVICE_NAME_BYTES)
        device = await self.load_device(user_id, device_id)
        if display_name is None or display_name == device.display_name:
            return
        name = display_name

        data: dict[str, Any] = {"device_ids": [device.device_id], "deleted": False, "renamed": True}

        def save(conn: Connection, position: int) -> None:
            data["prev"] = store.save_device_name(conn, user_id, device.device_id, name, position)

        await self.log_writer.submit(LogItem("device", user_id, data, save))
