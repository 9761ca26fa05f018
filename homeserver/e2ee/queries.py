"""POST /keys/query: the keys of users and of their devices, with the signatures that the asker may see.

Spec: client-server-api#post_matrixclientv3keysquery
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from attrs import define, field, frozen
from sqlalchemy import Connection

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.e2ee.ports import RemoteKeys, bound_timeout, take_turns, wait_for_answer
from homeserver.e2ee.remote_devices import RemoteDevices, is_device_key, is_signing_key
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import DeviceId, ServerName, UserId, domain_of
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import cross_signing, device_keys
from homeserver.store.cross_signing import KeySignature
from homeserver.store.log import LogRow

MAX_USERS = 10_000
_USER_KINDS = frozenset({"device_list", "device", "user"})
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
class UserKeys:
    """What everybody may see of a user's keys, signed by the user. cross_signing: usage -> key object."""

    devices: Mapping[DeviceId, dict[str, Any]]
    cross_signing: Mapping[str, dict[str, Any]]


# What somebody signed of others' keys: (owner, key) -> signatures.
OwnSignatures = Mapping[tuple[UserId, str], Sequence[KeySignature]]
_NO_SIGNATURES: OwnSignatures = {}


@define(eq=False)
class KeyQueries:
    """Follows the log: keys that are asked for often are answered from memory."""

    server_name: ServerName
    database: Database
    remote: RemoteKeys
    remote_devices: RemoteDevices
    clock: Clock
    _users: FoldedCache[UserId, UserKeys] = field(factory=lambda: FoldedCache(MAX_USERS), init=False)
    _signed: FoldedCache[UserId, OwnSignatures] = field(factory=lambda: FoldedCache(MAX_USERS), init=False)

    async def query(self, viewer: UserId, wanted: Wanted, timeout_ms: int | None = None) -> QueriedKeys:
        """Of local users from the store, of others from the cache or from their servers, for which it waits so long."""
        found = QueriedKeys()
        known = {user_id for user_id in wanted if domain_of(user_id) == self.server_name}
        others = [user_id for user_id in wanted if user_id not in known]
        if others:
            exact, to_fetch = await self.remote_devices.load_known(others)
            asking = _Asking(wanted, to_fetch, self.clock.monotonic_ms() + bound_timeout(timeout_ms), found)
            known |= exact | await self._fetch([user_id for user_id in others if user_id not in exact], asking)
        keys = await self._load_users(known)
        signed = await self._load_signed(viewer)
        for user_id, of_user in keys.items():
            _add(found, user_id, of_user, wanted[user_id], signed, is_own=user_id == viewer)
        return found

    async def load_local(self, wanted: Wanted) -> QueriedKeys:
        """For another server: of local users only, with the signatures that are everybody's to see."""
        local = [user_id for user_id in wanted if domain_of(user_id) == self.server_name]
        return _shown_to_all(await self._load_users(local), wanted)

    async def load_stored(self, user_id: UserId) -> QueriedKeys:
        """As load_local, of one user, and never older than what was read of the database before."""
        return _shown_to_all(await self.database.read(_load_users, [user_id]), {user_id: []})

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind in _USER_KINDS:
                self._users.drop(UserId(row.key))
            elif row.kind == "signatures":
                self._signed.drop(UserId(row.key))

    async def _load_users(self, user_ids: Collection[UserId]) -> dict[UserId, UserKeys]:
        found = {user_id: known for user_id in user_ids if (known := self._users.get(user_id)) is not None}
        missing = [user_id for user_id in user_ids if user_id not in found]
        if missing:
            version = self._users.version
            loaded = await self.database.read(_load_users, missing)
            for user_id, keys in loaded.items():
                self._users.put(user_id, keys, version)
            found |= loaded
        return found

    async def _load_signed(self, viewer: UserId) -> OwnSignatures:
        known = self._signed.get(viewer)
        if known is None:
            version = self._signed.version
            known = await self.database.read(_load_signed, viewer)
            self._signed.put(viewer, known, version)
        return known

    async def _fetch(self, user_ids: Iterable[UserId], asking: _Asking) -> set[UserId]:
        """Those of the users whose keys are in the store then; those of others are in what was found."""
        by_server: dict[ServerName, list[UserId]] = {}
        for user_id in user_ids:
            by_server.setdefault(domain_of(user_id), []).append(user_id)
        turns = take_turns(self.clock)
        known = await turns.gather(partial(self._fetch_server, *of_server, asking) for of_server in by_server.items())
        return set().union(*known)

    async def _fetch_server(self, server: ServerName, user_ids: list[UserId], asking: _Asking) -> set[UserId]:
        to_fetch = [user_id for user_id in user_ids if user_id in asking.to_fetch]
        fetched = await self.remote_devices.fetch(server, to_fetch, asking.until_ms) if to_fetch else set()
        others = [user_id for user_id in user_ids if user_id not in fetched]
        if not others:
            return fetched
        try:
            answer = await wait_for_answer(
                self.clock, server, asking.until_ms, lambda: self.remote.fetch_keys(server, others)
            )
        except MatrixError as error:
            asking.found.failures[server] = error.to_json()
            return fetched
        for user_id in others:
            _add_remote(asking.found, user_id, asking.wanted[user_id], answer)
        return fetched


