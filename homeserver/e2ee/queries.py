"""POST /keys/query: the keys of users and of their devices, with the signatures that the asker may see.

Spec: client-server-api#post_matrixclientv3keysquery
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.e2ee.ports import RemoteKeys
from homeserver.e2ee.remote_devices import RemoteDevices
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import DeviceId, ServerName, UserId, domain_of
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.store import cross_signing, device_keys
from homeserver.store.cross_signing import KeySignature
from homeserver.store.device_keys import DeviceKeysRow

# Device ids by user; none named means all.
Wanted = Mapping[UserId, Collection[DeviceId]]


@define
class QueriedKeys:
    """The answer's parts. cross_signing: usage -> user -> key object."""

    device_keys: dict[UserId, dict[DeviceId, dict[str, Any]]] = field(factory=dict)
    cross_signing: dict[str, dict[UserId, dict[str, Any]]] = field(factory=dict)
    failures: dict[ServerName, dict[str, Any]] = field(factory=dict)

    def to_json(self) -> dict[str, Any]:
        keys = {f"{usage}_keys": by_user for usage, by_user in self.cross_signing.items()}
        return {"device_keys": self.device_keys, "failures": self.failures, **keys}


@frozen
class StoredKeys:
    """What this server knows of some users."""

    devices: Sequence[DeviceKeysRow]
    cross_signing: Mapping[UserId, Mapping[str, bytes]]
    signatures: Sequence[KeySignature]


@define(eq=False)
class KeyQueries:
    server_name: ServerName
    database: Database
    remote: RemoteKeys
    remote_devices: RemoteDevices

    async def query(self, viewer: UserId, wanted: Wanted) -> QueriedKeys:
        """Of local users from the store, of others from the cache or from their servers."""
        found = QueriedKeys()
        known = {user_id for user_id in wanted if domain_of(user_id) == self.server_name}
        others = [user_id for user_id in wanted if user_id not in known]
        if others:
            cached = await self.remote_devices.load_known(others)
            known |= cached
            await self._fetch([user_id for user_id in others if user_id not in cached], wanted, found)
        stored = await self.database.read(load_stored_keys, known, viewer)
        add_stored(found, stored, {user_id: wanted[user_id] for user_id in known}, viewer)
        return found

    async def load_local(self, wanted: Wanted) -> QueriedKeys:
        """For another server: of local users only, with the signatures that are everybody's to see."""
        local = [user_id for user_id in wanted if domain_of(user_id) == self.server_name]
        stored = await self.database.read(load_stored_keys, local, "")
        found = QueriedKeys()
        add_stored(found, stored, {user_id: wanted[user_id] for user_id in local}, None)
        return found

    async def _fetch(self, user_ids: Iterable[UserId], wanted: Wanted, found: QueriedKeys) -> None:
        by_server: dict[ServerName, list[UserId]] = {}
        for user_id in user_ids:
            by_server.setdefault(domain_of(user_id), []).append(user_id)
        await gather([self._fetch_server(server, users, wanted, found) for server, users in by_server.items()])

    async def _fetch_server(
        self, server: ServerName, user_ids: list[UserId], wanted: Wanted, found: QueriedKeys
    ) -> None:
        try:
            answer = await self.remote.fetch_keys(server, user_ids)
        except MatrixError as error:
            found.failures[server] = error.to_json()
            return
        for user_id in user_ids:
            _add_remote(found, user_id, wanted[user_id], answer)


def load_stored_keys(conn: Connection, user_ids: Collection[UserId], viewer: str) -> StoredKeys:
    return StoredKeys(
        device_keys.load_device_keys(conn, user_ids),
        cross_signing.load_cross_signing_keys(conn, user_ids),
        cross_signing.load_signatures(conn, user_ids, viewer),
    )


def add_stored(found: QueriedKeys, stored: StoredKeys, wanted: Wanted, viewer: UserId | None) -> None:
    """Put stored keys with their signatures into an answer; user-signing keys are for their user alone."""
    signatures: dict[tuple[UserId, str], list[KeySignature]] = {}
    for signature in stored.signatures:
        signatures.setdefault((signature.user_id, signature.target), []).append(signature)
    for user_id in wanted:
        found.device_keys.setdefault(user_id, {})
    for row in stored.devices:
        if not wanted[row.user_id] or row.device_id in wanted[row.user_id]:
            keys = orjson.loads(row.json)
            _sign(keys, signatures.get((row.user_id, row.device_id), ()))
            if row.display_name is not None:
                keys["unsigned"] = {**keys.get("unsigned", {}), "device_display_name": row.display_name}
            found.device_keys[row.user_id][row.device_id] = keys
    for user_id, by_usage in stored.cross_signing.items():
        for usage, json in by_usage.items():
            if usage != cross_signing.USER_SIGNING or user_id == viewer:
                key = orjson.loads(json)
                _sign(key, signatures.get((user_id, public_key_of(key)), ()))
                found.cross_signing.setdefault(usage, {})[user_id] = key


def public_key_of(key: Mapping[str, Any]) -> str:
    """A cross-signing key object holds one key, named "ed25519:<itself>"."""
    return str(next(iter(key["keys"].values())))


def _sign(key: dict[str, Any], signatures: Iterable[KeySignature]) -> None:
    for signature in signatures:
        by_signer = key.setdefault("signatures", {}).setdefault(signature.signer_user_id, {})
        by_signer[signature.signer_key_id] = signature.signature


def _add_remote(
    found: QueriedKeys, user_id: UserId, device_ids: Collection[DeviceId], answer: Mapping[str, Any]
) -> None:
    """What a server says of one of its users; of what is not well-formed, nothing."""
    devices = _object(_object(answer.get("device_keys")).get(user_id))
    found.device_keys[user_id] = {
        DeviceId(device_id): keys
        for device_id, keys in devices.items()
        if isinstance(keys, dict)
        and keys.get("user_id") == user_id
        and keys.get("device_id") == device_id
        and (not device_ids or device_id in device_ids)
    }
    for usage in (cross_signing.MASTER, cross_signing.SELF_SIGNING):
        key = _object(answer.get(f"{usage}_keys")).get(user_id)
        if isinstance(key, dict) and key.get("user_id") == user_id and isinstance(key.get("keys"), dict):
            found.cross_signing.setdefault(usage, {})[user_id] = key


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
