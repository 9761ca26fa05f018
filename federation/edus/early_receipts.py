"""Receipts that came before the event that they name, which travels another way: they wait for it, over restarts too.

The table is what a restart leaves; memory tells, without asking it, whether something waits for an event that comes. Of each
user and thread only the newest waits. With several processes each knows those that it took in itself and those that it found
in the table, where it looks when it starts and now and then.

So that no server fills either: a server's own oldest go when it has too many in a room, or in all. Only when all of them
together have too many, the oldest go of the one that has most.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Final

from attrs import define, field

from homeserver.matrix.ids import EventId, domain_of
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.early_receipts import (
    EarlyReceipt,
    ReceiptKey,
    delete_old_early_receipts,
    load_arrived_receipts,
    load_early_receipts,
    save_early_receipts,
)

MAX_IN_ROOM: Final = 200  # of one server
MAX_OF_SERVER: Final = 1_000
MAX_IN_ALL: Final = 10_000
MAX_AGE_MS: Final = 7 * 24 * 3600 * 1000

_Index = dict[Hashable, dict[ReceiptKey, None]]


@define(eq=False)
class EarlyReceipts:
    database: Database
    clock: Clock
    _receipts: dict[ReceiptKey, EarlyReceipt] = field(factory=dict, init=False)
    # Their keys, oldest first: by server, by server and room, by event.
    _of_server: _Index = field(factory=dict, init=False)
    _in_room: _Index = field(factory=dict, init=False)
    _of_event: _Index = field(factory=dict, init=False)

    def get_waiting(self, event_id: EventId | None) -> list[EarlyReceipt]:
        """Those for an event."""
        return [self._receipts[key] for key in self._of_event.get(event_id or "", ())]

    async def resume(self) -> list[EarlyReceipt]:
        """Read what is in the table, and let go of what is old; those whose event is there."""
        before_ms = self.clock.time_ms() - MAX_AGE_MS
        await self.drop([each for each in self._receipts.values() if each.received_ts_ms < before_ms])
        await self.database.run(delete_old_early_receipts, before_ms)
        stored = await self.database.read(load_early_receipts)
        await self.drop(self._add([each for each in stored if each.key not in self._receipts]))
        return await self.database.read(load_arrived_receipts, list(self._of_event))

    async def save(self, receipts: Sequence[EarlyReceipt], over: Iterable[ReceiptKey]) -> list[EarlyReceipt]:
        """Have the receipts wait; what waited under the keys in `over` does so no more. Those whose event came meanwhile."""
        if not (receipts or self._receipts):
            return []
        dropped = [self._receipts[key] for key in {*over} if key in self._receipts]
        for receipt in dropped:
            self._remove(receipt)
        dropped += self._add(receipts)
        kept = [receipt for receipt in receipts if self._receipts.get(receipt.key) is receipt]
        if not (kept or dropped):
            return []
        return await self.database.run(save_early_receipts, kept, dropped)

    async def drop(self, receipts: Sequence[EarlyReceipt]) -> None:
        """They wait no more; what took the place of one does."""
        for receipt in receipts:
            self._remove(receipt)
        if receipts:
            await self.database.run(save_early_receipts, (), receipts)

    def _add(self, receipts: Iterable[EarlyReceipt]) -> list[EarlyReceipt]:
        """Those that have to go for them."""
        gone = []
        for receipt in receipts:
            known = self._receipts.get(receipt.key)
            if known is not None:
                self._remove(known)
            self._receipts[receipt.key] = receipt
            for index, name in self._indexes(receipt):
                index.setdefault(name, {})[receipt.key] = None
            excess = self._find_excess(receipt)
            if excess is not None:
                self._remove(excess)
                gone.append(excess)
        return gone

    def _find_excess(self, newest: EarlyReceipt) -> EarlyReceipt | None:
        """Which is one too many, with this one."""
        server = domain_of(newest.user_id)
        in_room, mine = self._in_room[server, newest.room_id], self._of_server[server]
        if len(in_room) > MAX_IN_ROOM:
            crowd = in_room
        elif len(mine) > MAX_OF_SERVER:
            crowd = mine
        elif len(self._receipts) > MAX_IN_ALL:
            crowd = max(self._of_server.values(), key=len)
        else:
            return None
        return self._receipts[next(iter(crowd))]

    def _remove(self, receipt: EarlyReceipt) -> None:
        known = self._receipts.get(receipt.key)
        if known is None or known.event_id != receipt.event_id:
            return
        del self._receipts[receipt.key]
        for index, name in self._indexes(receipt):
            del index[name][receipt.key]
            if not index[name]:
                del index[name]

    def _indexes(self, receipt: EarlyReceipt) -> Sequence[tuple[_Index, Hashable]]:
        server = domain_of(receipt.user_id)
        return (
            (self._of_server, server),
            (self._in_room, (server, receipt.room_id)),
            (self._of_event, receipt.event_id),
        )
