"""Devices: a row for each login of a user."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, select, update

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.store.account_data import remove_account_data
from homeserver.store.device_lists import delete_encryption_of_devices, save_device_list_change
from homeserver.store.tables.accounts import devices
from homeserver.store.upsert import insert_if_absent

# Account data that is about one device, whose id follows (MSC3890).
_SETTINGS_OF_DEVICE = ("m.local_notification_settings.", "org.matrix.msc3890.local_notification_settings.")


@frozen
class DeviceRow:
    device_id: DeviceId
    display_name: str | None
    last_seen_ts_ms: int | None
    last_seen_ip: str | None
    last_seen_user_agent: str | None


@frozen
class LastSeenRow:
    user_id: UserId
    device_id: DeviceId
    ts_ms: int
    ip: str | None
    user_agent: str | None


_COLUMNS = tuple(devices.c[name] for name in DeviceRow.__annotations__)
_LIST = select(*_COLUMNS).where(devices.c.user_id == bindparam("user")).order_by(devices.c.device_id)
_ONE = select(*_COLUMNS).where(devices.c.user_id == bindparam("user"), devices.c.device_id == bindparam("device"))
_INSERT = insert_if_absent(devices, "user_id", "device_id", "display_name", "created_ts_ms")
_SEEN = (
    update(devices)
    .where(devices.c.user_id == bindparam("user"), devices.c.device_id == bindparam("device"))
    .values(
        last_seen_ts_ms=bindparam("ts_ms"),
        last_seen_ip=bindparam("ip"),
        last_seen_user_agent=bindparam("user_agent"),
    )
)


def load_devices(conn: Connection, user_id: str) -> list[DeviceRow]:
    return [DeviceRow(*row) for row in conn.execute(_LIST, {"user": user_id})]


def load_device(conn: Connection, user_id: str, device_id: str) -> DeviceRow | None:
    row = conn.execute(_ONE, {"user": user_id, "device": device_id}).one_or_none()
    return DeviceRow(*row) if row is not None else None


def save_device(conn: Connection, user_id: str, device_id: str, display_name: str | None, created_ts_ms: int) -> bool:
    """Insert a device; False (and nothing changed) when the user has it already."""
    values = {
        "user_id": user_id,
        "device_id": device_id,
        "display_name": display_name,
        "created_ts_ms": created_ts_ms,
    }
    return conn.execute(_INSERT, values).rowcount == 1


def save_device_name(conn: Connection, user_id: str, device_id: str, display_name: str, position: int) -> int | None:
    """Rename, at the position of the log row that says so; nothing when the user has no such device.

    The position of the change of the user's devices before this one.
    """
    statement = update(devices).where(devices.c.user_id == user_id, devices.c.device_id == device_id)
    if conn.execute(statement.values(display_name=display_name)).rowcount != 1:
        return None
    return save_device_list_change(conn, user_id, position)


def save_last_seen(conn: Connection, rows: Iterable[LastSeenRow]) -> None:
    parameters: list[dict[str, Any]] = [{"user": row.user_id, "device": row.device_id, **asdict(row)} for row in rows]
    for values in parameters:
        del values["user_id"], values["device_id"]
    if parameters:
        conn.execute(_SEEN, parameters)


def delete_devices(conn: Connection, user_id: str, device_ids: Collection[str], position: int) -> int | None:
    """With their keys, the messages that wait for them and their settings; the position of the log row that says so.

    The position of the change of the user's devices before this one.
    """
    conn.execute(delete(devices).where(devices.c.user_id == user_id, devices.c.device_id.in_(device_ids)))
    delete_encryption_of_devices(conn, user_id, device_ids)
    settings = [prefix + device_id for prefix in _SETTINGS_OF_DEVICE for device_id in device_ids]
    remove_account_data(conn, user_id, settings, position)
    return save_device_list_change(conn, user_id, position)


def load_device_ids(conn: Connection, user_id: str) -> list[DeviceId]:
    statement = select(devices.c.device_id).where(devices.c.user_id == user_id).order_by(devices.c.device_id)
    return list(conn.scalars(statement))
