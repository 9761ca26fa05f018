"""Devices of users elsewhere: a cache that is exact for as long as their servers tell us of changes.

A list is good from the moment it was fetched whole, while we share a room with the user (so that changes are sent to us)
and the chain of updates has no gap. A gap marks it stale, and a stale list is fetched again before it is used. That of a
user who leaves is forgotten if no shared room is left; also if by the time of looking the user is back.

Log rows made here, keyed by the remote user: "device_list" {device_ids}.

Spec: server-server-api#device-management
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeGuard

from attrs import define, evolve, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from homeserver.e2ee.limits import MAX_DEVICE_KEYS_BYTES
from homeserver.e2ee.ports import NoAnswerInTime, RemoteKeys, wait_for_answer
from homeserver.e2ee.signatures import has_good_signatures
from homeserver.e2ee.uploads import DEVICE_LIST
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.matrix.ids import DeviceId, ServerName, UserId, is_user_of, parse_device_id
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.runtime.turns import Turns
from homeserver.store import device_lists, remote_devices
from homeserver.store.cross_signing import MASTER, SELF_SIGNING, save_cross_signing_key
from homeserver.store.device_keys import save_device_keys
from homeserver.store.device_lists import RemoteDeviceList, load_remote_lists, save_device_list_change
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter

logger = logging.getLogger(__name__)

MAX_DEVICES = 5_000  # of one user
MAX_STREAM_ID = 2**63 - 1
MAX_FETCHED_AT_ONCE = 50  # of one server
_GONE = frozenset({"leave", "ban"})


class BadDeviceList(MatrixError):
    """A server's answer about its user is no device list."""

    status = 502


@define(eq=False)
class _Fetch:
    """A list is being fetched. newest: of the updates that came meanwhile, which the answer may not know of."""

    newest: int = -1
    waiting: list[Deferred[None]] = field(factory=list)


