"""Events that a client schedules, and takes back while it lives: so that others see when it is gone (MSC4140).

A state event that waits is given up when another user sets that state: what it would say is of the past. So is any event
that may not be sent when its time has come, because its user left the room, or is suspended: it is not sent later, either.

What is to be sent is marked first: from then on nobody is told that they have taken it back, or that its time begins anew. An
event is sent under its delay id as the transaction id, and forgotten after: a crash in between sends it again, to the same
effect as none. One timer waits for the next that is due.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from secrets import token_urlsafe
from typing import Any, Final

import orjson
from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.accounts.requester import Requester
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import InvalidParam, LimitExceeded, MatrixError, NotFound, TooLarge
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.sending import Sending, check_text, make_transaction
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database, RowExists
from homeserver.store import delayed_events as store
from homeserver.store.accounts import load_user
from homeserver.store.delayed_events import DelayedEvent
from homeserver.store.log import LogRow
from homeserver.store.room_writes import Transaction

logger = logging.getLogger(__name__)

MAX_DELAY_MS: Final = 24 * 60 * 60 * 1000
MAX_OF_USER: Final = 100
MAX_CONTENT_BYTES: Final = 65_536
BATCH: Final = 50
RETRY_MS: Final = 10_000


_StateKey = tuple[RoomId, str, str]


class MaxDelayExceeded(MatrixError):
    errcode = "M_MAX_DELAY_EXCEEDED"

    def __init__(self) -> None:
        super().__init__(f"org.matrix.msc4140.delay: at most {MAX_DELAY_MS} milliseconds", max_delay=MAX_DELAY_MS)


@define(eq=False)
class DelayedEvents:
    database: Database
    clock: Clock
    sending: Sending
    _timer: Any = field(default=None, init=False)
    _timer_due_ms: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    # State that something waits to set, or did; each with a number that changes when there is more.
    _state_keys: dict[_StateKey, int] = field(factory=dict, init=False)
    _scheduled: int = field(default=0, init=False)

    async def start(self) -> None:
        """Send what came due while no process ran, and wait for the rest."""
        self._state_keys = dict.fromkeys(await self.database.read(store.load_state_keys), 0)
        await self._send_due()

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        if not self._state_keys:
            return
        for row in rows:
            if row.event is None or row.event.pdu.state_key is None or not row.deltas:
                continue
            key = (RoomId(row.key), row.event.pdu.type, row.event.pdu.state_key)
            if key in self._state_keys:
                outdated = self._delete_outdated(key, row.event.pdu.sender)
                Deferred.fromCoroutine(outdated).addErrback(_log_failure)

    async def _delete_outdated(self, key: _StateKey, sender: UserId) -> None:
        number = self._state_keys.get(key)
        is_waited_for = await self.database.run(store.delete_outdated, *key, sender)
        if not is_waited_for and self._state_keys.get(key) == number:
            self._state_keys.pop(key, None)

    def _note_state_key(self, event: DelayedEvent) -> None:
        if event.state_key is not None:
            self._scheduled += 1
            self._state_keys[event.room_id, event.type, event.state_key] = self._scheduled

    async def stop(self) -> None:
        self._stopped = True
        self._cancel_timer()

    async def schedule(
        self,
        requester: Requester,
        room_id: RoomId,
        type_: str,
        state_key: str | None,
        content: dict[str, Any],
        delay_ms: int,
        *,
        txn_id: str | None = None,
        sticky_ms: int | None = None,
    ) -> str:
        """The delay id; with a transaction id, the same one again gives the same, whatever became of the event.

        Raises: UserSuspended, InvalidParam, TooLarge, LimitExceeded, MaxDelayExceeded.
        """
        requester.check_not_suspended()
        check_text("eventType", type_)
        check_text("stateKey", state_key or "")
        transaction = None
        if txn_id is not None:
            transaction = make_transaction(requester, room_id, f"send later\n{type_}", txn_id)
        if delay_ms <= 0:
            raise InvalidParam("org.matrix.msc4140.delay", "must be a positive number of milliseconds")
        if delay_ms > MAX_DELAY_MS:
            raise MaxDelayExceeded
        encoded = encode_json(content)
        if len(encoded) > MAX_CONTENT_BYTES:
            raise TooLarge(f"The content has {len(encoded)} bytes, of at most {MAX_CONTENT_BYTES}")
        now_ms = self.clock.time_ms()
        event = DelayedEvent(
            requester.user_id,
            token_urlsafe(16),
            requester.device_id,
            room_id,
            type_,
            state_key,
            encoded,
            delay_ms,
            now_ms,
            now_ms + delay_ms,
            sticky_ms,
        )
        self._note_state_key(event)
        saved = await self._save(event, transaction)
        self._note_state_key(event)
        if saved is None:
            raise LimitExceeded(delay_ms, f"A user may have {MAX_OF_USER} delayed events")
        if saved == event.delay_id:
            self._wait_until(event.due_ts_ms)
        return saved

    async def _save(self, event: DelayedEvent, transaction: Transaction | None) -> str | None:
        """The delay id that the transaction has by now; None when the user has too many."""
        try:
            return await self.database.run(store.save_delayed_event, event, MAX_OF_USER, transaction)
        except RowExists:  # the same transaction came twice at once, and the other was faster
            return await self.database.run(store.save_delayed_event, event, MAX_OF_USER, transaction)

    async def load(self, user_id: UserId) -> list[DelayedEvent]:
        return await self.database.read(store.load_delayed_events, user_id)

    async def restart(self, delay_id: str) -> None:
        """Raises: NotFound, also when it is being sent."""
        now_ms = self.clock.time_ms()
        due_ms = await self.database.run(store.restart_delayed_event, delay_id, now_ms)
        if due_ms is None:
            raise NotFound("No such delayed event")
        self._wait_until(due_ms)

    async def cancel(self, delay_id: str) -> None:
        """Raises: NotFound, also when it is being sent."""
        if not await self.database.run(store.cancel_delayed_event, delay_id):
            raise NotFound("No such delayed event")

    async def send_now(self, delay_id: str) -> None:
        """Raises: NotFound; what sending raises, and the event is given up then."""
        event = await self.database.run(store.hasten_delayed_event, delay_id)
        if event is None:
            raise NotFound("No such delayed event")
        await self._send(event)

    # -- time --------------------------------------------------------------------------------------------------------

    def _wait_until(self, due_ms: int) -> None:
        if self._stopped or (self._timer is not None and self._timer_due_ms <= due_ms):
            return
        self._cancel_timer()
        self._timer_due_ms = due_ms
        self._timer = self.clock.call_later(max(0, due_ms - self.clock.time_ms()), self._on_time)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_time(self) -> None:
        self._timer = None
        Deferred.fromCoroutine(self._send_due()).addErrback(self._retry)

    def _retry(self, failure: Any) -> None:
        logger.error("Delayed events could not be read: %s", failure.value)
        self._wait_until(self.clock.time_ms() + RETRY_MS)

    async def _send_due(self) -> None:
        while not self._stopped:
            now_ms = self.clock.time_ms()
            due, following_ms = await self.database.read(store.load_due, now_ms, BATCH)
            for event in due:
                if not await self.database.run(store.begin_sending, event.delay_id, now_ms):
                    continue
                try:
                    await self._send(event)
                except MatrixError as error:
                    logger.info("A delayed event of %s was not sent: %s", event.user_id, error.error)
            if not due:
                if following_ms is not None:
                    self._wait_until(following_ms)
                return

    async def _send(self, event: DelayedEvent) -> None:
        """Raises: MatrixError, when it may not be sent; then it is given up."""
        try:
            await self._send_as_user(event)
        except MatrixError:
            await self.database.run(store.delete_delayed_event, event.delay_id)
            raise
        await self.database.run(store.delete_delayed_event, event.delay_id)
        if event.state_key is not None:
            await self._delete_outdated((event.room_id, event.type, event.state_key), event.user_id)

    async def _send_as_user(self, event: DelayedEvent) -> None:
        user = await self.database.read(load_user, event.user_id)
        # What the user may do now counts, not what they could when they scheduled it.
        is_suspended = user is not None and user.is_suspended
        requester = Requester(event.user_id, event.device_id, is_suspended=is_suspended)
        content = orjson.loads(event.content)
        if event.state_key is None:
            await self.sending.send(requester, event.room_id, event.type, content, event.delay_id, event.sticky_ms)
        else:
            await self.sending.set_state(requester, event.room_id, event.type, event.state_key, content)


def _log_failure(failure: Any) -> None:
    logger.error("Delayed events that are of the past could not be given up: %s", failure.value)
