"""POST /keys/upload: a device's identity keys, one-time keys and fallback keys.

Log rows made here, keyed by the user:
    "device_list" {device_ids}    the identity keys of devices changed
    "one_time_keys" {device_ids}  the counts of unclaimed keys changed

Spec: client-server-api#post_matrixclientv3keysupload
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.e2ee.limits import (
    MAX_DEVICE_KEYS_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS_PER_UPLOAD,
    MAX_NAME_BYTES,
    MAX_ONE_TIME_KEYS,
    check_count,
    check_object,
    check_size,
    check_string,
    encode_bounded,
)
from homeserver.e2ee.signatures import InvalidSignature, check_signatures, check_signed, parse_device_key
from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.errors import InvalidParam, LimitExceeded, MatrixError
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.runtime.coroutine import next_turn
from homeserver.runtime.db import Database
from homeserver.store import device_keys as store
from homeserver.store.cross_signing import delete_signatures
from homeserver.store.device_keys import KnownKey, UploadedKey
from homeserver.store.device_lists import save_device_list_change
from homeserver.store.log_writer import LogItem, LogWriter

DEVICE_LIST = "device_list"
ONE_TIME_KEYS = "one_time_keys"
SIGNED_ALGORITHM = "signed_curve25519"
CHECKS_PER_TURN = 16  # some 60 us each
_ESCAPED_NUL = b"\\u0000"


@frozen
class KeyUpload:
    """What a request brings. device_keys: as JSON, without unsigned; None where it brings none."""

    device_keys: bytes | None
    one_time_keys: list[UploadedKey]
    fallback_keys: list[UploadedKey]

    @property
    def has_keys(self) -> bool:
        return bool(self.one_time_keys or self.fallback_keys)

    def signed(self) -> list[tuple[str, bytes]]:
        """What the device has to sign: the field, and its value as JSON."""
        device_keys = [("device_keys", self.device_keys)] if self.device_keys is not None else []
        return device_keys + [
            (f"{field}.{key.name}", key.json)
            for field, keys in (("one_time_keys", self.one_time_keys), ("fallback_keys", self.fallback_keys))
            for key in keys
            if key.algorithm == SIGNED_ALGORITHM
        ]


@define(eq=False)
class KeyUploads:
    database: Database
    log_writer: LogWriter
    checks_signatures: bool

    async def upload(self, user_id: UserId, device_id: DeviceId, upload: KeyUpload) -> dict[str, int]:
        """Store the keys, all in one transaction; how many one-time keys there are then, by algorithm.

        Raises: MatrixError (400) for a one-time key whose id stands for another key already; LimitExceeded;
            InvalidSignature where signatures are checked.
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

    def _save_one_time_keys(self, conn: Connection, position: int) -> Sequence[UploadedKey]:
        """Those of the keys that are new; `counts` with them. Raises: MatrixError, LimitExceeded."""
        user_id, device_id, keys = self.user_id, self.device_id, self.upload.one_time_keys
        uploads = store.load_key_uploads(conn, user_id, device_id)
        counts: Counter[str] = Counter()
        for upload in uploads:
            counts[upload.algorithm] += upload.size - upload.claimed
        known = {name for upload in uploads for name in upload.names}
        wanted = {key.name for key in keys}
        if not known.isdisjoint(wanted) or counts.total() + len(keys) > MAX_ONE_TIME_KEYS:
            before = store.load_one_time_keys(conn, user_id, device_id, uploads, wanted)
            keys = _new_keys(keys, before, counts.total())
        store.save_one_time_keys(conn, user_id, device_id, position, keys)
        store.forget_claimed_keys(conn, user_id, device_id, uploads)
        counts.update(key.algorithm for key in keys)
        self.counts = dict(+counts)
        return keys

    def _save_device_keys(self, conn: Connection, position: int, keys: bytes, before: bytes | None) -> None:
        store.save_device_keys(conn, self.user_id, self.device_id, keys)
        if before is not None and _identity(before) != _identity(keys):
            delete_signatures(conn, self.user_id, [self.device_id])
        self.list_data["prev"] = save_device_list_change(conn, self.user_id, position)
        self.list_data["device_ids"] = [self.device_id]


def _new_keys(keys: Sequence[UploadedKey], known: Mapping[str, KnownKey], unclaimed: int) -> list[UploadedKey]:
    """Those that the device has not uploaded before. known: by name; unclaimed: how many keys the device has.

    The id of a key that was claimed may come to stand for another one; the key itself, for nobody any more.
    """
    new = []
    for key in keys:
        before = known.get(key.name)
        if before is None or (before.is_claimed and _public_key(before.json) != _public_key(key.json)):
            new.append(key)
        elif not before.is_claimed and orjson.loads(before.json) != orjson.loads(key.json):
            raise MatrixError(f"One-time key {key.name} exists already, and is another one")
    if unclaimed + len(new) > MAX_ONE_TIME_KEYS:
        raise LimitExceeded(60_000, f"A device may have {MAX_ONE_TIME_KEYS} unclaimed one-time keys")
    return new


