"""/events and /initialSync, as translations of /sync: they say the same in an older form.

Slow where /sync is fast (the response is decoded and put together anew); who cares for speed uses /sync.

Spec: client-server-api#get_matrixclientv3events
"""

from __future__ import annotations

from typing import Any

import orjson
from attrs import define

from homeserver.folds.events import EventCache
from homeserver.folds.memberships import Memberships
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.format import client_event
from homeserver.matrix.ids import DeviceId, RoomId, UserId
from homeserver.rooms.heads import RoomHeads
from homeserver.store.outside_rooms import load_outside_room
from homeserver.sync.request import MAX_TIMELINE_LIMIT, StateKind, SyncRequest
from homeserver.sync.service import SyncService
from homeserver.sync.tokens import SyncToken

JsonObject = dict[str, Any]
_LEFT = ("leave", "ban")


@define(eq=False)
class LegacySync:
    sync: SyncService
    heads: RoomHeads
    events: EventCache
    memberships: Memberships

    async def wait_events(
        self,
        user_id: UserId,
        device_id: DeviceId | None,
        since: SyncToken | None,
        timeout_ms: int,
        room_id: RoomId | None,
    ) -> JsonObject:
        """What is new since `since` (None: from now on), of all the user's rooms or of one.

        Spec: client-server-api#get_matrixclientv3events
        """
        if since is None:
            typing = self.sync.sources.typing
            since = SyncToken(self.sync.sources.log_writer.position, typing.serial)
        filter = _filter(MAX_TIMELINE_LIMIT, room_id)
        request = SyncRequest(user_id, device_id, filter, since, timeout_ms, False, StateKind.AFTER, is_legacy=True)
        answer = orjson.loads(await self.sync.sync(request))
        rooms = answer.get("rooms", {})
        chunk = [
            {**event, "room_id": of_room}
            for section in ("join", "leave")
            for of_room, room in rooms.get(section, {}).items()
            for event in (*room["timeline"]["events"], *room.get("ephemeral", {}).get("events", ()))
        ]
        for of_room in rooms.get("invite", {}):
            chunk += await self._invite(user_id, RoomId(of_room))
        return {"start": str(since), "end": answer["next_batch"], "chunk": chunk}

    async def load_all(self, user_id: UserId, device_id: DeviceId | None, limit: int, archived: bool) -> JsonObject:
        """Spec: client-server-api#get_matrixclientv3initialsync"""
        filter = _filter(limit, None, archived=archived)
        request = SyncRequest(user_id, device_id, filter, state_kind=StateKind.AFTER, is_legacy=True)
        answer = orjson.loads(await self.sync.sync(request))
        rooms = []
        for section, of_section in answer.get("rooms", {}).items():
            for room_id, room in of_section.items():
                rooms.append(await self._room(user_id, RoomId(room_id), section, room, answer["next_batch"]))
        return {
            "end": answer["next_batch"],
            "rooms": rooms,
            "presence": answer.get("presence", {}).get("events", []),
            "account_data": answer.get("account_data", {}).get("events", []),
        }

    async def _room(self, user_id: UserId, room_id: RoomId, section: str, room: JsonObject, end: str) -> JsonObject:
        """One room of /initialSync, from its object in /sync."""
        membership = await self._membership(user_id, room_id) if section == "leave" else section
        told: JsonObject = {"room_id": room_id, "membership": membership}
        if section == "invite":
            told["invite"] = next(iter(await self._invite(user_id, room_id)), None)
        if "timeline" in room:
            timeline = room["timeline"]
            told["messages"] = {
                "start": timeline["prev_batch"],
                "end": end,
                "chunk": [{**event, "room_id": room_id} for event in timeline["events"]],
            }
            told["state"] = [{**event, "room_id": room_id} for event in room["state_after"]["events"]]
            told["account_data"] = room["account_data"]["events"]
        return told

    async def _membership(self, user_id: UserId, room_id: RoomId) -> str:
        row = (await self.memberships.load(user_id)).get(room_id)
        return row.membership if row is not None and row.membership in _LEFT else "leave"

    async def _invite(self, user_id: UserId, room_id: RoomId) -> list[JsonObject]:
        """The invitation itself; none if it was withdrawn meanwhile."""
        row = (await self.memberships.load(user_id)).get(room_id)
        if row is None or row.membership != "invite":
            return []
        outside = await self.sync.sources.database.read(load_outside_room, user_id, room_id)
        if outside is not None and outside.event.event_id == row.event_id:
            return [client_event(outside.event, with_room_id=True)]
        head = await self.heads.load(room_id)
        event = await self.events.load(row.event_id, room_id, head.version)
        return [] if event is None else [client_event(event.pdu, with_room_id=True)]


def _filter(limit: int, room_id: RoomId | None, *, archived: bool = False) -> Filter:
    room: JsonObject = {"timeline": {"limit": limit}, "include_leave": archived}
    if room_id is not None:
        room["rooms"] = [room_id]
    return parse_filter({"room": room})
