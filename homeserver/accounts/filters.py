"""Stored filters, compiled once.

The id is a hash of the definition, so an id never changes its meaning and the cache needs no log; and all users of a
client application, who have the same filter, share one.

Spec: client-server-api#filtering
"""

from __future__ import annotations

import base64
from collections import OrderedDict
from hashlib import blake2b
from typing import Any
from weakref import WeakValueDictionary

import orjson
from attrs import define, field

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import NotFound, TooLarge
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.ids import UserId
from homeserver.runtime.db import Database
from homeserver.store import filters as store

MAX_FILTER_BYTES = 64 * 1024
MAX_FILTER_ID_CHARS = 64
# Larger ones are read each time, so that the cache is bounded in bytes too.
MAX_CACHED_FILTER_BYTES = 4 * 1024
MAX_CACHED_FILTERS = 5_000


@define(eq=False)
class Filters:
    database: Database
    _cache: OrderedDict[tuple[UserId, str], Filter] = field(factory=OrderedDict, init=False)
    # PERF(7 KiB for each waiting client after the first)
    _by_id: WeakValueDictionary[str, Filter] = field(factory=WeakValueDictionary, init=False)

    async def save(self, user_id: UserId, definition: dict[str, Any]) -> str:
        """The id of a new (or equal, older) filter.

        Raises: BadJson, InvalidParam, TooLarge.
        """
        compiled = parse_filter(definition)
        encoded = canonical_json(definition)
        if len(encoded) > MAX_FILTER_BYTES:
            raise TooLarge(f"A filter is at most {MAX_FILTER_BYTES} bytes")
        filter_id = base64.urlsafe_b64encode(blake2b(encoded, digest_size=12).digest()).decode()
        if (user_id, filter_id) not in self._cache:
            await self.database.run(store.save_filter, user_id, filter_id, encoded)
            self._remember(user_id, filter_id, compiled, len(encoded))
        return filter_id

    def get(self, user_id: UserId, filter_id: str) -> Filter | None:
        """A filter if memory has it."""
        return self._cache.get((user_id, filter_id))

    async def load(self, user_id: UserId, filter_id: str) -> Filter:
        """Raises: NotFound."""
        known = self.get(user_id, filter_id)
        if known is not None:
            return known
        encoded = await self._read(user_id, filter_id)
        compiled = self._by_id.get(filter_id) or parse_filter(orjson.loads(encoded))
        self._remember(user_id, filter_id, compiled, len(encoded))
        return compiled

    async def load_definition(self, user_id: UserId, filter_id: str) -> dict[str, Any]:
        """As it was saved, with the fields that we do not know.

        Raises: NotFound.
        """
        definition: dict[str, Any] = orjson.loads(await self._read(user_id, filter_id))
        return definition

    async def _read(self, user_id: UserId, filter_id: str) -> bytes:
        encoded = None
        if len(filter_id) <= MAX_FILTER_ID_CHARS and "\0" not in filter_id:
            encoded = await self.database.read(store.load_filter, user_id, filter_id)
        if encoded is None:
            raise NotFound("No such filter")
        return encoded

    def _remember(self, user_id: UserId, filter_id: str, compiled: Filter, size_bytes: int) -> None:
        if size_bytes > MAX_CACHED_FILTER_BYTES:
            return
        self._cache[user_id, filter_id] = self._by_id.setdefault(filter_id, compiled)
        if len(self._cache) > MAX_CACHED_FILTERS:
            self._cache.popitem(last=False)