def _public_key(json: bytes) -> object:
    """What must not be used twice, however it is signed."""
    key = orjson.loads(json)
    return key["key"] if isinstance(key, dict) else key


def parse_upload(user_id: UserId, device_id: DeviceId, body: Mapping[str, Any]) -> KeyUpload:
    """Raises: InvalidParam, TooLarge."""
    device_keys = body.get("device_keys")
    fallback = body.get("fallback_keys")
    if fallback is None:
        fallback = body.get("org.matrix.msc2732.fallback_keys")
    parsed = KeyUpload(
        parse_device_keys(user_id, device_id, device_keys) if device_keys is not None else None,
        _parse_keys(body.get("one_time_keys"), "one_time_keys"),
        _parse_keys(fallback, "fallback_keys"),
    )
    if len({key.algorithm for key in parsed.fallback_keys}) != len(parsed.fallback_keys):
        raise InvalidParam("fallback_keys", "at most one for each algorithm")
    return parsed


def parse_device_keys(user_id: UserId, device_id: DeviceId, value: object) -> bytes:
    """Identity keys as JSON, without unsigned.

    Raises: InvalidParam when they aren't that device's; TooLarge.

    Spec: client-server-api#device-keys
    """
    field = "device_keys"
    keys = check_object(value, field)
    if keys.get("user_id") != user_id:
        raise InvalidParam(f"{field}.user_id", f"must be {user_id}, whose token this is")
    if keys.get("device_id") != device_id:
        raise InvalidParam(f"{field}.device_id", f"must be {device_id}, whose token this is")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(name, str) for name in algorithms):
        raise InvalidParam(f"{field}.algorithms", "must be a list of strings")
    for name, key in check_object(keys.get("keys"), f"{field}.keys").items():
        check_string(key, f"{field}.keys.{name}", MAX_KEY_BYTES)
    check_signatures(keys.get("signatures"), field)
    own = {name: part for name, part in keys.items() if name != "unsigned"}
    return encode_bounded(own, field, MAX_DEVICE_KEYS_BYTES)


def _parse_keys(value: object, field: str) -> list[UploadedKey]:
    if value is None:
        return []
    keys = check_object(value, field)
    check_count(len(keys), field, MAX_KEYS_PER_UPLOAD)
    encoded = [*map(encode_json, keys.values())]
    # PERF(half of reading 50 keys): in what is short and without NUL, no string is too long or has one.
    is_plain = _are_plain(keys, encoded)
    return [
        _parse_key(name, key, json, field, is_plain=is_plain)
        for (name, key), json in zip(keys.items(), encoded, strict=True)
    ]


def _are_plain(names: Collection[str], encoded: Collection[bytes]) -> bool:
    is_short = (
        max(map(len, names), default=0) * 4 <= MAX_NAME_BYTES and max(map(len, encoded), default=0) <= MAX_KEY_BYTES
    )
    return is_short and "\0" not in "".join(names) and _ESCAPED_NUL not in b"".join(encoded)


def _parse_key(name: str, key: object, encoded: bytes, field: str, *, is_plain: bool) -> UploadedKey:
    algorithm, _, key_id = name.partition(":")
    if not (algorithm and key_id):
        raise InvalidParam(field, 'names must be "<algorithm>:<key id>"')
    if not (is_plain and _is_signed_key(key)):
        check_string(name, field)
        _check_key(key, f"{field}.{name}", encoded)
    return UploadedKey(name, algorithm, key_id, encoded)


def _is_signed_key(key: object) -> bool:
    """It has the shape of a key with signatures; its strings are not looked at."""
    if type(key) is not dict or type(key.get("key")) is not str or type(key.get("signatures")) is not dict:
        return False
    for by_key in key["signatures"].values():
        if type(by_key) is not dict:
            return False
        for signature in by_key.values():
            if type(signature) is not str:
                return False
    return True


def _check_key(key: object, where: str, encoded: bytes) -> None:
    """Raises: InvalidParam, TooLarge."""
    if isinstance(key, dict):
        check_string(key.get("key"), f"{where}.key", MAX_KEY_BYTES)
        if "signatures" in key:
            check_signatures(key["signatures"], where)
    elif not isinstance(key, str):
        raise InvalidParam(where, "must be a string or an object")
    check_size(encoded, where, MAX_KEY_BYTES)


def _identity(json: bytes) -> object:
    """What signatures stand for: the keys themselves."""
    return orjson.loads(json).get("keys")
