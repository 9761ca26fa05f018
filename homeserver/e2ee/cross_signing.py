"""Cross-signing: a user's own keys, and the signatures by which users vouch for devices and for each other.

Log rows made here: "device_list" {device_ids, signing_keys} keyed by the user whose keys or devices look different to all
now; "signatures" {user_ids} keyed by the signer, to whom alone the keys of those users look different.

Spec: client-server-api#cross-signing
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import orjson
from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.e2ee.limits import MAX_DEVICE_KEYS_BYTES, MAX_SIGNATURES, check_entries, check_object, encode_bounded
from homeserver.e2ee.queries import KeyQueries, public_key_of
from homeserver.e2ee.signatures import (
    InvalidSignature,
    check_signatures,
    check_signed,
    parse_device_key,
    parse_verify_key,
)
from homeserver.e2ee.uploads import DEVICE_LIST
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, MissingParam, NotFound
from homeserver.matrix.ids import UserId, parse_user_id
from homeserver.matrix.signing import VerifyKey
from homeserver.runtime.db import Database
from homeserver.store import cross_signing as store
from homeserver.store.cross_signing import MASTER, SELF_SIGNING, USER_SIGNING, KeySignature
from homeserver.store.device_lists import save_device_list_change
from homeserver.store.devices import load_device_ids
from homeserver.store.log_writer import LogItem, LogWriter

SIGNATURES = "signatures"
USAGES = (MASTER, SELF_SIGNING, USER_SIGNING)

KnownKeys = Mapping[str, dict[str, Any]]  # by usage


class KeysChanged(Exception):
    """Another upload of the user's keys came between: load them, check again."""


@frozen
class KeySet:
    """Cross-signing keys by usage, well-formed and signed as they have to be."""

    keys: Mapping[str, dict[str, Any]]


@define(eq=False)
class CrossSigning:
    database: Database
    log_writer: LogWriter
    queries: KeyQueries

    async def load_keys(self, user_id: UserId) -> KnownKeys:
        """The user's keys by usage."""
        return await self.database.read(_load_keys, user_id)

    async def upload(self, user_id: UserId, new: KeySet, known: KnownKeys) -> None:
        """Store new keys (checked by check_keys); with a new master key all that was signed before is void.

        Raises: KeysChanged when the user's keys are not `known` any more, against which the new ones were checked.
        """
        changed = {usage: key for usage, key in new.keys.items() if not _is_same(known.get(usage), key)}
        if not changed:
            return
        await self._check_names(user_id, changed)
        data: dict[str, Any] = {"device_ids": [], "signing_keys": True}

        def save(conn: Connection, position: int) -> None:
            if _load_keys(conn, user_id) != known:
                raise KeysChanged
            if MASTER in changed:
                store.delete_cross_signing_keys(conn, user_id)
            for usage, key in (new.keys if MASTER in changed else changed).items():
                store.save_cross_signing_key(conn, user_id, usage, encode_bounded(key, usage, MAX_DEVICE_KEYS_BYTES))
            data["prev"] = save_device_list_change(conn, user_id, position)

        await self.log_writer.submit(LogItem(DEVICE_LIST, user_id, data, save))

    async def _check_names(self, user_id: UserId, keys: Mapping[str, dict[str, Any]]) -> None:
        """Raises: Forbidden for a key that is called like one of the user's devices: signatures name both alike."""
        devices = set(await self.database.read(load_device_ids, user_id))
        if devices & {public_key_of(key) for key in keys.values()}:
            raise Forbidden("Key ID in use")

    async def sign(self, signer: UserId, body: Mapping[str, Any]) -> dict[UserId, dict[str, dict[str, Any]]]:
        """Store the signatures of an upload; what was refused, and why, by user and key.

        Spec: client-server-api#post_matrixclientv3keyssignaturesupload
        """
        check_entries(body, "signatures", MAX_SIGNATURES)
        wanted = {parse_user_id(user_id, user_id): check_object(objects, user_id) for user_id, objects in body.items()}
        found = await self.queries.query(signer, dict.fromkeys({*wanted, signer}, ()))
        keys = _Keys(signer, found.device_keys, found.cross_signing)
        signatures: list[KeySignature] = []
        failures: dict[UserId, dict[str, dict[str, Any]]] = {}
        for user_id, objects in wanted.items():
            for target, signed in objects.items():
                try:
                    signatures += keys.check(user_id, target, signed)
                except MatrixError as error:
                    failures.setdefault(user_id, {})[target] = error.to_json()
        await self._save(signer, signatures, found.device_keys.get(signer, {}))
        return failures

    async def _save(self, signer: UserId, signatures: list[KeySignature], devices: Collection[str]) -> None:
        """devices: the signer's. What else of the signer's is signed is the master key."""
        own = [signature.target for signature in signatures if signature.user_id == signer]
        others = sorted({signature.user_id for signature in signatures} - {signer})
        if not signatures:
            return
        signed = [target for target in own if target in devices]
        data: dict[str, Any] = {"device_ids": signed, "signing_keys": len(signed) < len(own)}

        def save(conn: Connection, position: int) -> None:
            store.save_signatures(conn, signatures, position)
            if own:
                data["prev"] = save_device_list_change(conn, signer, position)

        told = [(SIGNATURES, signer, {"user_ids": others})] if others else []
        if own:
            await self.log_writer.submit(LogItem(DEVICE_LIST, signer, data, save, told))
        else:
            await self.log_writer.submit(LogItem(SIGNATURES, signer, {"user_ids": others}, save))


