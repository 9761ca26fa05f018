"""GET /sync.

Spec: client-server-api#syncing
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.canonical import decode_json
from homeserver.matrix.errors import InvalidParam, MatrixError, NotFound
from homeserver.matrix.filters import EMPTY_FILTER, Filter, parse_filter
from homeserver.matrix.ids import UserId
from homeserver.presence.presence import Presence
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.sync.ports import FilterSource
from homeserver.sync.request import StateKind, SyncRequest
from homeserver.sync.service import SyncService
from homeserver.sync.tokens import parse_sync_token

TAG = "Room participation"
MAX_TIMEOUT_MS = 10 * 60 * 1000
MAX_INLINE_FILTERS = 500
MAX_CACHED_CHARS = 4096


class SyncQuery(msgspec.Struct):
    filter: str = ""
    since: str = ""
    full_state: bool = False
    set_presence: Literal["offline", "online", "unavailable"] = "online"
    timeout: int = 0
    use_state_after: bool = False
    unstable_use_state_after: bool = msgspec.field(name="org.matrix.msc4222.use_state_after", default=False)

    @property
    def state_kind(self) -> StateKind:
        if self.use_state_after:
            return StateKind.AFTER
        return StateKind.UNSTABLE_AFTER if self.unstable_use_state_after else StateKind.BEFORE


class InlineFilters:
    """Filters that stand in the request itself, compiled once for as long as they are used."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[str, Filter] = OrderedDict()

    def get(self, text: str) -> Filter:
        """Raises: InvalidParam."""
        known = self._compiled.get(text)
        if known is not None:
            self._compiled.move_to_end(text)
            return known
        try:
            compiled = parse_filter(decode_json(text.encode("utf-8", "surrogatepass")))
        except MatrixError as error:
            raise InvalidParam("filter", error.error) from None
        if len(text) <= MAX_CACHED_CHARS:
            self._compiled[text] = compiled
            if len(self._compiled) > MAX_INLINE_FILTERS:
                self._compiled.popitem(last=False)
        return compiled


class RequestParser:
    """From a query to a SyncRequest; shared by all that syncs."""

    def __init__(self, filters: FilterSource) -> None:
        self._filters = filters
        self._inline = InlineFilters()

    async def parse(self, requester: Requester, query: SyncQuery) -> SyncRequest:
        """Raises: InvalidParam."""
        filter = self._get_filter(requester.user_id, query.filter)
        if filter is None:
            filter = await self._load_filter(requester.user_id, query.filter)
        return SyncRequest(
            requester.user_id,
            requester.device_id,
            filter,
            parse_sync_token(query.since) if query.since else None,
            max(0, min(query.timeout, MAX_TIMEOUT_MS)),
            query.full_state,
            query.state_kind,
        )

    def _get_filter(self, user_id: UserId, text: str) -> Filter | None:
        if not text:
            return EMPTY_FILTER
        return self._inline.get(text) if text.startswith("{") else self._filters.get(user_id, text)

    async def _load_filter(self, user_id: UserId, filter_id: str) -> Filter:
        try:
            return await self._filters.load(user_id, filter_id)
        except NotFound as error:
            raise InvalidParam("filter", error.error) from None


class SyncEndpoint:
    """`presence` is None on a server that keeps none."""

    def __init__(self, service: SyncService, parser: RequestParser, presence: Presence | None = None) -> None:
        self._service = service
        self._parser = parser
        self._presence = presence

    @endpoint(
        "GET",
        "/_matrix/client/v3/sync",
        auth=Auth.GUEST_OK,
        tag=TAG,
        long_poll=True,
        spec="client-server-api#get_matrixclientv3sync",
    )
    async def get_sync(self, requester: Requester, query: SyncQuery) -> RawJson:
        request = await self._parser.parse(requester, query)
        state = query.set_presence
        del query  # a poll may wait for long: it keeps nothing that it doesn't need
        if self._presence is None:
            return RawJson(await self._service.sync(request))
        self._presence.begin_sync(request.user_id, request.device_id or "", state)
        try:
            return RawJson(await self._service.sync(request))
        finally:
            self._presence.end_sync(request.user_id, request.device_id or "", state)