@frozen
class _Asking:
    """What is asked of other servers, until `until_ms` on the monotonic clock. to_fetch: users whose lists are to be kept."""

    wanted: Wanted
    to_fetch: Collection[UserId]
    until_ms: int
    found: QueriedKeys


def _load_users(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, UserKeys]:
    signatures: dict[tuple[UserId, str], list[KeySignature]] = {}
    for signature in cross_signing.load_own_signatures(conn, user_ids):
        signatures.setdefault((signature.user_id, signature.target), []).append(signature)
    devices: dict[UserId, dict[DeviceId, dict[str, Any]]] = {user_id: {} for user_id in user_ids}
    for row in device_keys.load_device_keys(conn, user_ids):
        keys = _signed(orjson.loads(row.json), signatures.get((row.user_id, row.device_id), ()))
        if row.display_name is not None:
            keys["unsigned"] = {**keys.get("unsigned", {}), "device_display_name": row.display_name}
        devices[row.user_id][row.device_id] = keys
    found = cross_signing.load_cross_signing_keys(conn, user_ids)
    signing: dict[UserId, dict[str, dict[str, Any]]] = {user_id: {} for user_id in user_ids}
    for user_id, by_usage in found.items():
        for usage, json in by_usage.items():
            key = orjson.loads(json)
            signing[user_id][usage] = _signed(key, signatures.get((user_id, public_key_of(key)), ()))
    return {user_id: UserKeys(devices[user_id], signing[user_id]) for user_id in user_ids}


def _load_signed(conn: Connection, viewer: UserId) -> OwnSignatures:
    found: dict[tuple[UserId, str], list[KeySignature]] = {}
    for signature in cross_signing.load_signatures_by(conn, viewer):
        found.setdefault((signature.user_id, signature.target), []).append(signature)
    return found


def _shown_to_all(keys: Mapping[UserId, UserKeys], wanted: Wanted) -> QueriedKeys:
    found = QueriedKeys()
    for user_id, of_user in keys.items():
        _add(found, user_id, of_user, wanted[user_id], _NO_SIGNATURES, is_own=False)
    return found


def _add(
    found: QueriedKeys,
    user_id: UserId,
    keys: UserKeys,
    device_ids: Collection[DeviceId],
    signed: OwnSignatures,
    *,
    is_own: bool,
) -> None:
    """Put a user's keys into an answer; the user-signing key is for its user alone."""
    found.device_keys[user_id] = {
        device_id: device for device_id, device in keys.devices.items() if not device_ids or device_id in device_ids
    }
    for usage, key in keys.cross_signing.items():
        if usage != cross_signing.USER_SIGNING or is_own:
            by_viewer = signed.get((user_id, public_key_of(key)), ())
            found.cross_signing.setdefault(usage, {})[user_id] = _signed(key, by_viewer) if by_viewer else key


def public_key_of(key: Mapping[str, Any]) -> str:
    """A cross-signing key object holds one key, named "ed25519:<itself>"."""
    return str(next(iter(key["keys"].values())))


def _signed(key: Mapping[str, Any], signatures: Iterable[KeySignature]) -> dict[str, Any]:
    """The key with more signatures; what is in memory stays as it is."""
    by_user = {user: dict(by_key) for user, by_key in key.get("signatures", {}).items()}
    for signature in signatures:
        by_user.setdefault(signature.signer_user_id, {})[signature.signer_key_id] = signature.signature
    return {**key, "signatures": by_user} if by_user else dict(key)


def _add_remote(
    found: QueriedKeys, user_id: UserId, device_ids: Collection[DeviceId], answer: Mapping[str, Any]
) -> None:
    """What a server says of one of its users; of what is not well-formed, nothing."""
    devices = _object(_object(answer.get("device_keys")).get(user_id))
    found.device_keys[user_id] = {
        DeviceId(device_id): keys
        for device_id, keys in devices.items()
        if is_device_key(keys, user_id, device_id) and (not device_ids or device_id in device_ids)
    }
    for usage in (cross_signing.MASTER, cross_signing.SELF_SIGNING):
        key = _object(answer.get(f"{usage}_keys")).get(user_id)
        if is_signing_key(key, user_id):
            found.cross_signing.setdefault(usage, {})[user_id] = key


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