@define(eq=False)
class RemoteDevices:
    server_name: ServerName
    database: Database
    log_writer: LogWriter
    remote: RemoteKeys
    clock: Clock
    background: Background
    _fetching: dict[UserId, _Fetch] = field(factory=dict, init=False)
    _turns: Turns[UserId] = field(factory=Turns, init=False)
    _left: set[UserId] = field(factory=set, init=False)  # whose last shared room may be gone
    _swept: set[UserId] = field(factory=set, init=False)  # those whom the sweep under way looks at
    _returned: set[UserId] = field(factory=set, init=False)  # of both, who joined again: a sweep may see only that
    _is_sweeping: bool = field(default=False, init=False)

    async def start(self) -> None:
        """Lists may have gone out of date between the last leave and the last stop."""
        await self.database.run(remote_devices.delete_unshared_lists, self.server_name, ())

    async def load_known(self, user_ids: Collection[UserId]) -> tuple[set[UserId], set[UserId]]:
        """Of the users whom we share a room with: those whose keys in the store are exact, and those to be fetched."""
        doubtful = self._left | self._swept
        known, sharing = await self.database.read(_load_lists, user_ids, self.server_name)
        exact = {user_id for user_id in sharing if user_id in known and not known[user_id].is_stale}
        exact -= doubtful | self._left | self._swept
        return exact, sharing - exact

    async def fetch(self, server: ServerName, user_ids: Sequence[UserId], until_ms: int) -> set[UserId]:
        """Those of a server's users whose keys in the store are exact then. A fetch that is not done by `until_ms` on the
        monotonic clock goes on: others may wait for it, and what comes of it is there for the next query.
        """
        # Each takes a request: those beyond are asked for together, and fetched by queries to come.
        fetched = user_ids[:MAX_FETCHED_AT_ONCE]
        outcomes = await gather([self._fetch_until(server, user_id, until_ms) for user_id in fetched])
        return {user_id for user_id, done in zip(fetched, outcomes, strict=True) if done}

    async def receive_update(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """An m.device_list_update EDU; one that is not well-formed or not the origin's to send is passed over.

        Spec: server-server-api#definition-mdevice_list_update
        """
        user_id, device_id, stream_id = content.get("user_id"), content.get("device_id"), content.get("stream_id")
        if not is_user_of(user_id, origin) or not _is_device_id(device_id) or not _is_stream_id(stream_id):
            return
        user, stream = UserId(str(user_id)), int(str(stream_id))
        if user in self._fetching:
            self._fetching[user].newest = max(stream, self._fetching[user].newest)
        async with self._turns.take(user):
            known, sharing = await self.database.read(_load_lists, [user], self.server_name)
            if user not in sharing:
                return
            list_ = known.get(user)
            if list_ is None or list_.is_stale or not _follows(content.get("prev_id"), list_):
                await self._mark_stale(user, list_)
            elif stream >= list_.stream_id:  # else the list as it was fetched has it
                await self._apply(RemoteDeviceList(user, stream, is_stale=False), DeviceId(str(device_id)), content)

    async def receive_signing_keys(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """An m.signing_key_update EDU. Where the user's list is not known, whoever asks for it gets the keys with it.

        Spec: server-server-api#definition-msigning_key_update
        """
        user_id = content.get("user_id")
        if not is_user_of(user_id, origin):
            return
        user = UserId(str(user_id))
        keys = _signing_keys(user, content)
        if not keys:
            return

        def save(conn: Connection, position: int) -> None:
            for usage, json in keys.items():
                save_cross_signing_key(conn, user, usage, json)
            save_device_list_change(conn, user, position)

        if user in self._fetching:
            self._fetching[user].newest = MAX_STREAM_ID
        async with self._turns.take(user):
            known, sharing = await self.database.read(_load_lists, [user], self.server_name)
            if user not in sharing:
                return
            if user not in known or known[user].is_stale:
                await self._mark_stale(user, known.get(user))
            else:
                await self.log_writer.submit(LogItem(DEVICE_LIST, user, {"device_ids": [], "signing_keys": True}, save))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow memberships: where the last shared room may have gone, so may the truth of lists."""
        for row in rows:
            if row.membership is not None:
                self._note_membership(row.membership.user_id, row.membership.membership)
        if self._left and not self._is_sweeping:
            self._is_sweeping = True
            self.background.run(self._sweep(), "Old device lists could not be forgotten")

    def _note_membership(self, user_id: UserId, membership: str) -> None:
        if membership in _GONE:
            self._left.add(user_id)
            if user_id in self._fetching:
                self._fetching[user_id].newest = MAX_STREAM_ID
        elif membership == "join" and (user_id in self._left or user_id in self._swept):
            self._returned.add(user_id)

    async def _sweep(self) -> None:
        try:
            while self._left or self._returned:
                returned, self._returned = self._returned, set()
                self._swept, self._left = self._left | returned, set()
                await self.database.run(remote_devices.delete_unshared_lists, self.server_name, returned)
                self._swept = set()
        finally:  # where the database was away, all that is swept still is to be
            self._left |= self._swept
            self._returned |= self._swept
            self._swept = set()
            self._is_sweeping = False

    async def _fetch_until(self, server: ServerName, user_id: UserId, until_ms: int) -> bool:
        try:
            return await wait_for_answer(self.clock, server, until_ms, lambda: self._fetch(user_id))
        except NoAnswerInTime:
            return False

    async def _fetch(self, user_id: UserId) -> bool:
        """Fetch a user's list, once for all who want it now; whether it is known then. Not to be cancelled."""
        fetch = self._fetching.get(user_id)
        if fetch is not None:
            done: Deferred[None] = Deferred()
            fetch.waiting.append(done)
            await done
            known = await self.database.read(load_remote_lists, [user_id])
            return user_id in known and not known[user_id].is_stale
        fetch = self._fetching[user_id] = _Fetch()
        try:
            answer = await self.remote.fetch_devices(user_id)
            async with self._turns.take(user_id):
                await self._replace(user_id, answer, fetch)
        except MatrixError as error:
            logger.info("The devices of %s could not be fetched: %s", user_id, error.error)
            return False
        finally:
            del self._fetching[user_id]
            for done in fetch.waiting:
                done.callback(None)
        return True

    async def _replace(self, user_id: UserId, answer: Mapping[str, Any], fetch: _Fetch) -> None:
        """Raises: BadDeviceList."""
        stream_id, given = answer.get("stream_id"), answer.get("devices")
        if not _is_stream_id(stream_id) or not isinstance(given, list) or len(given) > MAX_DEVICES:
            raise BadDeviceList(f"The answer about the devices of {user_id} is not well-formed")
        devices = dict(filter(None, (_device(user_id, device) for device in given)))
        known = RemoteDeviceList(user_id, int(str(stream_id)), is_stale=fetch.newest > int(str(stream_id)))

        def save(conn: Connection, position: int) -> None:
            is_sharing = remote_devices.load_sharing(conn, [user_id], self.server_name)
            list_ = known if is_sharing else evolve(known, is_stale=True)
            remote_devices.replace_devices(conn, list_, devices, _signing_keys(user_id, answer))
            save_device_list_change(conn, user_id, position)

        await self.log_writer.submit(
            LogItem(DEVICE_LIST, user_id, {"device_ids": list(devices), "signing_keys": True}, save)
        )

    async def _mark_stale(self, user_id: UserId, known: RemoteDeviceList | None) -> None:
        stale = RemoteDeviceList(user_id, known.stream_id if known is not None else 0, is_stale=True)

        def save(conn: Connection, position: int) -> None:
            device_lists.save_remote_list(conn, stale)
            save_device_list_change(conn, user_id, position)

        await self.log_writer.submit(LogItem(DEVICE_LIST, user_id, {"device_ids": [], "signing_keys": True}, save))

    async def _apply(self, known: RemoteDeviceList, device_id: DeviceId, content: Mapping[str, Any]) -> None:
        device = _device(known.user_id, content)

        def save(conn: Connection, position: int) -> None:
            if content.get("deleted") is True or device is None:
                remote_devices.delete_remote_devices(conn, known.user_id, [device_id])
            elif remote_devices.count_devices(conn, known.user_id) < MAX_DEVICES:
                save_device_keys(conn, known.user_id, device_id, device[1])
            device_lists.save_remote_list(conn, known)
            save_device_list_change(conn, known.user_id, position)

        await self.log_writer.submit(LogItem(DEVICE_LIST, known.user_id, {"device_ids": [device_id]}, save))


def _load_lists(
    conn: Connection, user_ids: Collection[UserId], server_name: ServerName
) -> tuple[dict[UserId, RemoteDeviceList], set[UserId]]:
    return load_remote_lists(conn, user_ids), remote_devices.load_sharing(conn, user_ids, server_name)


def _is_device_id(value: object) -> bool:
    """One by which clients can claim keys, too."""
    try:
        return isinstance(value, str) and bool(parse_device_id(value))
    except InvalidParam:
        return False


def _is_stream_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_STREAM_ID


def _follows(prev_ids: object, known: RemoteDeviceList) -> bool:
    """The update builds on something that we have seen, and on nothing that we have not.

    One that builds on nothing is the first of its server's; whether it is the first of the user's nobody can tell.
    """
    return (
        isinstance(prev_ids, list)
        and bool(prev_ids)
        and all(_is_stream_id(prev) and prev <= known.stream_id for prev in prev_ids)
    )


def _device(user_id: UserId, device: object) -> tuple[DeviceId, bytes] | None:
    """A device's id and keys (with its name in `unsigned`); None without keys, or with somebody else's."""
    if not isinstance(device, dict) or not isinstance(device.get("keys"), dict):
        return None
    device_id, keys, name = device.get("device_id"), device["keys"], device.get("device_display_name")
    if not is_device_key(keys, user_id, device_id):
        return None
    unsigned = {"unsigned": {"device_display_name": name}} if isinstance(name, str) else {}
    encoded = encode_json({**{k: v for k, v in keys.items() if k != "unsigned"}, **unsigned})
    return (DeviceId(str(device_id)), encoded) if len(encoded) <= MAX_DEVICE_KEYS_BYTES else None


def _signing_keys(user_id: UserId, answer: Mapping[str, Any]) -> dict[str, bytes]:
    found = {}
    for usage in (MASTER, SELF_SIGNING):
        key = answer.get(f"{usage}_key")
        if is_signing_key(key, user_id):
            encoded = encode_json(key)
            if len(encoded) <= MAX_DEVICE_KEYS_BYTES:
                found[usage] = encoded
    return found


def is_device_key(keys: object, user_id: UserId, device_id: object) -> TypeGuard[dict[str, Any]]:
    """These are identity keys of that user's device, as another server may tell of them."""
    if not isinstance(keys, dict) or keys.get("user_id") != user_id or keys.get("device_id") != device_id:
        return False
    return _is_device_id(device_id) and has_good_signatures(keys)


def is_signing_key(key: object, user_id: UserId) -> TypeGuard[dict[str, Any]]:
    """It is one of that user's cross-signing keys, as another server may tell of it."""
    if not isinstance(key, dict) or key.get("user_id") != user_id or not isinstance(key.get("keys"), dict):
        return False
    return len(key["keys"]) == 1 and has_good_signatures(key)
