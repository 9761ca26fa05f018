"""Device keys, one-time keys and fallback keys, as their owners uploaded them.

The one-time keys of an upload are one row, which counts how many of them were claimed: fifty rows, each in two indexes,
were most of what an upload cost. A key that is claimed stays: a client that got no answer to its upload repeats it, and
what was handed out meanwhile must not come back. Of a device the newest uploads stay in which no key is left, with as
many keys as one upload may bring.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, delete, func, insert, select, text, update

from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.statement import Statement
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import devices
from homeserver.store.tables.e2ee import device_keys, fallback_keys
from homeserver.store.tables.e2ee import one_time_key_uploads as u
from homeserver.store.upsert import upsert

KEPT_CLAIMED = 1_000  # of one device, in uploads in which no key is left; not less than an upload may bring
KEPT_EMPTY = 64  # such uploads
KEYS_IN_A_ROW = 100


# One-time or fallback keys: algorithm -> key id -> JSON, what clients get.
Keys = Mapping[str, Mapping[str, bytes]]


class ClaimedKey(NamedTuple):
    """name: "<algorithm>:<key id>"."""

    name: str
    json: bytes


class KeyUploadRow(NamedTuple):
    """Keys of one algorithm that came in one upload, without the keys themselves. claimed: how many were, from the first."""

    algorithm: str
    position: int
    part: int
    size: int
    claimed: int
    key_ids: Sequence[str]

    def has_any_of(self, keys: Keys) -> bool:
        """By their ids."""
        of_it = keys.get(self.algorithm)
        return of_it is not None and not of_it.keys().isdisjoint(self.key_ids)


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


class Claim(NamedTuple):
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
_OF_DEVICE = (u.c.user_id == bindparam("user"), u.c.device_id == bindparam("device"))
_OF_ROW = (
    *_OF_DEVICE,
    u.c.algorithm == bindparam("algorithm_"),
    u.c.position == bindparam("position_"),
    u.c.part == bindparam("part_"),
)
_UPLOADS = Statement(
    select(u.c.algorithm, u.c.position, u.c.part, u.c.size, u.c.claimed, u.c.key_ids)
    .select_from(devices.outerjoin(u, (u.c.user_id == devices.c.user_id) & (u.c.device_id == devices.c.device_id)))
    .where(devices.c.user_id == bindparam("user"), devices.c.device_id == bindparam("device"))
    .order_by(u.c.position, u.c.part)
)
_KEYS_OF = Statement(select(u.c.json).where(*_OF_ROW))
_INSERT_UPLOAD = Statement(insert(u), *u.c.keys())
_DELETE_UPLOAD = Statement(delete(u).where(*_OF_ROW))
_UPSERT_FALLBACK = Statement(upsert(fallback_keys))
_COUNTS = Statement(
    select(u.c.algorithm, func.sum(u.c.size - u.c.claimed))
    .where(*_OF_DEVICE, u.c.claimed < u.c.size)
    .group_by(u.c.algorithm)
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
_OF_CLAIM = "user_id = :user AND device_id = :device AND algorithm = :algorithm"
_TAKE = Statement(
    text(
        f"UPDATE one_time_key_uploads SET claimed = claimed + 1 WHERE {_OF_CLAIM} AND (position, part) = "
        f"(SELECT position, part FROM one_time_key_uploads WHERE {_OF_CLAIM} AND claimed < size "
        "ORDER BY position, part LIMIT 1) RETURNING claimed, key_ids, json"
    )
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


def load_key_uploads(conn: Connection, user_id: str, device_id: str) -> list[KeyUploadRow] | None:
    """The device's one-time keys, oldest first. Of claimed ones, those that are not forgotten yet. None: no such device."""
    rows = _UPLOADS.all(conn, {"user": user_id, "device": device_id})
    if not rows:
        return None
    return [
        KeyUploadRow(algorithm, at, part, size, claimed, orjson.loads(key_ids))
        for algorithm, at, part, size, claimed, key_ids in rows
        if algorithm is not None
    ]


def load_one_time_keys(
    conn: Connection, user_id: str, device_id: str, uploads: Iterable[KeyUploadRow], wanted: Keys
) -> dict[tuple[str, str], KnownKey]:
    """By algorithm and key id; of the device's keys in those uploads, oldest first, those that have the wanted ones' ids:
    the newest of each.
    """
    found: dict[tuple[str, str], KnownKey] = {}
    for upload in uploads:
        if not upload.has_any_of(wanted):
            continue
        json = _load_keys(conn, user_id, device_id, upload)
        for place, key_id in enumerate(upload.key_ids):
            if key_id in wanted[upload.algorithm]:
                found[upload.algorithm, key_id] = KnownKey(json[place], place < upload.claimed)
    return found


