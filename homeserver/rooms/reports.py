"""Reporting rooms, events and users to the admins.

Log rows made here: "report" {}, keyed by the reporter; the report itself has the position as its id.

Spec: client-server-api#reporting-content
"""

from __future__ import annotations

from typing import Final

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.folds.events import EventCache
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.rooms.heads import RoomHeads
from homeserver.runtime.clock import Clock
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.reports import Report, save_report

MAX_REASON_LENGTH: Final = 4000


@define(eq=False)
class Reports:
    clock: Clock
    heads: RoomHeads
    events: EventCache
    log: LogWriter

    async def report_room(self, requester: Requester, room_id: RoomId, reason: str) -> None:
        """Anybody may report any room. Raises: NotFound, InvalidParam.

        Spec: client-server-api#post_matrixclientv3roomsroomidreport
        """
        await self.heads.load(room_id)
        await self._save(Report(requester.user_id, reason, self.clock.time_ms(), room_id=room_id))

    async def report_event(self, requester: Requester, room_id: RoomId, event_id: EventId, reason: str | None) -> None:
        """Members report events of their rooms. Raises: NotFound, InvalidParam.

        Spec: client-server-api#post_matrixclientv3roomsroomidreporteventid
        """
        head = (await self.heads.load_many([room_id])).get(room_id)
        known = head is not None and head.is_joined(requester.user_id)
        event = await self.events.load(event_id, room_id, head.version) if head is not None and known else None
        if event is None:
            raise NotFound("There is no such event, or you are not in its room")
        now_ms = self.clock.time_ms()
        await self._save(Report(requester.user_id, reason, now_ms, room_id=room_id, event_id=event_id))

    async def report_user(self, requester: Requester, user_id: UserId, reason: str) -> None:
        """Anybody may report anybody; whether the user exists is not told. Raises: InvalidParam.

        Spec: client-server-api#post_matrixclientv3usersuseridreport
        """
        await self._save(Report(requester.user_id, reason, self.clock.time_ms(), user_id=user_id))

    async def _save(self, report: Report) -> None:
        if report.reason is not None and len(report.reason) > MAX_REASON_LENGTH:
            raise InvalidParam("reason", f"longer than {MAX_REASON_LENGTH} characters")

        def save(conn: Connection, position: int) -> None:
            save_report(conn, position, report)

        await self.log.submit(LogItem("report", report.reporter, {}, save))
