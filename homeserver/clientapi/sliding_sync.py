"""Simplified sliding sync, on the unstable path that clients use and on the stable one of MSC4186."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Any

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.clientapi.keys import device_of
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import UserId
from homeserver.presence.presence import Presence
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson
from homeserver.sync.sliding.request import (
    MAX_NAME_LENGTH,
    MAX_TIMEOUT_MS,
    Parser,
    Shape,
    SlidingRequest,
    Wanted,
)
from homeserver.sync.sliding.service import SlidingSync

TAG = "Room participation"
MAX_WANTED = 1_000
MAX_WANTED_BYTES = 4 * 1024  # as JSON; what asks for more is parsed each time
STATES = ("online", "offline", "unavailable")


class SlidingQuery(msgspec.Struct):
    pos: str = ""
    timeout: int = 0
    set_presence: str = "online"


class SlidingSyncEndpoints:
    """`presence` is None on a server that keeps none."""

    def __init__(self, service: SlidingSync, presence: Presence | None) -> None:
        self._service = service
        self._presence = presence
        # PERF(a twentieth of the CPU of an empty request): clients ask for the same again and again.
        self._wanted: OrderedDict[tuple[UserId, Shape, bytes], Wanted] = OrderedDict()

    @endpoint(
        "POST",
        "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync",
        auth=Auth.USER,
        tag=TAG,
        long_poll=True,
        cancellable=True,
        optional_body=True,
    )
    async def post_unstable(self, requester: Requester, query: SlidingQuery, body: JsonObject) -> RawJson:
        request = self._parse(requester, Shape.UNSTABLE, query.pos, query.timeout, body)
        return await self._answer(request, query.set_presence)

    @endpoint("POST", "/_matrix/client/v4/sync", auth=Auth.USER, tag=TAG, long_poll=True, cancellable=True)
    async def post_stable(self, requester: Requester, body: JsonObject) -> RawJson:
        pos, timeout = body.get("pos"), body.get("timeout", 0)
        if not isinstance(pos, str | None):
            raise InvalidParam("pos", "must be a string")
        if not isinstance(timeout, int) or isinstance(timeout, bool):
            raise InvalidParam("timeout", "must be an integer")
        request = self._parse(requester, Shape.STABLE, pos or "", timeout if pos else 0, body)
        return await self._answer(request, body.get("set_presence", "online"))

    def _parse(
        self, requester: Requester, shape: Shape, pos: str, timeout_ms: int, body: dict[str, Any]
    ) -> SlidingRequest:
        """Raises: InvalidParam."""
        asked = {name: body.get(name) for name in ("lists", "room_subscriptions", "extensions")}
        encoded = encode_json(asked)
        fingerprint = blake2b(encoded, digest_size=16).digest()
        is_small, user_id = len(encoded) <= MAX_WANTED_BYTES, requester.user_id
        wanted = self._wanted.get((user_id, shape, fingerprint))
        if wanted is None:
            wanted = Parser(user_id, shape).wanted(asked)
        if is_small:
            self._remember((user_id, shape, fingerprint), wanted)
        return SlidingRequest(
            user_id,
            device_of(requester),
            shape,
            _text(body, "conn_id") or "",
            pos or None,
            max(0, min(timeout_ms, MAX_TIMEOUT_MS)),
            _text(body, "txn_id"),
            wanted.lists,
            wanted.subscriptions,
            wanted.extensions,
            fingerprint,
            is_small,
        )

    def _remember(self, key: tuple[UserId, Shape, bytes], wanted: Wanted) -> None:
        self._wanted[key] = wanted
        self._wanted.move_to_end(key)
        if len(self._wanted) > MAX_WANTED:
            self._wanted.popitem(last=False)

    async def _answer(self, request: SlidingRequest, state: object) -> RawJson:
        if not isinstance(state, str) or state not in STATES:
            raise InvalidParam("set_presence", "must be online, offline or unavailable")
        if self._presence is None:
            return RawJson(await self._service.sync(request))
        self._presence.begin_sync(request.user_id, request.device_id, state)
        try:
            return RawJson(await self._service.sync(request))
        finally:
            self._presence.end_sync(request.user_id, request.device_id, state)


def _text(body: dict[str, Any], name: str) -> str | None:
    value = body.get(name)
    if not isinstance(value, str | None) or len(value or "") > MAX_NAME_LENGTH:
        raise InvalidParam(name, f"must be a string of at most {MAX_NAME_LENGTH} characters")
    return value