def _load_keys(conn: Connection, user_id: str, device_id: str, upload: KeyUploadRow) -> list[bytes]:
    row = _KEYS_OF.first(conn, _names_of(user_id, device_id, upload))
    return bytes(row[0]).split(b"\n") if row is not None else []


def _names_of(user_id: str, device_id: str, upload: KeyUploadRow) -> Mapping[str, Any]:
    at = {"algorithm_": upload.algorithm, "position_": upload.position, "part_": upload.part}
    return {"user": user_id, "device": device_id, **at}


def save_one_time_keys(conn: Connection, user_id: str, device_id: str, position: int, keys: Keys) -> None:
    """Keys that the device has not uploaded before, or that take the place of claimed ones."""
    _INSERT_UPLOAD.run_many(
        conn,
        [
            {
                "user_id": user_id,
                "device_id": device_id,
                "algorithm": algorithm,
                "position": position,
                "part": part,
                "size": len(together),
                "claimed": 0,
                "key_ids": orjson.dumps(together).decode(),
                "json": b"\n".join([of_it[key_id] for key_id in together]),
            }
            for algorithm, of_it in keys.items()
            for part, together in enumerate(chunked(of_it, KEYS_IN_A_ROW))
        ],
    )


def forget_claimed_keys(conn: Connection, user_id: str, device_id: str, uploads: Sequence[KeyUploadRow]) -> None:
    """Delete the oldest of the device's uploads in which no key is left, where these are more than are kept."""
    empty = [upload for upload in uploads if upload.claimed == upload.size]
    kept = KEPT_CLAIMED
    for count, upload in enumerate(reversed(empty), 1):
        kept -= upload.size
        if kept < 0 or count > KEPT_EMPTY:
            _DELETE_UPLOAD.run(conn, _names_of(user_id, device_id, upload))


def save_fallback_keys(conn: Connection, user_id: str, device_id: str, keys: Keys) -> None:
    """One for each algorithm; the same key again does not become unused."""
    for algorithm, of_it in keys.items():
        [(key_id, json)] = of_it.items()
        known = _FALLBACK.first(conn, {"user": user_id, "device": device_id, "algorithm": algorithm})
        if known is not None and known[0] == key_id and orjson.loads(known[1]) == orjson.loads(json):
            continue
        values = {"user_id": user_id, "device_id": device_id, "algorithm": algorithm, "key_id": key_id}
        _UPSERT_FALLBACK.run(conn, {**values, "json": json, "is_used": False})


def load_key_counts(conn: Connection, user_id: str, device_id: str) -> KeyCounts:
    unused = [row[0] for row in _UNUSED.all(conn, {"user": user_id, "device": device_id})]
    return KeyCounts(load_one_time_counts(conn, user_id, device_id), unused)


def load_one_time_counts(conn: Connection, user_id: str, device_id: str) -> dict[str, int]:
    """Unclaimed keys by algorithm."""
    return dict(_COUNTS.all(conn, {"user": user_id, "device": device_id}))


def claim_keys(conn: Connection, claims: Iterable[Claim]) -> dict[Claim, ClaimedKey]:
    """Take a key for each of the claims, in upload order; the fallback key where none is left; none without that."""
    found = {}
    for claim in claims:
        names = {"user": claim.user_id, "device": claim.device_id, "algorithm": claim.algorithm}
        row = _TAKE.first(conn, names)
        if row is not None:
            place = row[0] - 1
            found[claim] = _claimed(claim, orjson.loads(row[1])[place], bytes(row[2]).split(b"\n", place + 1)[place])
            continue
        row = _FALLBACK.first(conn, names)
        if row is not None:
            _USE_FALLBACK.run(conn, {"user": claim.user_id, "device": claim.device_id, "of": claim.algorithm})
            found[claim] = _claimed(claim, row[0], bytes(row[1]))
    return found


def _claimed(claim: Claim, key_id: str, json: bytes) -> ClaimedKey:
    return ClaimedKey(f"{claim.algorithm}:{key_id}", json)


def delete_keys_of_devices(conn: Connection, user_id: str, device_ids: Collection[str]) -> None:
    """All keys of the devices."""
    for table in (device_keys, u, fallback_keys):
        conn.execute(delete(table).where(table.c.user_id == user_id, table.c.device_id.in_(device_ids)))
