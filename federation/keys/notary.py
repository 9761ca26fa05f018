"""Telling others the keys of third servers, signed by us.

Answers come from what this server keeps anyway, or from a fetch; what is fetched only because somebody asked is kept in a small
memory, not in the database, so that asking for many names fills nothing. How many fetches an asker may cause is limited.

Spec: server-server-api#querying-keys-through-another-server
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Protocol

from attrs import define, field, frozen

from federation.allowed import AllowedServers
from federation.bounded import Bounded
from federation.keys.documents import KeyDocument
from federation.keys.key_ring import KeyRing
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import LimitExceeded
from homeserver.matrix.ids import ServerName, is_server_name
from homeserver.matrix.signing import sign_json
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.store.server_keys import load_key_documents

DOCUMENTS_KEPT: Final = 1_000
MAX_SERVERS: Final = 250


class Limiter(Protocol):
    def check(self, kind: str, key: str, cost: float = 1.0) -> None: ...


@frozen
class Asked:
    """What is wanted of a server's keys: valid until a time (None: now), and these among them."""

    until_ts_ms: int | None = None
    key_ids: Collection[str] = ()


@define(eq=False)
class Notary:
    ring: KeyRing
    database: Database
    clock: Clock
    allowed: AllowedServers
    limiter: Limiter
    _kept: Bounded[str, KeyDocument] = field(init=False, factory=lambda: Bounded(DOCUMENTS_KEPT))

    async def load_documents(self, wanted: Mapping[Any, Asked], asker: str) -> list[dict[str, Any]]:
        """A document, signed by its server and by us, for each server that one is known of or can be had.

        A server that can't be reached is answered for with what is known. Raises: LimitExceeded, when the asker has caused too
        many fetches and nothing is known.
        """
        now_ms = self.clock.time_ms()
        names = {ServerName(name): asked for name, asked in wanted.items() if is_server_name(name)}
        documents = await self._load_known(list(names))
        missing = [
            server
            for server, asked in names.items()
            if server != self.ring.own.server_name and not _has(documents.get(server, _NOTHING), asked, now_ms)
        ]
        fetches, refused = [], None
        for server in missing:
            if not self.allowed.is_allowed(server):
                continue
            try:
                self.limiter.check("server_keys", asker)
            except LimitExceeded as error:
                refused = error
                break
            fetches.append(self._fetch(server))
        for document in await gather(fetches):
            if document is not None:
                documents[document.server] = (document.valid_until_ts_ms, document.json)
        if refused is not None and not documents:
            raise refused
        return [self._sign(json) for _, json in documents.values()]

    async def _load_known(self, servers: list[ServerName]) -> dict[str, tuple[int, dict[str, Any]]]:
        known: dict[str, tuple[int, dict[str, Any]]] = {}
        for row in await self.database.read(load_key_documents, servers):
            known[row.server] = (row.valid_until_ts_ms, decode_json(row.document))
        for server in servers:
            kept = self._kept.get(server)
            if kept is not None and kept.valid_until_ts_ms > known.get(server, _NOTHING)[0]:
                known[server] = (kept.valid_until_ts_ms, kept.json)
        own = self.ring.own
        if own.server_name in servers:
            document = own.document()
            known[own.server_name] = (document["valid_until_ts"], document)
        return known

    async def _fetch(self, server: ServerName) -> KeyDocument | None:
        document = await self.ring.fetch_document(server)
        if document is not None:
            self._kept.put(server, document)
        return document

    def _sign(self, json: dict[str, Any]) -> dict[str, Any]:
        own = self.ring.own
        return json if json["server_name"] == own.server_name else sign_json(json, own.server_name, own.signing_key)


_NOTHING: tuple[int, dict[str, Any]] = (-1, {})


def _has(known: tuple[int, dict[str, Any]], asked: Asked, now_ms: int) -> bool:
    """The document is good for long enough and has the keys: one that its server made since it was fetched is not there."""
    valid_until_ts_ms, document = known
    if valid_until_ts_ms < (asked.until_ts_ms or now_ms):
        return False
    told = {*document.get("verify_keys", ()), *document.get("old_verify_keys", ())}
    return told.issuperset(asked.key_ids)
