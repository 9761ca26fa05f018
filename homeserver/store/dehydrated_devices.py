"""Dehydrated devices: at most one of each user."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select

from homeserver.matrix.ids import DeviceId
from homeserver.store.tables.e2ee import dehydrated_devices as d
from homeserver.store.upsert import upsert

_UPSERT = upsert(d)


def load_dehydrated_device(conn: Connection, user_id: str) -> tuple[DeviceId, bytes] | None:
    """Its id and its data as JSON."""
    row = conn.execute(select(d.c.device_id, d.c.device_data).where(d.c.user_id == user_id)).first()
    return (row[0], row[1]) if row is not None else None


def save_dehydrated_device(conn: Connection, user_id: str, device_id: str, device_data: bytes) -> None:
    conn.execute(_UPSERT, {"user_id": user_id, "device_id": device_id, "device_data": device_data})


def delete_dehydrated_device(conn: Connection, user_id: str) -> None:
    conn.execute(delete(d).where(d.c.user_id == user_id))
