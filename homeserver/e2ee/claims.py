"""POST /keys/claim: one-time keys, each handed out once.

A claimed key is marked by the commit that comes before the answer: a crash may lose a key, never hand it out twice.

Log rows made here, keyed by the owner of the keys: "one_time_keys" {device_ids}.

Spec: client-server-api#post_matrixclientv3keysclaim
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import orjson
from attrs import define
from sqlalchemy import Connection

from homeserver.e2ee.ports import RemoteKeys, bound_timeout, take_turns, wait_for_answer
from homeserver.e2ee.uploads import ONE_TIME_KEYS
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import DeviceId, ServerName, UserId, domain_of
from homeserver.runtime.clock import Clock
from homeserver.store import device_keys as store
from homeserver.store.device_keys import Claim, ClaimedKey
from homeserver.store.log_writer import LogItem, LogWriter

# User -> device -> algorithm.
Wanted = Mapping[UserId, Mapping[DeviceId, str]]
# User -> device -> name of the key -> key; those of local users are JSON (orjson.Fragment).
Claimed = dict[UserId, dict[DeviceId, dict[str, Any]]]


@define(eq=False)
class KeyClaims:
    server_name: ServerName
    log_writer: LogWriter
    remote: RemoteKeys
    clock: Clock

    async def claim(
        self, wanted: Wanted, timeout_ms: int | None = None
    ) -> tuple[Claimed, dict[ServerName, dict[str, Any]]]:
        """The keys that could be had, and the servers that could not be asked, or did not answer in that time.

        A key that another server hands out after that is used by nobody: its owner, there, has one less. Nobody else loses
        anything.
        """
        failures: dict[ServerName, dict[str, Any]] = {}
        found = await self.claim_local(wanted)
        until_ms = self.clock.monotonic_ms() + bound_timeout(timeout_ms)
        by_server: dict[ServerName, dict[UserId, Mapping[DeviceId, str]]] = {}
        for user_id, devices in wanted.items():
            if domain_of(user_id) != self.server_name:
                by_server.setdefault(domain_of(user_id), {})[user_id] = devices
        if by_server:
            await take_turns(self.clock).gather(
                partial(self._fetch, server, users, until_ms, found, failures) for server, users in by_server.items()
            )
        return found, failures

    async def claim_local(self, wanted: Wanted) -> Claimed:
        """Of the local users among them."""
        claims = [
            Claim(user_id, device_id, algorithm)
            for user_id, devices in wanted.items()
            if domain_of(user_id) == self.server_name
            for device_id, algorithm in devices.items()
        ]
        if not claims:
            return {}
        taken: dict[Claim, ClaimedKey] = {}

        def save(conn: Connection, _position: int) -> None:
            taken.clear()  # a batch that failed is tried again
            taken.update(store.claim_keys(conn, claims))

        rows = _rows(claims)
        (_, first, data), *also = rows
        await self.log_writer.submit(LogItem(ONE_TIME_KEYS, first, data, save, also))
        found: Claimed = {}
        for claim, key in taken.items():
            found.setdefault(claim.user_id, {})[claim.device_id] = {key.name: orjson.Fragment(key.json)}
        return found

    async def _fetch(
        self,
        server: ServerName,
        wanted: Wanted,
        until_ms: int,
        found: Claimed,
        failures: dict[ServerName, dict[str, Any]],
    ) -> None:
        try:
            answer = await wait_for_answer(self.clock, server, until_ms, lambda: self.remote.claim_keys(server, wanted))
        except MatrixError as error:
            failures[server] = error.to_json()
            return
        keys = answer.get("one_time_keys")
        for user_id, devices in wanted.items():
            given = keys.get(user_id) if isinstance(keys, dict) else None
            for device_id in devices:
                key = given.get(device_id) if isinstance(given, dict) else None
                if isinstance(key, dict):
                    found.setdefault(user_id, {})[device_id] = key


def _rows(claims: list[Claim]) -> list[tuple[str, str, dict[str, Any]]]:
    """A log row for each of the users."""
    devices: dict[UserId, list[DeviceId]] = {}
    for claim in claims:
        devices.setdefault(claim.user_id, []).append(claim.device_id)
    return [(ONE_TIME_KEYS, user_id, {"device_ids": ids}) for user_id, ids in devices.items()]
