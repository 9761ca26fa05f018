"""Device keys, one-time keys and fallback keys, as their owners uploaded them.

A one-time key that is claimed stays, marked: a client that got no answer to its upload repeats it, and what was handed
out meanwhile must not come back. It is the upload's own INSERT that finds such keys, so they cost uploads nothing. Of each
device the newest are kept, at least as many as one upload may bring: keys are handed out in upload order, so all that
were taken of the newest upload are among them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, literal_column, select, text, update

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.statement import Statement
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import devices
from homeserver.store.tables.e2ee import device_keys, fallback_keys, one_time_keys
from homeserver.store.upsert import insert_if_absent, upsert

KEPT_CLAIMED = 1_000  # of one device; not less than an upload may bring
CLAIMS_BETWEEN_TRIMS = 64


class UploadedKey(NamedTuple):
    """A one-time or fallback key. name: "<algorithm>:<key id>". json: what clients get."""

    algorithm: str
    key_id: str
    json: bytes

    @property
    def name(self) -> str:
        return f"{self.algorithm}:{self.key_id}"


@frozen
class KnownKey:
    """A one-time key that a device uploaded before."""

    json: bytes
    is_claimed: bool


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
_ONE = Statement(
    select(device_keys.c.json).where(
        device_keys.c.user_id == bindparam("user"), device_keys.c.device_id == bindparam("device")
    )
)
_UPSERT_DEVICE = Statement(upsert(device_keys))
_KEY_COLUMNS = ("user_id", "device_id", "algorithm", "key_id", "position", "place", "json")
_INSERT_KEY = Statement(insert_if_absent(one_time_keys, *_KEY_COLUMNS))
_REPLACE_KEY = Statement(upsert(one_time_keys, *_KEY_COLUMNS, "claimed"))
_DELETE_UPLOAD = Statement(
    delete(one_time_keys).where(
        one_time_keys.c.user_id == bindparam("user"),
        one_time_keys.c.device_id == bindparam("device"),
        one_time_keys.c.position == bindparam("at"),
    )
)
_UPSERT_FALLBACK = Statement(upsert(fallback_keys))
_COUNTS = Statement(
    select(one_time_keys.c.algorithm, func.count())
    .where(one_time_keys.c.user_id == bindparam("user"), one_time_keys.c.device_id == bindparam("device"))
    .where(one_time_keys.c.claimed == literal_column("0"))
    .group_by(one_time_keys.c.algorithm)
)
_UNUSED = Statement(
    select(fallback_keys.c.algorithm)
    .where(
        fallback_keys.c.user_id == bindparam("user"),
        fallback_keys.c.device_id == bindparam("device"),
        fallback_keys.c.is_used.is_(False),
    )
    .order_by(fallback_keys.c.algorithm)
)
# SQLite and PostgreSQL both take this; SKIP LOCKED is not needed, the log's head serialises writers.
_TAKE = Statement(
    text(
        "UPDATE one_time_keys SET claimed = 1 + "
        "(SELECT max(claimed) FROM one_time_keys WHERE user_id = :user AND device_id = :device) "
        "WHERE user_id = :user AND device_id = :device AND algorithm = :algorithm "
        "AND key_id = (SELECT key_id FROM one_time_keys WHERE user_id = :user AND device_id = :device AND claimed = 0 "
        "AND algorithm = :algorithm ORDER BY position, place LIMIT 1) RETURNING key_id, json, claimed"
    )
)
_TRIM_CLAIMED = Statement(
    delete(one_time_keys)
    .where(one_time_keys.c.user_id == bindparam("user"), one_time_keys.c.device_id == bindparam("device"))
    .where(one_time_keys.c.claimed.between(literal_column("1"), bindparam("upto")))
)
_FALLBACK = Statement(
    select(fallback_keys.c.key_id, fallback_keys.c.json)
    .where(fallback_keys.c.user_id == bindparam("user"))
    .where(fallback_keys.c.device_id == bindparam("device"))
    .where(fallback_keys.c.algorithm == bindparam("algorithm"))
)
_USE_FALLBACK = Statement(
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
    row = _ONE.first(conn, {"user": user_id, "device": device_id})
    return None if row is None else bytes(row[0])


def save_device_keys(conn: Connection, user_id: str, device_id: str, json: bytes) -> None:
    _UPSERT_DEVICE.run(conn, {"user_id": user_id, "device_id": device_id, "json": json})


def load_one_time_keys(conn: Connection, user_id: str, device_id: str, key_ids: Collection[str]) -> dict[str, KnownKey]:
    """By name; of the device's keys with those ids. Of claimed ones, those that are not forgotten yet."""
    k = one_time_keys.c
    statement = select(k.algorithm, k.key_id, k.json, k.claimed).where(k.user_id == user_id, k.device_id == device_id)
    found: dict[str, KnownKey] = {}
    for chunk in chunked(key_ids):
        for algorithm, key_id, json, claimed in conn.execute(statement.where(k.key_id.in_(chunk))):
            found[f"{algorithm}:{key_id}"] = KnownKey(json, claimed > 0)
    return found