def check_keys(user_id: UserId, body: Mapping[str, Any], known: KnownKeys) -> KeySet:
    """The keys of POST /keys/device_signing/upload.

    Raises: InvalidParam, MissingParam (no master key anywhere), InvalidSignature.

    Spec: client-server-api#post_matrixclientv3keysdevice_signingupload
    """
    keys: dict[str, dict[str, Any]] = {}
    for usage in USAGES:
        value = body.get(f"{usage}_key")
        if value is not None:
            keys[usage] = _check_key(user_id, value, usage)
    if not keys:
        raise MissingParam("master_key")
    master = keys.get(MASTER) or known.get(MASTER)
    if master is None:
        raise MissingParam("master_key")
    for usage in (SELF_SIGNING, USER_SIGNING):
        if usage in keys:
            check_signed(keys[usage], user_id, _verify_key(master), f"{usage}_key")
    return KeySet(keys)


def is_replacement(new: KeySet, known: KnownKeys) -> bool:
    """Keys that are there already change, which needs authentication. A first upload, and the same keys again, need none."""
    if MASTER not in known:
        return False
    return any(not _is_same(known.get(usage), key) for usage, key in new.keys.items())


def _load_keys(conn: Connection, user_id: UserId) -> KnownKeys:
    found = store.load_cross_signing_keys(conn, [user_id])
    return {usage: orjson.loads(json) for usage, json in found.get(user_id, {}).items()}


@frozen
class _Keys:
    """The keys among which signatures are checked."""

    signer: UserId
    devices: Mapping[UserId, Mapping[Any, dict[str, Any]]]
    cross_signing: Mapping[str, Mapping[UserId, dict[str, Any]]]

    def check(self, user_id: UserId, target: str, signed: object) -> list[KeySignature]:
        """The signer's signatures on the object. Raises: NotFound, InvalidParam, InvalidSignature."""
        given = check_object(signed, target)
        by_signer = check_signatures(given.get("signatures"), target).get(self.signer, {})
        stored = self._find(user_id, target)
        if _unsigned(given) != _unsigned(stored):
            raise InvalidParam(target, "is not the key that was uploaded")
        may_sign = self._signers(user_id, stored)
        signatures = []
        for key_id, signature in by_signer.items():
            key = may_sign.get(key_id)
            if key is None:
                continue
            check_signed(
                {**_unsigned(given), "signatures": {self.signer: {key_id: signature}}}, self.signer, key, target
            )
            signatures.append(KeySignature(user_id, target, self.signer, key_id, signature))
        if not signatures:
            raise InvalidSignature(f"{target}: not signed by a key of {self.signer} that may sign it")
        return signatures

    def _find(self, user_id: UserId, target: str) -> dict[str, Any]:
        device = self.devices.get(user_id, {}).get(target)
        if device is not None and user_id == self.signer:
            return device
        master = self.cross_signing.get(MASTER, {}).get(user_id)
        if master is None or public_key_of(master) != target:
            raise NotFound(f"{user_id} has no such key to sign")
        return master

    def _signers(self, user_id: UserId, stored: Mapping[str, Any]) -> dict[str, VerifyKey]:
        """Key ids of the signer that may sign that object.

        Own devices are signed by the self-signing key, the own master key by devices, another's by the user-signing key.
        """
        if "device_id" in stored:
            return self._own(SELF_SIGNING)
        if user_id != self.signer:
            return self._own(USER_SIGNING)
        devices = self.devices.get(self.signer, {})
        found = [parse_device_key(device, device_id) for device_id, device in devices.items()]
        return {str(key.key_id): key for key in found if key is not None}

    def _own(self, usage: str) -> dict[str, VerifyKey]:
        key = self.cross_signing.get(usage, {}).get(self.signer)
        if key is None:
            return {}
        verify = _verify_key(key)
        return {str(verify.key_id): verify}


def _check_key(user_id: UserId, value: object, usage: str) -> dict[str, Any]:
    field = f"{usage}_key"
    key = check_object(value, field)
    if key.get("user_id") != user_id:
        raise InvalidParam(f"{field}.user_id", f"must be {user_id}")
    if not isinstance(key.get("usage"), list) or usage not in key["usage"]:
        raise InvalidParam(f"{field}.usage", f'must be ["{usage}"]')
    keys = check_object(key.get("keys"), f"{field}.keys")
    if len(keys) != 1:
        raise InvalidParam(f"{field}.keys", "must hold one key")
    [(name, public)] = keys.items()
    if not isinstance(public, str) or name != f"ed25519:{public}" or parse_verify_key(name, public) is None:
        raise InvalidParam(f"{field}.keys", "must be an ed25519 public key in unpadded base64, named after itself")
    if "signatures" in key:
        check_signatures(key["signatures"], field)
    encode_bounded(key, field, MAX_DEVICE_KEYS_BYTES)
    return {name: part for name, part in key.items() if name != "unsigned"}


def _verify_key(key: Mapping[str, Any]) -> VerifyKey:
    [(name, public)] = key["keys"].items()
    return VerifyKey.from_base64(name, public)


def _unsigned(key: Mapping[str, Any]) -> dict[str, Any]:
    """What is signed of a key object."""
    return {name: value for name, value in key.items() if name not in ("signatures", "unsigned")}


def _is_same(known: Mapping[str, Any] | None, key: Mapping[str, Any]) -> bool:
    return known is not None and _unsigned(known) == _unsigned(key)
