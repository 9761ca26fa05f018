"""/initialSync, as a translation of /sync: it says the same in an older form.

Slow where /sync is fast (the response is decoded and put together anew); who cares for speed uses /sync.

Spec: client-server-api#get_matrixclientv3initialsync
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from attrs import define

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.filters import Filter, parse_filter
from homeserver.matrix.ids import DeviceId, RoomId, UserId
from homeserver.store.public_rooms import load_public_among
from homeserver.sync.event_stream import load_member_event
from homeserver.sync.request import StateKind, SyncRequest
from homeserver.sync.service import SyncService

JsonObject = dict[str, Any]
_LEFT = ("leave", "ban")
# The memberships that the answer has a word for: a knock is none of them.
_SECTIONS = ("join", "invite", "leave")


@define(eq=False)
class LegacySync:
    sync: SyncService

    async def load_all(self, user_id: UserId, device_id: DeviceId | None, limit: int, archived: bool) -> JsonObject:
        """Spec: client-server-api#get_matrixclientv3initialsync"""
        request = SyncRequest(user_id, device_id, _filter(limit, archived), state_kind=StateKind.AFTER, is_legacy=True)
        answer = orjson.loads(await self.sync.sync(request))
        sections = answer.get("rooms", {})
        told = {RoomId(room_id): section for section in _SECTIONS for room_id in sections.get(section, {})}
        memberships = await self.sync.sources.memberships.load(user_id)
        published = await self.sync.sources.database.read(load_public_among, list(told))
        rooms = [
            await self._room(memberships, room_id, section, sections[section][room_id], answer["next_batch"], published)
            for room_id, section in told.items()
        ]
        return {
            "end": answer["next_batch"],
            "rooms": rooms,
            "presence": answer.get("presence", {}).get("events", []),
            "receipts": _receipts(sections.get("join", {})),
            "account_data": answer.get("account_data", {}).get("events", []),
        }

    async def _room(
        self,
        memberships: UserRooms,
        room_id: RoomId,
        section: str,
        room: JsonObject,
        end: str,
        published: Collection[RoomId],
    ) -> JsonObject:
        """One room, from its object in /sync."""
        row = memberships.get(room_id)
        membership = section
        if section == "leave" and row is not None and row.membership in _LEFT:
            membership = row.membership
        told: JsonObject = {
            "room_id": room_id,
            "membership": membership,
            "visibility": "public" if room_id in published else "private",
        }
        if section == "invite" and row is not None and row.membership == "invite":
            invite = await load_member_event(self.sync.sources, row)
            told |= {} if invite is None else {"invite": invite}
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


def _receipts(joined: JsonObject) -> list[JsonObject]:
    """No schema has them, but who goes on with /events is told how they move from here on."""
    return [
        {**event, "room_id": room_id}
        for room_id, room in joined.items()
        for event in room["ephemeral"]["events"]
        if event["type"] == "m.receipt"
    ]


def _filter(limit: int, archived: bool) -> Filter:
    return parse_filter({"room": {"timeline": {"limit": limit}, "include_leave": archived}})
