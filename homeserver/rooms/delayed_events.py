"""Events that a client schedules, and takes back while it lives: so that others see when it is gone (MSC4140).

A state event that waits is given up when another user sets that state: what it would say is of the past. So is any event
that may not be sent when its time has come, because its user left the room, or is suspended or locked: it is not sent later,
either. Before its time, an event that can't be sent goes on waiting.

What is to be sent is marked first: from then on nobody is told that they have taken it back, or that its time begins anew. An
event is sent under its delay id as the transaction id, and finalised after: a crash in between sends it again, to the same
effect as none. One timer waits for the next that is due, and looks now and then for what other processes were to send, which may
have ended since. What became of an event is kept for a while: its user can look it up, and the same request again has the same
answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from secrets import token_urlsafe
from typing import Any, Final

import orjson
from attrs import define, field

from homeserver.accounts.errors import UserLocked
from homeserver.accounts.requester import Requester
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import Conflict, Forbidden, InvalidParam, LimitExceeded, MatrixError, NotFound, TooLarge
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.rooms.sending import Sending, check_may_stick, check_text, make_transaction
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database, RowExists
from homeserver.store import delayed_events as store
from homeserver.store.accounts import load_user
from homeserver.store.delayed_events import DelayedEvent, FinalisedEvent, Retention
from homeserver.store.log import LogRow
from homeserver.store.room_writes import Transaction

logger = logging.getLogger(__name__)

MAX_DELAY_MS: Final = 24 * 60 * 60 * 1000
MAX_OF_USER: Final = 100
MAX_CONTENT_BYTES: Final = 65_536
BATCH: Final = 50
RETRY_MS: Final = 10_000
LOOK_AGAIN_MS: Final = 30_000
# For how long it is kept what became of a user's events, and of how many of them.
KEPT_MS: Final = 7 * 24 * 60 * 60 * 1000
KEPT_OF_USER: Final = 1_000


_StateKey = tuple[RoomId, str, str]


_OUTDATED: Final = encode_json({"errcode": "M_UNKNOWN", "error": "Another user has set this state"}).decode()


class MaxDelayExceeded(MatrixError):
    """As the parameter `delay` of sending has it.

    COMPAT(matrix-js-sdk 37, MSC4140 before 2026): the keys with a prefix are those that calls read.
    """

    errcode = "M_MAX_DELAY_EXCEEDED"

    def __init__(self) -> None:
        prefixed: Any = {"org.matrix.msc4140.errcode": self.errcode, "org.matrix.msc4140.max_delay": MAX_DELAY_MS}
        super().__init__(f"delay_ms: at most {MAX_DELAY_MS} milliseconds", max_delay=MAX_DELAY_MS, **prefixed)


class NoDelayedEvent(NotFound):
    """None of that id, or not one of this user."""

    def __init__(self) -> None:
        super().__init__("No such delayed event")


class DelayedEventFinalised(Conflict):
    """It was sent, or cancelled, and so can't be what is asked for."""


