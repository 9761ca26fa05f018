"""Reporting content.

Spec: client-server-api#reporting-content
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.ids import parse_event_id, parse_room_id, parse_user_id
from homeserver.rooms.reports import Reports
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

_TAG = "Reporting content"


class RoomPath(msgspec.Struct, frozen=True):
    room_id: str


class EventPath(msgspec.Struct, frozen=True):
    room_id: str
    event_id: str


class UserPath(msgspec.Struct, frozen=True):
    user_id: str


class ReasonBody(msgspec.Struct, frozen=True):
    reason: str


class OptionalReasonBody(msgspec.Struct, frozen=True):
    reason: str | None = None


class ReportingEndpoints:
    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report",
        auth=Auth.USER,
        limit="report",
        spec="client-server-api#post_matrixclientv3roomsroomidreport",
        tag=_TAG,
    )
    async def post_room_report(self, requester: Requester, path: RoomPath, body: ReasonBody) -> JsonObject:
        """Report a room."""
        await self._reports.report_room(requester, parse_room_id(path.room_id), body.reason)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/rooms/{room_id}/report/{event_id}",
        auth=Auth.USER,
        limit="report",
        spec="client-server-api#post_matrixclientv3roomsroomidreporteventid",
        tag=_TAG,
        optional_body=True,
    )
    async def post_event_report(self, requester: Requester, path: EventPath, body: OptionalReasonBody) -> JsonObject:
        """Report an event."""
        room_id, event_id = parse_room_id(path.room_id), parse_event_id(path.event_id)
        await self._reports.report_event(requester, room_id, event_id, body.reason)
        return {}

    @endpoint(
        "POST",
        "/_matrix/client/v3/users/{user_id}/report",
        auth=Auth.USER,
        limit="report",
        spec="client-server-api#post_matrixclientv3usersuseridreport",
        tag=_TAG,
    )
    async def post_user_report(self, requester: Requester, path: UserPath, body: ReasonBody) -> JsonObject:
        """Report a user."""
        await self._reports.report_user(requester, parse_user_id(path.user_id), body.reason)
        return {}
