"""Read receipts and the read marker.

Log rows made here: "receipt" {user_id, receipt_type, thread_id, event_id, event_order, ts_ms}, keyed by room, and
"account_data" for m.fully_read.

Spec: client-server-api#receipts
"""

from __future__ import annotations

from collections.abc import Mapping

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.rooms.view import RoomViews
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.runtime.turns import Turns
from homeserver.store.account_data import load_account_data, save_account_data
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.receipts import UNTHREADED, ReceiptRow, load_newest, load_read_orders, save_receipt

READ = "m.read"
PRIVATE = "m.read.private"
FULLY_READ = "m.fully_read"
MAIN_THREAD = "main"
MAX_RELATION_HOPS = 3


@define(eq=False)
class Receipts:
    """Receipts move forward only: one for an older event than the last changes nothing."""

    database: Database
    clock: Clock
    views: RoomViews
    log: LogWriter
    _turns: Turns[tuple[UserId, RoomId]] = field(factory=Turns, init=False)

    async def set_receipt(
        self,
        user_id: UserId,
        room_id: RoomId,
        receipt_type: str,
        event_id: EventId,
        thread_id: str = UNTHREADED,
        ts_ms: int | None = None,
    ) -> None:
        """The user has read up to the event, in its thread if one is given; now, unless another time is given.

        Raises: Forbidden, NotFound, InvalidParam.

        Spec: client-server-api#threaded-read-receipts
        """
        event = await self._load_event(user_id, room_id, event_id)
        if thread_id != UNTHREADED:
            await self._check_thread(event, thread_id)
        async with self._turns.take((user_id, room_id)):
            await self._move(user_id, room_id, receipt_type, event, thread_id, ts_ms)

    async def _move(
        self,
        user_id: UserId,
        room_id: RoomId,
        receipt_type: str,
        event: StoredEvent,
        thread_id: str,
        ts_ms: int | None = None,
    ) -> None:
        known = await self.database.read(load_read_orders, user_id, [room_id])
        if known.get((room_id, receipt_type, thread_id), -(2**62)) >= event.order:
            return
        now_ms = self.clock.time_ms() if ts_ms is None else ts_ms
        receipt = ReceiptRow(room_id, user_id, receipt_type, thread_id, event.event_id, event.order, now_ms)
        data = {
            "user_id": user_id,
            "receipt_type": receipt_type,
            "thread_id": thread_id,
            "event_id": event.event_id,
            "event_order": event.order,
            "ts_ms": now_ms,
        }

        def save(conn: Connection, position: int) -> None:
            save_receipt(conn, receipt, position)
            # Another process may have moved it further in between: the row tells what is true, not what is over.
            newest = load_newest(conn, receipt)
            data.update(event_id=newest.event_id, event_order=newest.event_order, ts_ms=newest.ts_ms)

        await self.log.submit(LogItem("receipt", room_id, data, save))

    async def set_markers(self, user_id: UserId, room_id: RoomId, markers: Mapping[str, EventId]) -> None:
        """Set m.fully_read and receipts, by type: all of them, or none if one names no event of the room.

        Raises: Forbidden, NotFound.

        Spec: client-server-api#post_matrixclientv3roomsroomidread_markers
        """
        events = {type_: await self._load_event(user_id, room_id, event_id) for type_, event_id in markers.items()}
        async with self._turns.take((user_id, room_id)):
            for type_, event in events.items():
                if type_ == FULLY_READ:
                    await self._mark(user_id, room_id, event)
                else:
                    await self._move(user_id, room_id, type_, event, UNTHREADED)

    async def set_fully_read(self, user_id: UserId, room_id: RoomId, event_id: EventId) -> None:
        """Move the read marker; never back.

        Raises: Forbidden, NotFound.

        Spec: client-server-api#fully-read-markers
        """
        event = await self._load_event(user_id, room_id, event_id)
        async with self._turns.take((user_id, room_id)):
            await self._mark(user_id, room_id, event)

    async def _mark(self, user_id: UserId, room_id: RoomId, event: StoredEvent) -> None:
        marked = await self._load_marked(user_id, room_id)
        if marked is not None and marked.order >= event.order:
            return
        content = orjson.dumps({"event_id": event.event_id})

        def save(conn: Connection, position: int) -> None:
            save_account_data(conn, user_id, room_id, FULLY_READ, content, position)

        data = {"room_id": room_id, "type": FULLY_READ}
        await self.log.submit(LogItem("account_data", user_id, data, save))

    async def _check_thread(self, event: StoredEvent, thread_id: str) -> None:
        """Raises: InvalidParam, unless the event belongs to the thread."""
        thread = await self._load_thread(event)
        belongs = thread is None if thread_id == MAIN_THREAD else thread_id in (thread, event.event_id)
        if not belongs:
            raise InvalidParam("thread_id", "the event is not in that thread")

    async def _load_thread(self, event: StoredEvent) -> EventId | None:
        """The root of the thread that the event is in: by itself, or by what it relates to.

        Spec: client-server-api#threading
        """
        room_id, version = event.pdu.room_id, event.pdu.version
        at: StoredEvent | None = event
        for _ in range(MAX_RELATION_HOPS + 1):
            if at is None or at.thread_root is not None:
                break
            relation = at.pdu.content.get("m.relates_to")
            target = relation.get("event_id") if isinstance(relation, dict) else None
            at = await self.views.events.load(EventId(target), room_id, version) if isinstance(target, str) else None
        return at.thread_root if at is not None else None

    async def _load_event(self, user_id: UserId, room_id: RoomId, event_id: EventId) -> StoredEvent:
        head = await self.views.load_joined(room_id, user_id)
        event = await self.views.events.load(event_id, room_id, head.version)
        if event is None or event.timeline_order is None:
            raise NotFound("Event not found")
        return event

    async def _load_marked(self, user_id: UserId, room_id: RoomId) -> StoredEvent | None:
        """The event at which the read marker stands."""
        content = await self.database.read(load_account_data, user_id, room_id, FULLY_READ)
        event_id = orjson.loads(content).get("event_id") if content is not None else None
        if not isinstance(event_id, str):
            return None
        head = await self.views.load_joined(room_id, user_id)
        event = await self.views.events.load(EventId(event_id), room_id, head.version)
        return event if event is not None and event.timeline_order is not None else None
