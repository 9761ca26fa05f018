"""An account's own life: its password, its flags, its end.

Log rows made here, keyed by user id:
    "user" {change: "password" | "flags" | "deactivated", …}
    "device" {device_ids, deleted: true}     a password change that logs the other devices out
"""

from __future__ import annotations

import logging
from typing import Any

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.passwords import PasswordHashes, check_new_password
from homeserver.accounts.ports import RoomDeparture
from homeserver.accounts.sessions import save_logout_everywhere
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.db import Database
from homeserver.store import accounts as store
from homeserver.store.accounts import UserRow
from homeserver.store.cross_signing import delete_cross_signing_keys
from homeserver.store.key_backups import delete_backups
from homeserver.store.log_writer import LogItem, LogWriter

logger = logging.getLogger(__name__)


@define(eq=False)
class Accounts:
    database: Database
    log_writer: LogWriter
    hashes: PasswordHashes
    departure: RoomDeparture | None = None

    async def load_user(self, user_id: UserId) -> UserRow:
        """Raises: NotFound."""
        user = await self.database.read(store.load_user, user_id)
        if user is None:
            raise NotFound("User not found")
        return user

    async def set_password(
        self, user_id: UserId, password: str, *, log_out: bool, keep_device: DeviceId | None = None
    ) -> None:
        """Change the password; with log_out, all devices but keep_device go.

        Raises: WeakPassword, InvalidParam, LimitExceeded.

        Spec: client-server-api#post_matrixclientv3accountpassword
        """
        check_new_password(password)
        password_hash = await self.hashes.hash(password)
        data: dict[str, Any] = {"device_ids": [], "deleted": True} if log_out else {"change": "password"}

        def save(conn: Connection, position: int) -> None:
            store.save_password_hash(conn, user_id, password_hash)
            if log_out:
                data.update(save_logout_everywhere(conn, user_id, keep_device, position))

        await self.log_writer.submit(LogItem("device" if log_out else "user", user_id, data, save))

    async def set_admin(self, user_id: UserId, is_admin: bool) -> None:
        """Raises: NotFound."""
        await self._set_flags(user_id, is_admin=is_admin)

    async def set_locked(self, user_id: UserId, is_locked: bool) -> None:
        """Raises: NotFound.

        Spec: client-server-api#account-locking
        """
        await self._set_flags(user_id, is_locked=is_locked)

    async def set_suspended(self, user_id: UserId, is_suspended: bool) -> None:
        """Raises: NotFound.

        Spec: client-server-api#account-suspension
        """
        await self._set_flags(user_id, is_suspended=is_suspended)

    async def deactivate(self, user_id: UserId, *, erase: bool = False) -> None:
        """Close an account for ever: its sessions end, its name stays taken, the user leaves all rooms.

        With `erase`, what is kept of the user beside events is deleted, and rooms serve the events redacted
        to people who come later.
        Raises: NotFound.

        Spec: client-server-api#post_matrixclientv3accountdeactivate
        """
        await self.load_user(user_id)
        data: dict[str, Any] = {"change": "deactivated", "erased": erase, "device_ids": []}

        def save(conn: Connection, position: int) -> None:
            store.save_deactivation(conn, user_id, erase=erase)
            data.update(save_logout_everywhere(conn, user_id, None, position))
            delete_cross_signing_keys(conn, user_id)
            delete_backups(conn, user_id)
            if erase:
                store.delete_personal_data(conn, user_id)

        await self.log_writer.submit(LogItem("user", user_id, data, save))
        await self._depart(user_id)

    async def resume_departures(self) -> None:
        """At start: let those leave whose deactivation was cut short."""
        for user_id in await self.database.read(store.load_departing_users):
            logger.info("Resuming the deactivation of %s", user_id)
            await self._depart(user_id)

    async def _depart(self, user_id: UserId) -> None:
        if self.departure is not None:
            await self.departure.leave_all_rooms(user_id)
        await self.database.run(store.save_departed, user_id)

    async def _set_flags(self, user_id: UserId, **flags: bool) -> None:
        await self.load_user(user_id)

        def save(conn: Connection, _position: int) -> None:
            store.save_user_flags(conn, user_id, **flags)

        await self.log_writer.submit(LogItem("user", user_id, {"change": "flags", **flags}, save))
