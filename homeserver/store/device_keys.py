"""Device keys, one-time keys and fallback keys, as their owners uploaded them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import devices
from homeserver.store.tables.e2ee import device_keys, fallback_keys, one_time_keys
from homeserver.store.upsert import insert_if_absent, upsert


@frozen
class UploadedKey:
    """A one-time or fallback key. name: "<algorithm>:<key id>". json: what clients get."""

    algorithm: str
    key_id: str
    json: bytes

    @property
    def name(self) -> str:
        return f"{self.algorithm}:{self.key_id}"


@frozen
class DeviceKeysRow:
    """A device's identity keys, and the name that its user gave it."""

    user_id: UserId
    device_id: DeviceId
    json: bytes
    display_name: str | None


@frozen
class KeyCounts:
    """Of one device: unclaimed one-time keys by algorithm; algorithms with an unused fallback key."""

    one_time: dict[str, int]
    unused_fallback: Sequence[str]


@frozen
class Claim:
    """One key of that algorithm is wanted from the device."""

    user_id: UserId
    device_id: DeviceId
    algorithm: str


_OF_USERS = (
    select(device_keys.c.user_id, device_keys.c.device_id, device_keys.c.json, devices.c.display_name)
    .select_from(
        device_keys.outerjoin(
            devices, (devices.c.user_id == device_keys.c.user_id) & (devices.c.device_id == device_keys.c.device_id)
        )
    )
    .where(device_keys.c.user_id.in_(bindparam("users", expanding=True)))
    .order_by(device_keys.c.user_id, device_keys.c.device_id)
)
_ONE = select(device_keys.c.json).where(
    device_keys.c.user_id == bindparam("user"), device_keys.c.device_id == bindparam("device")
)
_UPSERT_DEVICE = upsert(device_keys)
_INSERT_KEY = insert_if_absent(one_time_keys)
_UPSERT_FALLBACK = upsert(fallback_keys)
_COUNTS = (
    select(one_time_keys.c.algorithm, func.count())
    .where(one_time_keys.c.user_id == bindparam("user"), one_time_keys.c.device_id == bindparam("device"))
    .group_by(one_time_keys.c.algorithm)
)
_UNUSED = (
    select(fallback_keys.c.algorithm)
    .where(
        fallback_keys.c.user_id == bindparam("user"),
        fallback_keys.c.device_id == bindparam("device"),
        fallback_keys.c.is_used.is_(False),
    )
    .order_by(fallback_keys.c.algorithm)
)
# SQLite and PostgreSQL both take this; SKIP LOCKED is not needed, the log's head serialises writers.
_TAKE = text(
    "DELETE FROM one_time_keys WHERE user_id = :user AND device_id = :device AND algorithm = :algorithm AND key_id = ("
    "SELECT key_id FROM one_time_keys WHERE user_id = :user AND device_id = :device AND algorithm = :algorithm "
    "ORDER BY position, place LIMIT 1) RETURNING key_id, json"
)
_FALLBACK = (
    select(fallback_keys.c.key_id, fallback_keys.c.json)
    .where(fallback_keys.c.user_id == bindparam("user"))
    .where(fallback_keys.c.device_id == bindparam("device"))
    .where(fallback_keys.c.algorithm == bindparam("algorithm"))
)
_USE_FALLBACK = (
    update(fallback_keys)
    .where(fallback_keys.c.user_id == bindparam("user"))
    .where(fallback_keys.c.device_id == bindparam("device"))
    .where(fallback_keys.c.algorithm == bindparam("of"))
    .values(is_used=True)
)


def load_device_keys(conn: Connection, user_ids: Collection[UserId]) -> list[DeviceKeysRow]:
    """Of all devices of the users that have any."""
    return [
        DeviceKeysRow(*row) for chunk in chunked(user_ids) for row in conn.execute(_OF_USERS, {"users": list(chunk)})
    ]


def load_one_device_keys(conn: Connection, user_id: str, device_id: str) -> bytes | None:
    return conn.scalar(_ONE, {"user": user_id, "device": device_id})


def save_device_keys(conn: Connection, user_id: str, device_id: str, json: bytes) -> None:
    conn.execute(_UPSERT_DEVICE, {"user_id": user_id, "device_id": device_id, "json": json})


def load_one_time_keys(conn: Connection, user_id: str, device_id: str, key_ids: Collection[str]) -> dict[str, bytes]:
    """ "<algorithm>:<key id>" -> JSON, of the device's unclaimed keys with those ids."""
    k = one_time_keys.c
    statement = select(k.algorithm, k.key_id, k.json).where(k.user_id == user_id, k.device_id == device_id)
    found: dict[str, bytes] = {}
    for chunk in chunked(key_ids):
        for algorithm, key_id, json in conn.execute(statement.where(k.key_id.in_(chunk))):
            found[f"{algorithm}:{key_id}"] = json
    return found


def save_one_time_keys(
    conn: Connection, user_id: str, device_id: str, position: int, keys: Sequence[UploadedKey]
) -> None:
    """Keys that are there already are left alone."""
    values = [
        {
            "user_id": user_id,
            "device_id": device_id,
            "algorithm": key.algorithm,
            "key_id": key.key_id,
            "position": position,
            "place": place,
            "json": key.json,
        }
        for place, key in enumerate(keys)
    ]
    if values:
        conn.execute(_INSERT_KEY, values)


def save_fallback_keys(conn: Connection, user_id: str, device_id: str, keys: Sequence[UploadedKey]) -> None:
    """One for each algorithm; the same key again does not become unused."""
    for key in keys:
        known = conn.execute(_FALLBACK, {"user": user_id, "device": device_id, "algorithm": key.algorithm}).first()
        if known is not None and known[0] == key.key_id and known[1] == key.json:
            continue
        values = {"user_id": user_id, "device_id": device_id, "algorithm": key.algorithm, "key_id": key.key_id}
        conn.execute(_UPSERT_FALLBACK, {**values, "json": key.json, "is_used": False})


def load_key_counts(conn: Connection, user_id: str, device_id: str) -> KeyCounts:
    names = {"user": user_id, "device": device_id}
    counts = {row[0]: row[1] for row in conn.execute(_COUNTS, names)}
    return KeyCounts(counts, list(conn.scalars(_UNUSED, names)))


def claim_keys(conn: Connection, claims: Iterable[Claim]) -> dict[Claim, UploadedKey]:
    """Take a key for each of the claims, in upload order; the fallback key where none is left; none without that."""
    found = {}
    for claim in claims:
        names = {"user": claim.user_id, "device": claim.device_id, "algorithm": claim.algorithm}
        row = conn.execute(_TAKE, names).first()
        if row is None:
            row = conn.execute(_FALLBACK, names).first()
            if row is None:
                continue
            conn.execute(_USE_FALLBACK, {"user": claim.user_id, "device": claim.device_id, "of": claim.algorithm})
        found[claim] = UploadedKey(claim.algorithm, row[0], bytes(row[1]))
    return found


def delete_keys_of_devices(conn: Connection, user_id: str, device_ids: Collection[str]) -> None:
    """All keys of the devices."""
    for table in (device_keys, one_time_keys, fallback_keys):
        conn.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id.in_(device_ids)))
