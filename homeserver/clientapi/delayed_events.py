"""Delayed events: scheduled, looked up, restarted, cancelled, sent at once (MSC4140).

The proposal was accepted with paths of its own. Under the unstable prefix things are as clients have had them so far: whoever
knows a delay id may act on it, without a token, so that a client can give it to a service that sees when the client is gone; the
action may stand in the body; sending takes a parameter, too (clientapi/room_sending.py); fields have two names.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast, get_args

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden, MissingParam, Unrecognized
from homeserver.matrix.ids import parse_room_id
from homeserver.matrix.sticky import MAX_STICKY_MS
from homeserver.rooms.delayed_events import (
    DelayedEventFinalised,
    DelayedEvents,
    MaxDelayExceeded,
    NoDelayedEvent,
)
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.delayed_events import DelayedEvent, FinalisedEvent

STABLE = "/_matrix/client/v1/delayed_events"
UNSTABLE = "/_matrix/client/unstable/org.matrix.msc4140"
TAG = "Room participation"
Action = Literal["restart", "cancel", "send"]
ACTIONS = get_args(Action)


class SchedulePath(msgspec.Struct):
    room_id: str
    event_type: str
    txn_id: str


class ScheduleQuery(msgspec.Struct, frozen=True):
    sticky_ms: Annotated[int, msgspec.Meta(ge=0, le=MAX_STICKY_MS)] | None = msgspec.field(
        name="org.matrix.msc4354.sticky_duration_ms", default=None
    )


class ScheduleBody(msgspec.Struct):
    """delay: as ruma and matrix-rust-sdk name it, under the unstable prefix."""

    content: dict[str, Any]
    delay_ms: int | None = None
    delay: int | None = None
    state_key: str | None = None


class DelayAnswer(msgspec.Struct):
    delay_id: str


class DelayPath(msgspec.Struct):
    delay_id: str


class ActionPath(DelayPath):
    """A string, for each action is an endpoint: one that does not exist is an endpoint that does not."""

    action: Annotated[str, msgspec.Meta(extra_json_schema={"enum": ACTIONS})]


class ActionBody(msgspec.Struct):
    action: Action


class DelayedEventEndpoints:
    def __init__(self, delayed: DelayedEvents) -> None:
        self._delayed = delayed

    @endpoint(
        "PUT",
        "/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}",
        aliases=(f"{UNSTABLE}/rooms/{{room_id}}/delayed_event/{{event_type}}/{{txn_id}}",),
        auth=Auth.GUEST_OK,
        limit="message",
        tag=TAG,
    )
    async def put_delayed_event(
        self, requester: Requester, path: SchedulePath, query: ScheduleQuery, body: ScheduleBody
    ) -> DelayAnswer:
        """Have a message or state event sent later."""
        delay_ms = body.delay_ms if body.delay_ms is not None else body.delay
        if delay_ms is None:
            raise MissingParam("delay_ms")
        try:
            delay_id = await self._delayed.schedule(
                requester,
                parse_room_id(path.room_id),
                path.event_type,
                body.state_key,
                body.content,
                delay_ms,
                txn_id=path.txn_id,
                sticky_ms=query.sticky_ms,
            )
        except MaxDelayExceeded as error:
            raise Forbidden(error.error, **error.extra) from None
        return DelayAnswer(delay_id)

    @endpoint("GET", STABLE, aliases=(f"{UNSTABLE}/delayed_events",), auth=Auth.GUEST_OK, limit="other", tag=TAG)
    async def get_delayed_events(self, requester: Requester) -> JsonObject:
        """The events that wait, the next one first."""
        events = await self._delayed.load(requester.user_id)
        return {"delayed_events": [_answer(event) for event in events]}

    @endpoint(
        "GET",
        f"{STABLE}/{{delay_id}}",
        aliases=(f"{UNSTABLE}/delayed_events/{{delay_id}}",),
        auth=Auth.GUEST_OK,
        limit="other",
        tag=TAG,
    )
    async def get_delayed_event(self, requester: Requester, path: DelayPath) -> JsonObject:
        """One event, also for some time after it was sent or cancelled."""
        event = await self._delayed.load_one(requester.user_id, path.delay_id)
        return {**_answer(event), **_outcome(event)} if isinstance(event, FinalisedEvent) else _answer(event)

    @endpoint(
        "POST", f"{STABLE}/{{delay_id}}/{{action}}", auth=Auth.GUEST_OK, limit="other", optional_body=True, tag=TAG
    )
    async def post_own_action(self, requester: Requester, path: ActionPath, body: JsonObject) -> JsonObject:
        action = _parse_action(path.action)
        await self._delayed.load_one(requester.user_id, path.delay_id)
        return await self._act(path.delay_id, action)

    @endpoint("POST", f"{UNSTABLE}/delayed_events/{{delay_id}}", auth=Auth.NONE, limit="other", tag=TAG)
    async def post_action_in_body(self, path: DelayPath, body: ActionBody) -> JsonObject:
        """As first proposed, and as clients still do."""
        return await self._act_as_before(path.delay_id, body.action)

    @endpoint(
        "POST",
        f"{UNSTABLE}/delayed_events/{{delay_id}}/{{action}}",
        auth=Auth.NONE,
        limit="other",
        optional_body=True,
        tag=TAG,
    )
    async def post_action(self, path: ActionPath, body: JsonObject) -> JsonObject:
        return await self._act_as_before(path.delay_id, _parse_action(path.action))

    async def _act_as_before(self, delay_id: str, action: Action) -> JsonObject:
        """COMPAT(matrix-js-sdk 37, MSC4140 before 2026): of a call they know by M_NOT_FOUND that their leave was sent."""
        try:
            return await self._act(delay_id, action)
        except DelayedEventFinalised:
            raise NoDelayedEvent from None

    async def _act(self, delay_id: str, action: Action) -> JsonObject:
        if action == "restart":
            await self._delayed.restart(delay_id)
        elif action == "cancel":
            await self._delayed.cancel(delay_id)
        else:
            await self._delayed.send_now(delay_id)
        return {}


def _parse_action(text: str) -> Action:
    """Raises: Unrecognized."""
    if text not in ACTIONS:
        raise Unrecognized("Unrecognized request")
    return cast(Action, text)


def _answer(event: DelayedEvent | FinalisedEvent) -> JsonObject:
    """`delay` and `running_since`: what clients knew `delay_ms` and `scheduled_at` as before the proposal was accepted."""
    state = {} if event.state_key is None else {"state_key": event.state_key}
    return {
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.type,
        **state,
        "delay_ms": event.delay_ms,
        "delay": event.delay_ms,
        "scheduled_at": event.running_since_ms,
        "running_since": event.running_since_ms,
        "content": orjson.loads(event.content),
    }


def _outcome(event: FinalisedEvent) -> JsonObject:
    answer: JsonObject = {"finalised_ts": event.finalised_ts_ms}
    if event.event_id is not None:
        answer["event_id"] = event.event_id
    if event.error is not None:
        answer["error"] = orjson.loads(event.error)
    return answer
