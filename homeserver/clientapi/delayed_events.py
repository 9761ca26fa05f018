"""Delayed events: listed, restarted, cancelled, sent at once (MSC4140). Scheduling one is a parameter of sending.

Whoever knows a delay id may act on it, without a token: a client gives it to a service that sees when the client is gone.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.delayed_events import DelayedEvent

PATH = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
TAG = "Room participation"
Action = Literal["restart", "cancel", "send"]


class DelayPath(msgspec.Struct):
    delay_id: str


class ActionPath(DelayPath):
    action: Action


class ActionBody(msgspec.Struct):
    action: Action


class DelayedEventEndpoints:
    def __init__(self, delayed: DelayedEvents) -> None:
        self._delayed = delayed

    @endpoint("GET", PATH, auth=Auth.USER, tag=TAG)
    async def get_delayed_events(self, requester: Requester) -> JsonObject:
        events = await self._delayed.load(requester.user_id)
        return {"delayed_events": [_answer(event) for event in events]}

    @endpoint("POST", f"{PATH}/{{delay_id}}", auth=Auth.NONE, limit="other", tag=TAG)
    async def post_action_in_body(self, path: DelayPath, body: ActionBody) -> JsonObject:
        """As first proposed, and as clients still do."""
        return await self._act(path.delay_id, body.action)

    @endpoint("POST", f"{PATH}/{{delay_id}}/{{action}}", auth=Auth.NONE, limit="other", optional_body=True, tag=TAG)
    async def post_action(self, path: ActionPath, body: JsonObject) -> JsonObject:
        return await self._act(path.delay_id, path.action)

    async def _act(self, delay_id: str, action: Action) -> JsonObject:
        if action == "restart":
            await self._delayed.restart(delay_id)
        elif action == "cancel":
            await self._delayed.cancel(delay_id)
        else:
            await self._delayed.send_now(delay_id)
        return {}


def _answer(event: DelayedEvent) -> JsonObject:
    state = {} if event.state_key is None else {"state_key": event.state_key}
    return {
        "delay_id": event.delay_id,
        "room_id": event.room_id,
        "type": event.type,
        **state,
        "delay": event.delay_ms,
        "running_since": event.running_since_ms,
        "content": orjson.loads(event.content),
    }
