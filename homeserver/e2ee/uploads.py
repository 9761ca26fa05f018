"""POST /keys/upload: a device's identity keys, one-time keys and fallback keys.

Log rows made here, keyed by the user:
    "device_list" {device_ids}    the identity keys of devices changed
    "one_time_keys" {device_ids}  the counts of unclaimed keys changed

Spec: client-server-api#post_matrixclientv3keysupload
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.e2ee.limits import MAX_ONE_TIME_KEYS
from homeserver.e2ee.signatures import InvalidSignature, check_signed, parse_device_key
from homeserver.e2ee.upload_bodies import KeyUpload
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import LimitExceeded, MatrixError, UnknownToken
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.coroutine import next_turn
from homeserver.runtime.db import Database
from homeserver.store import device_keys as store
from homeserver.store.cross_signing import delete_signatures
from homeserver.store.device_keys import Keys, KnownKey
from homeserver.store.device_lists import save_device_list_change
from homeserver.store.log_writer import LogItem, LogWriter

DEVICE_LIST = "device_list"
ONE_TIME_KEYS = "one_time_keys"
CHECKS_PER_TURN = 16  # some 60 us each


@define(eq=False)
class KeyUploads:
    database: Database
    log_writer: LogWriter
    checks_signatures: bool

    async def upload(self, user_id: UserId, device_id: DeviceId, upload: KeyUpload) -> dict[str, int]:
        """Store the keys, all in one transaction; how many one-time keys there are then, by algorithm.

        Raises: MatrixError (400) for a one-time key whose id stands for another key already; LimitExceeded;
            InvalidSignature where signatures are checked; UnknownToken when the device is gone.
        """
        if self.checks_signatures:
            await check_own_signatures(self.database, user_id, device_id, upload)
        if upload.device_keys is None and not upload.has_keys:
            return (await self.database.read(store.load_key_counts, user_id, device_id)).one_time
        done = UploadWrite(user_id, device_id, upload)
        rows = done.rows()
        await self.log_writer.submit(LogItem(*rows[0], done.save, rows[1:]))
        if done.error is not None:
            raise done.error
        return done.counts


async def check_own_signatures(database: Database, user_id: UserId, device_id: DeviceId, upload: KeyUpload) -> None:
    """That the device itself signed what it uploads, by the identity keys that come along, else by those it has.

    Raises: InvalidSignature.

    Spec: client-server-api#key-and-signature-security
    """
    signed = upload.signed()
    if not signed:
        return
    device_keys = upload.device_keys
    if device_keys is None:
        # Other identity keys may be stored before this upload is. That does no harm: both were under way at once, and it is
        # as if this one had come first; the keys that a device has stay when it uploads other identity keys.
        device_keys = await database.read(store.load_one_device_keys, user_id, device_id)
    key = parse_device_key(decode_json(device_keys), device_id) if device_keys is not None else None
    if key is None:
        raise InvalidSignature(f"{signed[0][0]}: the device has no key ed25519:{device_id} to sign it with")
    for count, (where, json) in enumerate(signed, 1):
        check_signed(decode_json(json), user_id, key, where)
        if count % CHECKS_PER_TURN == 0:
            await next_turn()


@define(eq=False)
class UploadWrite:
    """An upload on its way into the database. What is wrong with it is kept, not raised: others share the transaction.

    The log has its rows() from the position on that save() is given.
    """

    user_id: UserId
    device_id: DeviceId
    upload: KeyUpload
    list_data: dict[str, Any] = field(factory=dict)
    keys_data: dict[str, Any] = field(factory=dict)
    counts: dict[str, int] = field(factory=dict)
    error: MatrixError | None = None

    def rows(self) -> list[tuple[str, str, dict[str, Any]]]:
        rows: list[tuple[str, str, dict[str, Any]]] = []
        if self.upload.device_keys is not None:
            rows.append((DEVICE_LIST, self.user_id, self.list_data))
        if self.upload.has_keys:
            rows.append((ONE_TIME_KEYS, self.user_id, self.keys_data))
        return rows

    def save(self, conn: Connection, position: int) -> None:
        self.error = None
        self.list_data["device_ids"], self.keys_data["device_ids"] = [], []
        try:
            self._save(conn, position)
        except MatrixError as error:
            self.error = error

    def _save(self, conn: Connection, position: int) -> None:
        """What is checked is checked before anything is written."""
        user_id, device_id, upload = self.user_id, self.device_id, self.upload
        new = self._save_one_time_keys(conn, position)
        if upload.device_keys is not None:
            known = store.load_one_device_keys(conn, user_id, device_id)
            if upload.device_keys != known:
                self._save_device_keys(conn, position, upload.device_keys, known)
        if new or upload.fallback_keys:
            store.save_fallback_keys(conn, user_id, device_id, upload.fallback_keys)
            self.keys_data["device_ids"] = [device_id]

    def _save_one_time_keys(self, conn: Connection, position: int) -> Keys:
        """Those of the keys that are new; `counts` with them. Raises: MatrixError, LimitExceeded, UnknownToken."""
        user_id, device_id, keys = self.user_id, self.device_id, self.upload.one_time_keys
        uploads = store.load_key_uploads(conn, user_id, device_id)
        if uploads is None:  # it has logged out since its token was looked at
            raise UnknownToken
        counts: dict[str, int] = {}
        for upload in uploads:
            counts[upload.algorithm] = counts.get(upload.algorithm, 0) + upload.size - upload.claimed
        if any(upload.has_any_of(keys) for upload in uploads) or _exceeds_limit(keys, counts):
            before = store.load_one_time_keys(conn, user_id, device_id, uploads, keys)
            keys = _new_keys(keys, before)
            if _exceeds_limit(keys, counts):
                raise LimitExceeded(60_000, f"A device may have {MAX_ONE_TIME_KEYS} unclaimed one-time keys")
        store.save_one_time_keys(conn, user_id, device_id, position, keys)
        store.forget_claimed_keys(conn, user_id, device_id, uploads)
        for algorithm, of_it in keys.items():
            counts[algorithm] = counts.get(algorithm, 0) + len(of_it)
        self.counts = {algorithm: count for algorithm, count in counts.items() if count}
        return keys

    def _save_device_keys(self, conn: Connection, position: int, keys: bytes, before: bytes | None) -> None:
        store.save_device_keys(conn, self.user_id, self.device_id, keys)
        if before is not None and _identity(before) != _identity(keys):
            delete_signatures(conn, self.user_id, [self.device_id])
        self.list_data["prev"] = save_device_list_change(conn, self.user_id, position)
        self.list_data["device_ids"] = [self.device_id]


def _exceeds_limit(keys: Keys, unclaimed: Mapping[str, int]) -> bool:
    return sum(map(len, keys.values())) + sum(unclaimed.values()) > MAX_ONE_TIME_KEYS


def _new_keys(keys: Keys, known: Mapping[tuple[str, str], KnownKey]) -> Keys:
    """Those that the device has not uploaded before. known: by algorithm and key id.

    The id of a key that was claimed may come to stand for another one; the key itself, for nobody any more.

    Raises: MatrixError for an unclaimed key that is another one.
    """
    new: dict[str, dict[str, bytes]] = {}
    for algorithm, of_it in keys.items():
        for key_id, json in of_it.items():
            before = known.get((algorithm, key_id))
            if before is None or (before.is_claimed and _public_key(before.json) != _public_key(json)):
                new.setdefault(algorithm, {})[key_id] = json
            elif not before.is_claimed and orjson.loads(before.json) != orjson.loads(json):
                raise MatrixError(f"One-time key {algorithm}:{key_id} exists already, and is another one")
    return new


def _public_key(json: bytes) -> object:
    """What must not be used twice, however it is signed."""
    key = orjson.loads(json)
    return key["key"] if isinstance(key, dict) else key


def _identity(json: bytes) -> object:
    """What signatures stand for: the keys themselves."""
    return orjson.loads(json).get("keys")
