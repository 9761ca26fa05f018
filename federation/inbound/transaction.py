"""Transactions: what another server sends at once, events of many rooms and ephemeral data.

What happens to each event is told in the answer if it is known in a moment; the rest is staged (room_parts.py, room_queue.py)
and the answer does not wait for it. It waits for the EDUs, which are kept nowhere until they are dealt with. A transaction that
comes again gets the answer it had, from memory or the database, and is not dealt with twice. Each server's transactions are
dealt with one at a time, as it should send them.

Spec: server-server-api#transactions
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred

from federation.bounded import Bounded
from federation.inbound.edus import EduHandlers
from federation.inbound.room_parts import RoomParts
from federation.inbound.slots import Slots
from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.errors import LimitExceeded
from homeserver.matrix.ids import EventId, ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import SingleFlight, gather, within
from homeserver.runtime.db import Database
from homeserver.store.received_transactions import (
    KEPT_PER_ORIGIN,
    ReceivedTransaction,
    delete_received_transactions,
    load_received_ids,
    load_received_transaction,
    save_received_transactions,
)

logger = logging.getLogger(__name__)

MAX_PDUS: Final = 50
MAX_EDUS: Final = 100
MAX_WAITING_OF_ORIGIN: Final = 5
MAX_AT_ONCE: Final = 100
RETRY_AFTER_MS: Final = 2_000
ANSWERS_KEPT: Final = 2_000
ORIGINS_KEPT: Final = 2_000
KEPT_FOR_MS: Final = 24 * 3600 * 1000
CLEAN_EVERY_MS: Final = 3600 * 1000
EDUS_TIMEOUT_MS: Final = 30_000
# A transaction whose EDUs take too long is refused, to come again; as often as this, so that none stands in the way for ever.
MAX_TOO_LONG: Final = 3
# PERF: so that many answers share a commit. One that a crash loses went to its server before, which will not ask for it again.
SAVE_AFTER_MS: Final = 1_000

Answer = dict[str, Any]


@define(eq=False)
class Transactions:
    """Receives transactions."""

    clock: Clock
    database: Database
    parts: RoomParts
    edus: EduHandlers
    _answers: Bounded[tuple[ServerName, str], Answer] = field(init=False, factory=lambda: Bounded(ANSWERS_KEPT))
    # Hashes of the ids that the table has of each origin: what is not among them is new, without asking the database.
    _known: Bounded[ServerName, Bounded[int, bool]] = field(init=False, factory=lambda: Bounded(ORIGINS_KEPT))
    _running: SingleFlight[Answer] = field(init=False, factory=SingleFlight)
    _waiting: dict[ServerName, int] = field(init=False, factory=dict)
    _too_long: Bounded[tuple[ServerName, str], int] = field(init=False, factory=lambda: Bounded(ORIGINS_KEPT))
    _slots: Slots = field(init=False, factory=lambda: Slots(MAX_AT_ONCE, 1))
    _unsaved: list[ReceivedTransaction] = field(init=False, factory=list)
    _saving: Any = field(init=False, default=None)
    _cleaned_at_ms: int = field(init=False, default=0)

    async def stop(self) -> None:
        await self.parts.stop()
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        await self._save()

    async def receive(self, origin: ServerName, txn_id: str, pdus: Sequence[object], edus: Sequence[object]) -> Answer:
        """The answer, with what became of the events as far as it is known already.

        Raises: LimitExceeded.
        """
        key = (origin, txn_id)
        answer = self._answers.get(key)
        if answer is not None:
            return answer
        if self._running.is_running(key):
            return await self._running.do(key, lambda: self._receive(origin, txn_id, pdus, edus))
        if self._waiting.get(origin, 0) >= MAX_WAITING_OF_ORIGIN:
            raise LimitExceeded(RETRY_AFTER_MS, "Too many transactions at once")
        self._waiting[origin] = self._waiting.get(origin, 0) + 1
        try:
            return await self._running.do(key, lambda: self._receive(origin, txn_id, pdus, edus))
        finally:
            self._waiting[origin] -= 1
            if not self._waiting[origin]:
                del self._waiting[origin]

    async def _receive(self, origin: ServerName, txn_id: str, pdus: Sequence[object], edus: Sequence[object]) -> Answer:
        async with self._slots.hold(origin):
            saved = await self._load_saved(origin, txn_id)
            answer = decode_json(saved) if saved is not None else await self._deal_with(origin, txn_id, pdus, edus)
        self._answers.put((origin, txn_id), answer)
        if saved is None:
            self._save_later(ReceivedTransaction(origin, txn_id, encode_json(answer), self.clock.time_ms()))
        return answer

    async def _load_saved(self, origin: ServerName, txn_id: str) -> bytes | None:
        """The answer to a transaction that came before, and then marks it as one that did."""
        known = self._known.get(origin)
        if known is None:
            known = Bounded(KEPT_PER_ORIGIN)
            for each in await self.database.read(load_received_ids, origin):
                known.put(hash(each), True)
            self._known.put(origin, known)
        is_known = known.get(hash(txn_id))
        known.put(hash(txn_id), True)
        return await self.database.read(load_received_transaction, origin, txn_id) if is_known else None

    async def _deal_with(
        self, origin: ServerName, txn_id: str, pdus: Sequence[object], edus: Sequence[object]
    ) -> Answer:
        outcomes, _ = await gather([self.parts.receive(origin, pdus), self._receive_edus(origin, txn_id, edus)])
        return {"pdus": {event_id: {"error": error} if error else {} for event_id, error in outcomes.items()}}

    async def _receive_edus(self, origin: ServerName, txn_id: str, edus: Sequence[object]) -> dict[EventId, str | None]:
        """Raises: LimitExceeded, when they take too long."""
        if edus:
            try:
                await within(self.clock, EDUS_TIMEOUT_MS, self.edus.handle_all(origin, edus))
            except TimeoutError:
                self._refuse_again((origin, txn_id), len(edus))
        return {}

    def _refuse_again(self, key: tuple[ServerName, str], count: int) -> None:
        """Raises: LimitExceeded, but not for ever."""
        times = (self._too_long.pop(key) or 0) + 1
        if times < MAX_TOO_LONG:
            self._too_long.put(key, times)
            raise LimitExceeded(RETRY_AFTER_MS, "The EDUs take too long")
        logger.warning("Some of %d EDUs from %s are dropped: they took too long %d times", count, key[0], times)

    # -- answers -------------------------------------------------------------------------------------------------------

    def _save_later(self, transaction: ReceivedTransaction) -> None:
        self._unsaved.append(transaction)
        if self._saving is None:
            self._saving = self.clock.call_later(SAVE_AFTER_MS, self._save_now)

    def _save_now(self) -> None:
        self._saving = None
        Deferred.fromCoroutine(self._save()).addErrback(_log_failure)

    async def _save(self) -> None:
        unsaved, self._unsaved = self._unsaved, []
        if unsaved:
            await self.database.run(save_received_transactions, unsaved)
        now_ms = self.clock.time_ms()
        if now_ms - self._cleaned_at_ms >= CLEAN_EVERY_MS:
            self._cleaned_at_ms = now_ms
            await self.database.run(delete_received_transactions, now_ms - KEPT_FOR_MS)


def _log_failure(failure: Any) -> None:
    logger.error("Answers to transactions can't be saved", exc_info=(failure.type, failure.value, failure.tb))
