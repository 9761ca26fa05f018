"""When whose devices or keys last changed, and what is known of remote users' devices."""

from __future__ import annotations

from collections.abc import Collection

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, select

from homeserver.matrix.ids import UserId
from homeserver.runtime.statement import Statement
from homeserver.store.cross_signing import delete_signatures
from homeserver.store.device_keys import delete_keys_of_devices
from homeserver.store.events import chunked
from homeserver.store.tables.e2ee import (
    dehydrated_devices,
    device_list_changes,
    remote_device_lists,
    to_device_messages,
    to_device_transactions,
)
from homeserver.store.upsert import upsert


@frozen
class RemoteDeviceList:
    """How far we know a remote user's devices: their server's stream id, and whether something was missed."""

    user_id: UserId
    stream_id: int
    is_stale: bool


_UPSERT = Statement(upsert(device_list_changes))
_LAST = Statement(select(device_list_changes.c.position).where(device_list_changes.c.user_id == bindparam("user")))
_LAST_OF_MANY = select(device_list_changes.c.user_id, device_list_changes.c.position).where(
    device_list_changes.c.user_id.in_(bindparam("users", expanding=True))
)
_BETWEEN = select(device_list_changes.c.user_id).where(
    device_list_changes.c.position > bindparam("after"), device_list_changes.c.position <= bindparam("upto")
)
_REMOTE = select(remote_device_lists).where(remote_device_lists.c.user_id.in_(bindparam("users", expanding=True)))
_UPSERT_REMOTE = upsert(remote_device_lists)


def save_device_list_change(conn: Connection, user_id: str, position: int) -> int | None:
    """Note a change; the position of the one before it."""
    previous = load_list_position(conn, user_id) or None
    _UPSERT.run(conn, {"user_id": user_id, "position": position})
    return previous


def load_list_positions(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, int]:
    """The position of each user's newest change: of local users, the stream id that other servers know."""
    return {
        row[0]: row[1] for chunk in chunked(user_ids) for row in conn.execute(_LAST_OF_MANY, {"users": list(chunk)})
    }


def load_changed_users(conn: Connection, after: int, upto: int) -> set[UserId]:
    """Whose newest change is in (after, upto]. Those that changed again behind upto are found by that."""
    return set(conn.scalars(_BETWEEN, {"after": after, "upto": upto}))


def load_remote_lists(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, RemoteDeviceList]:
    return {
        row[0]: RemoteDeviceList(row[0], row[1], bool(row[2]))
        for chunk in chunked(user_ids)
        for row in conn.execute(_REMOTE, {"users": list(chunk)})
    }


def save_remote_list(conn: Connection, known: RemoteDeviceList) -> None:
    values = {"user_id": known.user_id, "stream_id": known.stream_id, "is_stale": known.is_stale}
    conn.execute(_UPSERT_REMOTE, values)


def delete_encryption_of_devices(conn: Connection, user_id: str, device_ids: Collection[str]) -> None:
    """What goes with devices: their keys, signatures of these, and messages that wait for them."""
    delete_keys_of_devices(conn, user_id, device_ids)
    delete_signatures(conn, user_id, device_ids)
    messages, transactions, dehydrated = to_device_messages.c, to_device_transactions.c, dehydrated_devices.c
    conn.execute(delete(to_device_messages).where(messages.user_id == user_id, messages.device_id.in_(device_ids)))
    conn.execute(
        delete(to_device_transactions).where(transactions.sender == user_id, transactions.device_id.in_(device_ids))
    )
    conn.execute(delete(dehydrated_devices).where(dehydrated.user_id == user_id, dehydrated.device_id.in_(device_ids)))


def load_list_position(conn: Connection, user_id: str) -> int:
    """Where the user's devices or keys changed last; 0 for never."""
    row = _LAST.first(conn, {"user": user_id})
    return 0 if row is None else row[0]
