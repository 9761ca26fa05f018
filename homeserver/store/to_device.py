"""Messages to devices, from the moment they are accepted until their device acknowledges them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, or_, select, text

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.statement import Statement
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import devices
from homeserver.store.tables.e2ee import to_device_messages as m
from homeserver.store.tables.e2ee import to_device_transactions as t
from homeserver.store.upsert import insert_if_absent


@frozen
class ToDeviceMessage:
    user_id: UserId
    device_id: DeviceId
    position: int
    json: bytes  # {"type", "sender", "content"}


@frozen
class Waiting:
    """Positions of a device's oldest and newest message; both 0 without any."""

    oldest: int
    newest: int


NOTHING_WAITS = Waiting(0, 0)

# For a device that there is: one that went has nobody to take them, and its id may come to be another's.
_INSERT = Statement(
    text(
        "INSERT INTO to_device_messages (user_id, device_id, position, json) SELECT user_id, device_id, :position, :json "
        "FROM devices WHERE user_id = :user_id AND device_id = :device_id"
    )
)
_INSERT_TRANSACTION = Statement(insert_if_absent(t))
_PAGE = Statement(
    select(m.c.position, m.c.json)
    .where(m.c.user_id == bindparam("user"), m.c.device_id == bindparam("device"))
    .where(m.c.position > bindparam("after"), m.c.position <= bindparam("upto"))
    .order_by(m.c.position)
    .limit(bindparam("limit"))
)
_WAITING = Statement(
    select(func.min(m.c.position), func.max(m.c.position)).where(
        m.c.user_id == bindparam("user"), m.c.device_id == bindparam("device")
    )
)
_DELETE = Statement(
    delete(m).where(
        m.c.user_id == bindparam("user"), m.c.device_id == bindparam("device"), m.c.position <= bindparam("upto")
    )
)


def save_messages(conn: Connection, messages: Sequence[ToDeviceMessage]) -> None:
    """Those for devices that there are."""
    _INSERT.run_many(
        conn,
        [{"user_id": x.user_id, "device_id": x.device_id, "position": x.position, "json": x.json} for x in messages],
    )


def save_transaction(conn: Connection, sender: str, device_id: str, txn_id: str, now_ms: int) -> bool:
    """False when that transaction was there before."""
    values = {"sender": sender, "device_id": device_id, "txn_id": txn_id, "received_ts_ms": now_ms}
    return _INSERT_TRANSACTION.run(conn, values) == 1


def delete_old_transactions(conn: Connection, before_ts_ms: int) -> None:
    conn.execute(delete(t).where(t.c.received_ts_ms < before_ts_ms))


def load_messages(
    conn: Connection, user_id: str, device_id: str, after: int, upto: int, limit: int
) -> list[tuple[int, bytes]]:
    """The oldest `limit` messages in (after, upto], each with its position."""
    names = {"user": user_id, "device": device_id, "after": after, "upto": upto, "limit": limit}
    return [(row[0], row[1]) for row in _PAGE.all(conn, names)]


def load_waiting(conn: Connection, user_id: str, device_id: str) -> Waiting:
    ((oldest, newest),) = _WAITING.all(conn, {"user": user_id, "device": device_id})
    return Waiting(oldest, newest) if oldest is not None else NOTHING_WAITS


def delete_messages(conn: Connection, user_id: str, device_id: str, upto: int) -> Waiting:
    """Delete what was acknowledged; what still waits."""
    _DELETE.run(conn, {"user": user_id, "device": device_id, "upto": upto})
    return load_waiting(conn, user_id, device_id)


def load_overfull(conn: Connection, most: int, most_bytes: int) -> list[tuple[UserId, DeviceId]]:
    """The devices for which more than that waits."""
    grouped = select(m.c.user_id, m.c.device_id).group_by(m.c.user_id, m.c.device_id)
    overfull = or_(func.count() > most, func.sum(func.length(m.c.json)) > most_bytes)
    return [(UserId(row[0]), DeviceId(row[1])) for row in conn.execute(grouped.having(overfull))]


def trim_messages(conn: Connection, user_id: str, device_id: str, most: int, most_bytes: int) -> int:
    """Delete the oldest of what waits for the device, so that no more than that is left; how many were deleted."""
    of_device = (m.c.user_id == user_id, m.c.device_id == device_id)
    newest_first = select(m.c.position, func.length(m.c.json)).where(*of_device).order_by(m.c.position.desc())
    size = 0
    for count, (position, length) in enumerate(conn.execute(newest_first).all(), 1):
        size += length
        if count > most or size > most_bytes:
            return conn.execute(delete(m).where(*of_device, m.c.position <= position)).rowcount
    return 0


def load_devices_of(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, list[DeviceId]]:
    """The devices of each of the local users."""
    found: dict[UserId, list[DeviceId]] = {}
    for chunk in chunked(user_ids):
        statement = select(devices.c.user_id, devices.c.device_id).where(devices.c.user_id.in_(list(chunk)))
        for user_id, device_id in conn.execute(statement):
            found.setdefault(user_id, []).append(device_id)
    return found