@define(eq=False)
class DelayedEvents:
    database: Database
    clock: Clock
    sending: Sending
    background: Background
    _timer: Any = field(default=None, init=False)
    _timer_due_ms: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    # State that something waits to set, or did; each with a number that changes when there is more.
    _state_keys: dict[_StateKey, int] = field(factory=dict, init=False)
    _scheduled: int = field(default=0, init=False)
    _look_at_ms: int = field(default=0, init=False)
    # What was being sent at the last look; None before the first.
    _begun: set[str] | None = field(default=None, init=False)

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
                outdated = self._give_up_outdated(key, row.event.pdu.sender)
                self.background.run(outdated, "Delayed events that are of the past could not be given up")

    async def _give_up_outdated(self, key: _StateKey, sender: UserId) -> None:
        number = self._state_keys.get(key)
        now_ms, retention = self._now()
        is_waited_for = await self.database.run(store.finalise_outdated, *key, sender, now_ms, retention, _OUTDATED)
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
        if state_key is not None:
            check_may_stick(type_, sticky_ms)
        transaction = None
        if txn_id is not None:
            transaction = make_transaction(requester, room_id, f"send later\n{type_}", txn_id)
        if delay_ms <= 0:
            raise InvalidParam("delay_ms", "must be a positive number of milliseconds")
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
        if isinstance(saved, int):
            raise LimitExceeded(max(1, saved - now_ms), f"A user may have {MAX_OF_USER} delayed events")
        if saved == event.delay_id:
            self._wait_until(event.due_ts_ms)
        return saved

    async def _save(self, event: DelayedEvent, transaction: Transaction | None) -> str | int:
        """The delay id that the transaction has by now; when the user has too many, when the next of them is due."""
        try:
            return await self.database.run(store.save_delayed_event, event, MAX_OF_USER, transaction)
        except RowExists:  # the same transaction came twice at once, and the other was faster
            return await self.database.run(store.save_delayed_event, event, MAX_OF_USER, transaction)

    async def load(self, user_id: UserId) -> list[DelayedEvent]:
        """Those that wait, the next one first."""
        return await self.database.read(store.load_delayed_events, user_id)

    async def load_one(self, user_id: UserId, delay_id: str) -> DelayedEvent | FinalisedEvent:
        """Raises: NoDelayedEvent."""
        event = await self.database.read(store.load_delayed_event, delay_id)
        if event is None or event.user_id != user_id:
            raise NoDelayedEvent
        return event

    # The actions, on any user's event: whoever calls them has seen to it that the requester may.

    async def restart(self, delay_id: str) -> None:
        """Raises: NoDelayedEvent, DelayedEventFinalised, also when it is being sent."""
        now_ms = self.clock.time_ms()
        due_ms = await self.database.run(store.restart_delayed_event, delay_id, now_ms)
        if due_ms is None:
            raise await self._reason(delay_id)
        self._wait_until(due_ms)

    async def cancel(self, delay_id: str) -> None:
        """Nothing happens when it was cancelled before.

        Raises: NoDelayedEvent, DelayedEventFinalised, also when it is being sent.
        """
        if await self.database.run(store.cancel_delayed_event, delay_id, *self._now()):
            return
        finalised = await self.database.read(store.load_finalised_event, delay_id)
        if finalised is None or finalised.event_id is not None:
            raise await self._reason(delay_id)

    async def send_now(self, delay_id: str) -> None:
        """Nothing happens when it was sent before.

        Raises: NoDelayedEvent, DelayedEventFinalised; what sending raises, and the event goes on waiting then.
        """
        event = await self.database.run(store.hasten_delayed_event, delay_id)
        if event is not None:
            await self._send_before_time(event)
            return
        finalised = await self.database.read(store.load_finalised_event, delay_id)
        if finalised is None or finalised.event_id is None:
            raise await self._reason(delay_id)

    async def _send_before_time(self, event: DelayedEvent) -> None:
        try:
            await self._send(event)
        except MatrixError:
            due_ms = await self.database.run(store.keep_waiting, event.delay_id)
            if due_ms is not None:
                self._wait_until(due_ms)
            raise

    async def _reason(self, delay_id: str) -> MatrixError:
        """Why nothing could be done with it."""
        event = await self.database.read(store.load_delayed_event, delay_id)
        if event is None:
            return NoDelayedEvent()
        if isinstance(event, FinalisedEvent) and event.event_id is None:
            return DelayedEventFinalised("The delayed event was cancelled")
        return DelayedEventFinalised("The delayed event was sent")

    def _now(self) -> tuple[int, Retention]:
        now_ms = self.clock.time_ms()
        return now_ms, Retention(now_ms - KEPT_MS, KEPT_OF_USER)

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
        self.background.run(self._send_due(), "Delayed events could not be sent", self._retry)

    def _retry(self) -> None:
        self._wait_until(self.clock.time_ms() + RETRY_MS)

    async def _send_due(self) -> None:
        await self._send_abandoned()
        while not self._stopped:
            now_ms = self.clock.time_ms()
            due, following_ms = await self.database.read(store.load_due, now_ms, BATCH)
            for event in due:
                if self._stopped:
                    return
                if not await self.database.run(store.begin_sending, event.delay_id, now_ms):
                    continue
                await self._send_in_time(event)
            if not due:
                self._wait_until(self._look_at_ms if following_ms is None else min(following_ms, self._look_at_ms))
                return

    async def _send_abandoned(self) -> None:
        """Send what was being sent at the last look and still is: whoever began it has ended."""
        now_ms = self.clock.time_ms()
        if now_ms < self._look_at_ms:
            return
        begun, before = await self.database.read(store.load_begun), self._begun
        for event in begun:
            if before is None or event.delay_id in before:
                await self._send_in_time(event)
        self._begun, self._look_at_ms = {event.delay_id for event in begun}, now_ms + LOOK_AGAIN_MS

    async def _send_in_time(self, event: DelayedEvent) -> None:
        """Send it, or give it up."""
        try:
            await self._send(event)
        except MatrixError as error:
            logger.info("A delayed event of %s was not sent: %s", event.user_id, error.error)
            told = encode_json(error.to_json()).decode()
            await self.database.run(partial(store.finalise_delayed_event, error=told), event.delay_id, *self._now())

    async def _send(self, event: DelayedEvent) -> None:
        """Raises: MatrixError, when it may not be sent; then it is still there."""
        event_id = await self._send_as_user(event)
        await self.database.run(partial(store.finalise_delayed_event, event_id=event_id), event.delay_id, *self._now())
        if event.state_key is not None:
            await self._give_up_outdated((event.room_id, event.type, event.state_key), event.user_id)

    async def _send_as_user(self, event: DelayedEvent) -> EventId:
        """Raises: MatrixError. What the user may do now counts, not what they could when they scheduled it."""
        user = await self.database.read(load_user, event.user_id)
        if user is None or user.is_deactivated:
            raise Forbidden("The account was deactivated")
        if user.is_locked:
            raise UserLocked
        requester = Requester(event.user_id, event.device_id, is_suspended=user.is_suspended)
        content, delay_id = orjson.loads(event.content), event.delay_id
        if event.state_key is None:
            send = self.sending.send
            return await send(requester, event.room_id, event.type, content, delay_id, event.sticky_ms, is_delayed=True)
        return await self.sending.set_state(
            requester,
            event.room_id,
            event.type,
            event.state_key,
            content,
            sticky_ms=event.sticky_ms,
            delay_id=delay_id,
        )
