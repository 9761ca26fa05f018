"""What one server has not got yet.

A destination keeps the items that wait for it, in the order of the log. While it holds all of them it is complete. When
it can't keep up they are too many to keep: it lets go of them, and from then on reads its backlog, a page at a time,
until nothing is left; then it is complete again.

Invariants:
- Items of a complete destination come in the order of their positions, and those up to `shadowed` are in its backlog too.
- Of an incomplete one, everything undelivered is in its backlog.
- Receipts in memory are not in the backlog, in any case; those in it are sent when nothing else waits.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain, islice, takewhile
from typing import Any

from attrs import define, evolve, field

from federation.outbound.items import MAX_EDUS, MAX_PDUS, PDU_KINDS, Ephemeral, Item, Receipt, Transaction
from homeserver.matrix.ids import ServerName


@define(eq=False)
class Destination:
    server: ServerName
    complete: bool = True
    has_backlog: bool = False
    shadowed: int = 0
    failures: int = 0
    ready: bool = False  # it stands in the line, or it is its turn
    busy_since_ms: int | None = None
    line: Any = None  # whose turn it has
    hanging: bool = False
    timer: Any = None
    retry_ms: int = 0  # when it is asked again, on the monotonic clock
    woken: bool = False  # it called us: ask it although it failed lately
    unsure: Transaction | None = None  # failed; perhaps it arrived
    queue: deque[Item] = field(factory=deque)
    ephemeral: OrderedDict[Hashable, Ephemeral] = field(factory=OrderedDict)
    receipts: OrderedDict[Hashable, Receipt] = field(factory=OrderedDict)
    owes_receipts: bool = False  # there are such in the backlog, or there may be

    @property
    def has_work(self) -> bool:
        return self.has_waiting or bool(self.unsure or self.owes_receipts or not self.complete)

    @property
    def has_waiting(self) -> bool:
        """In memory."""
        return bool(self.queue or self.ephemeral or self.receipts)

    @property
    def is_idle(self) -> bool:
        """Nothing is known of it that memory would have to keep."""
        return not (self.has_work or self.ready or self.has_backlog or self.failures or self.timer)

    def push(self, item: Item, limit: int) -> bool:
        """Queue an item of a complete destination; False if that are too many now."""
        self.queue.append(item)
        return len(self.queue) <= limit

    def push_ephemeral(self, ephemeral: Ephemeral, limit: int) -> None:
        """Beyond the limit the oldest go."""
        self.ephemeral.pop(ephemeral.key, None)
        self.ephemeral[ephemeral.key] = ephemeral
        while len(self.ephemeral) > limit:
            self.ephemeral.popitem(last=False)

    def push_receipt(self, receipt: Receipt, limit: int) -> bool:
        """False where it has to go to the backlog."""
        if self.failures or self.owes_receipts or not self.complete:
            return False
        self.receipts.pop(receipt.key, None)
        if len(self.receipts) >= limit:
            return False
        self.receipts[receipt.key] = receipt
        return True

    def take_back_receipts(self) -> list[Receipt]:
        """Those that would be lost with the process, also from what is under way; the caller puts them in the backlog."""
        sent = self._sent_receipts()
        found = [*sent, *self.receipts.values()]
        if self.unsure is not None and sent:
            self.unsure = evolve(self.unsure, receipts=())
        self.receipts.clear()
        self.owes_receipts = self.owes_receipts or bool(found)
        return found

    def first_receipt(self) -> Receipt | None:
        """Of those in memory."""
        return next(iter((*self._sent_receipts()[:1], *islice(self.receipts.values(), 1))), None)

    def _sent_receipts(self) -> Sequence[Receipt]:
        return self.unsure.receipts if self.unsure is not None and not self.unsure.from_backlog else ()

    def take_unshadowed(self) -> list[Item]:
        """Those that would be lost with the process, in order; the caller puts them in the backlog."""
        found = list(takewhile(lambda item: item.position > self.shadowed, self._newest_first()))
        found.reverse()
        if found:
            self.shadowed = found[-1].position
            self.has_backlog = True
        return found

    def first_unshadowed(self) -> Item | None:
        """Of a complete destination."""
        return next((item for item in chain(self._sent(), self.queue) if item.position > self.shadowed), None)

    def _newest_first(self) -> Iterable[Item]:
        return chain(reversed(self.queue), reversed(self._sent()))

    def _sent(self) -> Sequence[Item]:
        return self.unsure.items if self.unsure is not None and not self.unsure.from_backlog else ()

    def let_go(self) -> None:
        """Keep nothing: what is undelivered is in the backlog."""
        self.queue.clear()
        self.unsure = None
        self.complete = False

    def take(self, txn_id: str, now_ms: int) -> Transaction:
        """The next transaction of a complete destination. It stays `unsure` until the sender knows."""
        pdus = edus = 0
        items: list[Item] = []
        for item in self.queue:
            if pdus + (item.kind in PDU_KINDS) > MAX_PDUS or edus + item.edus > MAX_EDUS:
                break
            pdus, edus = pdus + (item.kind in PDU_KINDS), edus + item.edus
            items.append(item)
        for _ in items:
            self.queue.popleft()
        receipts = self._take_receipts(MAX_EDUS - edus)
        ephemeral = self.take_ephemeral(MAX_EDUS - edus - len(receipts), now_ms)
        self.unsure = Transaction(txn_id, items, ephemeral, receipts)
        return self.unsure

    def _take_receipts(self, limit: int) -> list[Receipt]:
        """The oldest; at most half of what there is room for, where that is wanted by others."""
        keys = list(islice(self.receipts, max(limit // 2, limit - len(self.ephemeral))))
        return [self.receipts.pop(key) for key in keys]

    def take_ephemeral(self, limit: int, now_ms: int) -> list[Ephemeral]:
        """At most `limit`, oldest first; those whose time is over are dropped."""
        keys = list(islice(self.ephemeral, limit))
        taken = [self.ephemeral.pop(key) for key in keys]
        return [ephemeral for ephemeral in taken if ephemeral.expires_ms > now_ms]

    def keep_lasting(self, expires_after_ms: int) -> None:
        """A transaction failed: what is of no use later is dropped. With items in it, it is sent again as it was."""
        lasting = {key: each for key, each in self.ephemeral.items() if each.expires_ms > expires_after_ms}
        if self.unsure is not None and not self.unsure.items:
            unsent = {each.key: each for each in self.unsure.ephemeral if each.expires_ms > expires_after_ms}
            lasting = {**unsent, **lasting}
            self.unsure = None
        self.ephemeral = OrderedDict(lasting)