def save_one_time_keys(
    conn: Connection, user_id: str, device_id: str, position: int, keys: Sequence[UploadedKey]
) -> int:
    """Keys whose ids are there already are left alone; how many were not there."""
    return _INSERT_KEY.run_many(conn, _rows(user_id, device_id, position, keys))


def replace_one_time_keys(
    conn: Connection, user_id: str, device_id: str, position: int, keys: Sequence[UploadedKey]
) -> None:
    """Keys whose ids are there already take their place, unclaimed."""
    _REPLACE_KEY.run_many(conn, [{**row, "claimed": 0} for row in _rows(user_id, device_id, position, keys)])


def _rows(user_id: str, device_id: str, position: int, keys: Sequence[UploadedKey]) -> list[dict[str, Any]]:
    return [
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


def delete_uploaded_keys(conn: Connection, user_id: str, device_id: str, position: int) -> None:
    """The one-time keys that came at that position."""
    _DELETE_UPLOAD.run(conn, {"user": user_id, "device": device_id, "at": position})


def save_fallback_keys(conn: Connection, user_id: str, device_id: str, keys: Sequence[UploadedKey]) -> None:
    """One for each algorithm; the same key again does not become unused."""
    for key in keys:
        known = _FALLBACK.first(conn, {"user": user_id, "device": device_id, "algorithm": key.algorithm})
        if known is not None and known[0] == key.key_id and known[1] == key.json:
            continue
        values = {"user_id": user_id, "device_id": device_id, "algorithm": key.algorithm, "key_id": key.key_id}
        _UPSERT_FALLBACK.run(conn, {**values, "json": key.json, "is_used": False})


def load_key_counts(conn: Connection, user_id: str, device_id: str) -> KeyCounts:
    unused = [row[0] for row in _UNUSED.all(conn, {"user": user_id, "device": device_id})]
    return KeyCounts(load_one_time_counts(conn, user_id, device_id), unused)


def load_one_time_counts(conn: Connection, user_id: str, device_id: str) -> dict[str, int]:
    """Unclaimed keys by algorithm."""
    return dict(_COUNTS.all(conn, {"user": user_id, "device": device_id}))


def claim_keys(conn: Connection, claims: Iterable[Claim]) -> dict[Claim, UploadedKey]:
    """Take a key for each of the claims, in upload order; the fallback key where none is left; none without that."""
    found = {}
    for claim in claims:
        names = {"user": claim.user_id, "device": claim.device_id, "algorithm": claim.algorithm}
        row = _TAKE.first(conn, names)
        if row is None:
            row = _FALLBACK.first(conn, names)
            if row is None:
                continue
            _USE_FALLBACK.run(conn, {"user": claim.user_id, "device": claim.device_id, "of": claim.algorithm})
        elif row[2] % CLAIMS_BETWEEN_TRIMS == 0:
            names = {"user": claim.user_id, "device": claim.device_id, "upto": row[2] - KEPT_CLAIMED}
            _TRIM_CLAIMED.run(conn, names)
        found[claim] = UploadedKey(claim.algorithm, row[0], bytes(row[1]))
    return found


def delete_keys_of_devices(conn: Connection, user_id: str, device_ids: Collection[str]) -> None:
    """All keys of the devices."""
    for table in (device_keys, one_time_keys, fallback_keys):
        conn.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id.in_(device_ids)))
