"""Subscribing to threads.

Log rows made here: "thread_subscription" {room_id, thread_root}, keyed by the user.

Spec: MSC4306
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define
from sqlalchemy import Connection

from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.rooms.view import RoomView, RoomViews
from homeserver.runtime.db import Database
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.thread_subscriptions import (
    ThreadSubscription,
    load_subscription,
    load_subscription_changes,
    save_subscription,
)

THREAD_SUBSCRIPTION: Final = "thread_subscription"


class NotInThread(MatrixError):
    """The event that is to subscribe the user is not of the thread."""

    errcode = "IO.ELEMENT.MSC4306.M_NOT_IN_THREAD"


class ConflictingUnsubscription(MatrixError):
    """The user unsubscribed after the event that is to subscribe them."""

    status = 409
    errcode = "IO.ELEMENT.MSC4306.M_CONFLICTING_UNSUBSCRIPTION"


@define(eq=False)
class ThreadSubscriptions:
    database: Database
    log: LogWriter
    views: RoomViews

    async def subscribe(self, user_id: UserId, room_id: RoomId, root: EventId, cause: EventId | None) -> None:
        """By hand, or (with a cause, an event of the thread) automatically: then what the user said by hand stands.

        Raises: NotFound, NotInThread, ConflictingUnsubscription.
        """
        view = await self._check_thread(user_id, room_id, root)
        order = await self._load_order(view, root, cause) if cause is not None else None
        if order is not None:
            _check_conflict(await self.database.read(load_subscription, user_id, room_id, root), order)
        await self._save(user_id, room_id, root, order, subscribed=True)

    async def unsubscribe(self, user_id: UserId, room_id: RoomId, root: EventId) -> None:
        """Raises: NotFound, for a thread that the user can't see."""
        await self._check_thread(user_id, room_id, root)
        await self._save(user_id, room_id, root, None, subscribed=False)

    async def load(self, user_id: UserId, room_id: RoomId, root: EventId) -> ThreadSubscription:
        """Raises: NotFound, also when the user is not subscribed."""
        await self._check_thread(user_id, room_id, root)
        found = await self.database.read(load_subscription, user_id, room_id, root)
        if found is None or not found.subscribed:
            raise NotFound("Not subscribed to this thread")
        return found

    async def load_changes(self, user_id: UserId, after: int, before: int, limit: int) -> Sequence[ThreadSubscription]:
        """The newest changes in (after, before), the newest first."""
        return await self.database.read(load_subscription_changes, user_id, after, before, limit)

    async def _check_thread(self, user_id: UserId, room_id: RoomId, root: EventId) -> RoomView:
        try:
            view = await self.views.load(room_id, user_id)
            await self.views.load_target(view, root)
        except MatrixError:
            raise NotFound("No such thread") from None
        return view

    async def _load_order(self, view: RoomView, root: EventId, cause: EventId) -> int:
        try:
            event = await self.views.load_event(view, cause)
        except NotFound:
            raise NotInThread("The event is not known in this room") from None
        if event.thread_root != root:
            raise NotInThread("The event is not part of the thread")
        return event.order

    async def _save(
        self, user_id: UserId, room_id: RoomId, root: EventId, order: int | None, *, subscribed: bool
    ) -> None:
        """order: of the event that subscribes automatically."""

        def save(conn: Connection, position: int) -> None:
            known = load_subscription(conn, user_id, room_id, root)
            if order is not None and known is not None and (known.subscribed or order <= known.position):
                return
            if subscribed or (known is not None and known.subscribed):
                change = ThreadSubscription(room_id, root, subscribed, order is not None, position)
                save_subscription(conn, user_id, change)

        data = {"room_id": room_id, "thread_root": root}
        await self.log.submit(LogItem(THREAD_SUBSCRIPTION, user_id, data, save))


def _check_conflict(known: ThreadSubscription | None, order: int) -> None:
    if known is not None and not known.subscribed and order <= known.position:
        raise ConflictingUnsubscription("You unsubscribed from this thread after the event")
