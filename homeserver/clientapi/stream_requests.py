"""What clients may ask over a stream: the endpoints that have a method's name, called as they are over HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from secrets import token_urlsafe
from typing import Annotated, Any, TypeVar

import msgspec
from attrs import frozen

from homeserver.accounts.requester import Requester
from homeserver.clientapi.presence import PresenceBody, PresenceEndpoints, PresencePath
from homeserver.clientapi.receipts import MarkersBody, ReceiptEndpoints, RoomPath
from homeserver.clientapi.room_sending import RoomSending, SendPath, SendQuery, StatePath
from homeserver.clientapi.typing import TypingBody, TypingEndpoints, TypingPath
from homeserver.matrix.errors import Forbidden, Unrecognized
from homeserver.matrix.sticky import MAX_STICKY_MS
from homeserver.runtime.http.body import check_storable, error_of
from homeserver.runtime.http.endpoint import Auth, declarations_of
from homeserver.runtime.rate_limit import RateLimiter

_Struct = TypeVar("_Struct", bound=msgspec.Struct)
Handler = Callable[[Requester, dict[str, Any]], Awaitable[Any]]


_Sticky = Annotated[int, msgspec.Meta(ge=0, le=MAX_STICKY_MS)]


class SendParams(msgspec.Struct):
    room_id: str
    event_type: str
    content: dict[str, Any]
    txn_id: str | None = None
    sticky_duration_ms: _Sticky | None = None


class StateParams(msgspec.Struct):
    room_id: str
    event_type: str
    content: dict[str, Any]
    state_key: str = ""
    sticky_duration_ms: _Sticky | None = None


class TypingParams(msgspec.Struct):
    room_id: str
    typing: bool
    timeout: int | None = None


class RoomParams(msgspec.Struct):
    room_id: str


@frozen
class _Method:
    """handler: with the declaration of the endpoint it stands for."""

    handler: Handler
    limit: str | None
    auth: Auth


class StreamRequests:
    def __init__(
        self,
        limiter: RateLimiter,
        sending: RoomSending,
        typing: TypingEndpoints,
        receipts: ReceiptEndpoints,
        presence: PresenceEndpoints,
    ) -> None:
        self._limiter = limiter
        self._sending = sending
        self._typing = typing
        self._receipts = receipts
        self._presence = presence
        self._methods = {
            "send": _method(self._send, sending.put_send),
            "state": _method(self._set_state, sending.put_state),
            "typing": _method(self._set_typing, typing.put_typing),
            "read_markers": _method(self._set_read_markers, receipts.post_read_markers),
            "presence": _method(self._set_presence, presence.put_status),
            "ping": _Method(_ping, None, Auth.GUEST_OK),
        }

    async def call(self, requester: Requester, method: str, params: dict[str, Any]) -> Any:
        """The result, to be encoded as an endpoint's is. Raises: what the endpoint raises; Unrecognized."""
        found = self._methods.get(method)
        if found is None:
            raise Unrecognized(f"There is no method {method[:50]!r}")
        if found.auth is Auth.USER and requester.is_guest:
            raise Forbidden("Guests may not do this", errcode="M_GUEST_ACCESS_FORBIDDEN")
        if found.limit is not None:
            self._limiter.check(found.limit, requester.rate_limit_key)
        return await found.handler(requester, params)

    async def _send(self, requester: Requester, params: dict[str, Any]) -> Any:
        given = convert_params(params, SendParams)
        path = SendPath(given.room_id, given.event_type, given.txn_id or token_urlsafe(16))
        return await self._sending.put_send(
            requester, path, SendQuery(sticky_ms=given.sticky_duration_ms), given.content
        )

    async def _set_state(self, requester: Requester, params: dict[str, Any]) -> Any:
        given = convert_params(params, StateParams)
        path = StatePath(given.room_id, given.event_type, given.state_key)
        query = SendQuery(sticky_ms=given.sticky_duration_ms)
        return await self._sending.put_state(requester, path, query, given.content)

    async def _set_typing(self, requester: Requester, params: dict[str, Any]) -> Any:
        given = convert_params(params, TypingParams)
        body = convert_params({name: params[name] for name in ("typing", "timeout") if name in params}, TypingBody)
        return await self._typing.put_typing(requester, TypingPath(given.room_id, requester.user_id), body)

    async def _set_read_markers(self, requester: Requester, params: dict[str, Any]) -> Any:
        given, body = convert_params(params, RoomParams), convert_params(params, MarkersBody)
        return await self._receipts.post_read_markers(requester, RoomPath(given.room_id), body)

    async def _set_presence(self, requester: Requester, params: dict[str, Any]) -> Any:
        body = convert_params(params, PresenceBody)
        return await self._presence.put_status(requester, PresencePath(requester.user_id), body)


def convert_params(params: dict[str, Any], kind: type[_Struct]) -> _Struct:
    """Raises: MissingParam, BadJson; both name the field."""
    try:
        typed = msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise error_of(error, in_body=True) from None
    check_storable(typed, "params")
    return typed


def _method(handler: Handler, endpoint: Any) -> _Method:
    declaration = declarations_of(endpoint)[0]
    return _Method(handler, declaration.limit, declaration.auth)


async def _ping(_requester: Requester, _params: dict[str, Any]) -> dict[str, Any]:
    return {}
