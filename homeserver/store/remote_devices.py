"""What this server keeps of the devices of users elsewhere."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, bindparam, delete, func, select, text

from homeserver.matrix.ids import DeviceId, ServerName, UserId
from homeserver.store.cross_signing import MASTER, SELF_SIGNING
from homeserver.store.device_keys import save_device_keys
from homeserver.store.device_lists import RemoteDeviceList, save_remote_list
from homeserver.store.events import chunked
from homeserver.store.tables.e2ee import cross_signing_keys, device_keys, remote_device_lists

_SHARES = (
    "SELECT 1 FROM memberships m JOIN memberships l ON l.room_id = m.room_id AND l.membership = 'join' "
    "WHERE m.user_id = {user} AND m.membership = 'join' AND l.user_id LIKE :local ESCAPE '\\'"
)
_SHARING = text(f"SELECT EXISTS ({_SHARES.format(user=':user')})")
_FORGET_UNSHARED = text(
    f"DELETE FROM remote_device_lists WHERE NOT EXISTS ({_SHARES.format(user='remote_device_lists.user_id')})"
)
_COUNT = select(func.count()).select_from(device_keys).where(device_keys.c.user_id == bindparam("user"))
_KEYS_OF = select(device_keys.c.device_id).where(device_keys.c.user_id == bindparam("user"))


def load_sharing(conn: Connection, user_ids: Collection[UserId], server_name: ServerName) -> set[UserId]:
    """Those of the users who are in a room with a user of this server."""
    local = _local_pattern(server_name)
    return {user_id for user_id in user_ids if conn.scalar(_SHARING, {"user": user_id, "local": local})}


def delete_unshared_lists(conn: Connection, server_name: ServerName, also: Collection[UserId]) -> None:
    """Forget the lists of users who share no room with us: nobody tells us of their changes. And those of `also`."""
    conn.execute(_FORGET_UNSHARED, {"local": _local_pattern(server_name)})
    for chunk in chunked(also):
        conn.execute(delete(remote_device_lists).where(remote_device_lists.c.user_id.in_(chunk)))


def replace_devices(
    conn: Connection,
    known: RemoteDeviceList,
    devices: Mapping[DeviceId, bytes],
    signing_keys: Mapping[str, bytes],
) -> None:
    """A remote user's devices and cross-signing keys, all of them, as their server gave them."""
    gone = [device_id for device_id in conn.scalars(_KEYS_OF, {"user": known.user_id}) if device_id not in devices]
    for chunk in chunked(gone):
        delete_remote_devices(conn, known.user_id, chunk)
    for device_id, json in devices.items():
        save_device_keys(conn, known.user_id, device_id, json)
    conn.execute(
        delete(cross_signing_keys).where(
            cross_signing_keys.c.user_id == known.user_id, cross_signing_keys.c.usage.in_((MASTER, SELF_SIGNING))
        )
    )
    for usage, json in signing_keys.items():
        conn.execute(cross_signing_keys.insert().values(user_id=known.user_id, usage=usage, json=json))
    save_remote_list(conn, known)


def count_devices(conn: Connection, user_id: UserId) -> int:
    count: int = conn.execute(_COUNT, {"user": user_id}).scalar_one()
    return count


def delete_remote_devices(conn: Connection, user_id: UserId, device_ids: Collection[str]) -> None:
    conn.execute(delete(device_keys).where(device_keys.c.user_id == user_id, device_keys.c.device_id.in_(device_ids)))


def _local_pattern(server_name: ServerName) -> str:
    escaped = server_name.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return f"%:{escaped}"
