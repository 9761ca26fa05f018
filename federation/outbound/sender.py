"""Whose turn it is to be sent something.

A turn is one transaction to one server. Servers with something waiting stand in a line; so many turns are taken at once,
and a server with more to get goes to the line's end. Servers that failed lately have a line and turns of their own, so that
those which hang hold up none that answer. A server in neither line costs no task and no timer, and no memory when it has
everything.

A server that fails is left until the client's backoff says so, or until it calls us (`wake`). One that takes no more for now
(429) is left for as long as it says, within bounds.

Spec: server-server-api#transactions
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from random import Random
from typing import Any, Final, Protocol
from urllib.parse import quote

from attrs import define, field
from twisted.internet.defer import Deferred

from federation.errors import BackingOff, NotAllowed, RemoteRefused, RemoteUnreachable
from federation.outbound.backlog import Backlog
from federation.outbound.destination import Destination
from federation.outbound.items import MAX_EDUS, Ephemeral, Item, Receipt, Transaction
from federation.outbound.transactions import TransactionBodies
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import Clock

logger = logging.getLogger(__name__)

TURNS: Final = 200  # transactions on their way at once
TURNS_FAILING: Final = 50  # the same, to servers that failed lately
FIRST_RETRY_MS: Final = 2_000
MAX_RETRY_MS: Final = 600_000
MAX_HANGING: Final = 800
TURNS_AT_ONCE: Final = 20  # begun without letting anything else happen
TIMEOUT_MS: Final = 60_000
SLOW_MS: Final = 5_000  # a transaction under way for so long no longer holds the cursor back
STOP_MS: Final = 5_000
# Items in memory for one server: a peer that is slow gets everything in order, one that is away for long the newest.
MAX_QUEUED: Final = 10_000
MIN_QUEUED: Final = 250
MAX_QUEUED_FAILING: Final = 250
MAX_QUEUED_IN_ALL: Final = 1_000_000
MAX_EPHEMERAL: Final = 1_000  # EDUs in memory for one server
MAX_RECEIPTS: Final = 1_000  # the same
MAX_EPHEMERAL_FAILING: Final = 50_000  # about as many for all that fail, but each may have
MIN_EPHEMERAL: Final = 10
# An EDU of a longer life waits for a server that fails even if that is asked again only later: it may call us.
LASTING_MS: Final = 300_000
HOLD_MS_PER_SERVER: Final = 10
MIN_HOLD_MS: Final = 100
MAX_HOLD_MS: Final = 3_000
MAX_ANSWER_BYTES: Final = 1_000_000
# The peer does not take what is in the transaction, and will not later: it is sent in smaller parts to find out what.
UNACCEPTABLE: Final = frozenset({400, 413})


class Client(Protocol):
    """What sending needs of federation's client."""

    async def put(
        self, server: ServerName, path: str, body: Any, *, timeout_ms: int, max_bytes: int, patient: bool
    ) -> Any:
        """Raises: RemoteUnreachable, RemoteRefused."""
        ...

    def check(self, server: ServerName, /) -> None:
        """Raises: NotAllowed, BackingOff."""
        ...


LoadReceipts = Callable[[ServerName, str], Coroutine[Any, Any, Transaction | None]]


@define(eq=False)
class _Line:
    turns: int
    waiting: deque[Destination] = field(factory=deque)
    running: int = 0
    hanging: int = 0  # of those running: they leave their turns to others
    scheduled: bool = False
    looking: bool = False  # for those that hang, before long

    @property
    def free(self) -> int:
        return self.turns + self.hanging - self.running


@define(eq=False)
class Sender:
    """All destinations; see the module's text. load_receipts: a transaction of those in a server's backlog, under this id."""

    client: Client
    clock: Clock
    backlog: Backlog
    bodies: TransactionBodies
    load_receipts: LoadReceipts
    _random: Random = field(factory=Random, init=False)
    _destinations: dict[ServerName, Destination] = field(factory=dict, init=False)
    _healthy: _Line = field(factory=lambda: _Line(TURNS), init=False)
    _failing: _Line = field(factory=lambda: _Line(TURNS_FAILING), init=False)
    _txn_count: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _quiet: Deferred[None] | None = field(default=None, init=False)

    async def start(self) -> None:
        """Take up the backlogs of the last run."""
        self._txn_count = self.clock.time_ms()
        for server in await self.backlog.load_servers():
            self._destinations[server] = Destination(
                server, complete=False, has_backlog=True, failures=1, owes_receipts=True
            )
            self._line_up(self._destinations[server])

    async def stop(self) -> None:
        """Let the transactions that are under way end, within STOP_MS; what is undelivered is saved."""
        self._stopped = True
        for destination in self._destinations.values():
            self._stop_timer(destination)
        if self._healthy.running or self._failing.running:
            self._quiet = Deferred()
            timer: Any = self.clock.call_later(STOP_MS, self._note_quiet)
            await self._quiet
            if timer.active():
                timer.cancel()
        for destination in self._destinations.values():
            self._shadow(destination)

    # -- what there is to send ---------------------------------------------------------------------------------------

    def offer(self, item: Item | Receipt, servers: Collection[ServerName]) -> None:
        """The servers must get the item; they are given a turn if they have none, for a receipt in a moment."""
        if isinstance(item, Receipt):
            self._offer_receipt(item, servers)
        else:
            self._offer_item(item, servers)
        self.backlog.schedule()

    def _offer_item(self, item: Item, servers: Collection[ServerName]) -> None:
        limit = max(MIN_QUEUED, min(MAX_QUEUED, MAX_QUEUED_IN_ALL // (len(self._destinations) + 1)))
        for server in servers:
            destination = self._get(server)
            if not destination.complete:
                self.backlog.note(server, item)
            elif not destination.push(item, MAX_QUEUED_FAILING if destination.failures else limit):
                self._shadow(destination)
                destination.let_go()
            self._line_up(destination)

    def _offer_receipt(self, receipt: Receipt, servers: Collection[ServerName]) -> None:
        for server in servers:
            destination = self._get(server)
            if not destination.push_receipt(receipt, MAX_RECEIPTS):
                destination.owes_receipts = True
                self.backlog.note_receipts(server, (receipt,))
        self._line_up_later(servers)

    def send_ephemeral(
        self, servers: Collection[ServerName], key: Any, edu: Any, lifetime_ms: int, *, is_urgent: bool = True
    ) -> None:
        """Tell the servers if they can be reached within the lifetime. What was offered under the same key is replaced.

        What is not urgent waits a moment, the longer the more servers it goes to: so more goes with it.
        """
        ephemeral = Ephemeral(key, edu, self.clock.monotonic_ms() + lifetime_ms)
        offered = [server for server in servers if self._push_ephemeral(server, ephemeral)]
        if is_urgent:
            self._line_up_all(offered)
        else:
            self._line_up_later(offered)

    def _line_up_later(self, servers: Collection[ServerName]) -> None:
        delay_ms = min(HOLD_MS_PER_SERVER * len(servers), MAX_HOLD_MS)
        if delay_ms >= MIN_HOLD_MS:
            self.clock.call_later(delay_ms, self._line_up_all, servers)
        else:
            self._line_up_all(servers)

    def _push_ephemeral(self, server: ServerName, ephemeral: Ephemeral) -> bool:
        """False where it would be too late: a server that fails may be there again with the request that is under way, or with
        the next. Such servers share a bound, so that thousands of them cost little.
        """
        destination = self._get(server)
        if not destination.failures:
            destination.push_ephemeral(ephemeral, MAX_EPHEMERAL)
        elif destination.busy_since_ms is not None or ephemeral.expires_ms > self._lasting_ms(destination):
            share = MAX_EPHEMERAL_FAILING // len(self._destinations)
            destination.push_ephemeral(ephemeral, min(MAX_EPHEMERAL, max(share, MIN_EPHEMERAL)))
        else:
            return False
        return True

    def _line_up_all(self, servers: Iterable[ServerName]) -> None:
        for server in servers:
            destination = self._destinations.get(server)
            if destination is not None and destination.has_work:
                self._line_up(destination)

    def wake(self, server: ServerName) -> None:
        """The server is there, for it called us."""
        destination = self._destinations.get(server)
        if destination is not None and destination.timer is not None:
            self._stop_timer(destination)
            destination.woken = True
            self._line_up(destination)

    def get_cursor(self, position: int) -> int:
        """How far all that is before `position` is delivered or in a backlog. What fails, or is slow, is put in one."""
        now_ms = self.clock.monotonic_ms()
        for destination in self._destinations.values():
            busy = destination.busy_since_ms
            if destination.failures or (busy is not None and now_ms - busy >= SLOW_MS):
                self._shadow(destination)
                continue
            if destination.complete and (first := destination.first_unshadowed()) is not None:
                position = min(position, first.position - 1)
            if (receipt := destination.first_receipt()) is not None:
                position = min(position, receipt.position - 1)
        return position

    # -- turns -------------------------------------------------------------------------------------------------------

    def _get(self, server: ServerName) -> Destination:
        destination = self._destinations.get(server)
        if destination is None:
            destination = self._destinations[server] = Destination(server)
        return destination

    def _line_up(self, destination: Destination) -> None:
        if destination.ready or destination.timer is not None or self._stopped:
            return
        destination.ready = True
        line = self._failing if destination.failures else self._healthy
        line.waiting.append(destination)
        self._schedule(line)

    def _schedule(self, line: _Line) -> None:
        """Give turns once the reactor has done what it is at: answering the client whose event it is comes first."""
        if not line.waiting or self._stopped:
            return
        if line.free > 0 and not line.scheduled:
            line.scheduled = True
            self.clock.call_later(0, self._give_turns, line)
        elif line.free <= 0 and not line.looking:
            line.looking = True
            self.clock.call_later(SLOW_MS, self._find_hanging, line)

    def _find_hanging(self, line: _Line) -> None:
        line.looking = False
        slow_ms = self.clock.monotonic_ms() - SLOW_MS
        for destination in self._destinations.values():
            since_ms = destination.busy_since_ms
            if since_ms is not None and since_ms <= slow_ms and destination.line is line and not destination.hanging:
                destination.hanging = True
                line.hanging += 1
        line.hanging = min(line.hanging, MAX_HANGING)
        self._schedule(line)

    def _give_turns(self, line: _Line) -> None:
        line.scheduled = False
        for _ in range(min(TURNS_AT_ONCE, line.free, len(line.waiting))):
            if self._stopped:
                return
            line.running += 1
            Deferred.fromCoroutine(self._take_turn(line.waiting.popleft(), line)).addErrback(_log_failure)
        self._schedule(line)

    async def _take_turn(self, destination: Destination, line: _Line) -> None:
        destination.line = line
        try:
            await self._send_next(destination)
        except Exception:
            logger.exception("A transaction for %s could not be sent", destination.server)
            self._retry_later(destination, None)
        finally:
            destination.ready = False
            line.running -= 1
            if destination.hanging:
                destination.hanging = False
                line.hanging = max(0, line.hanging - 1)
            self._after_turn(destination, line)

    def _after_turn(self, destination: Destination, line: _Line) -> None:
        if destination.has_work:
            self._line_up(destination)
        else:
            self._let_go_of(destination)
        self._schedule(line)
        if self._stopped and not self._healthy.running + self._failing.running:
            self._note_quiet()

    def _note_quiet(self) -> None:
        quiet, self._quiet = self._quiet, None
        if quiet is not None:
            quiet.callback(None)

    # -- one transaction ---------------------------------------------------------------------------------------------

    async def _send_next(self, destination: Destination) -> None:
        transaction = destination.unsure or await self._build(destination)
        if transaction is None:
            return
        destination.busy_since_ms = self.clock.monotonic_ms()
        try:
            await self._send(destination, transaction)
        except RemoteRefused as error:
            self._on_refused(destination, transaction, error)
        except RemoteUnreachable as error:
            self._retry_later(destination, error)
        else:
            self._on_delivered(destination, transaction)
        finally:
            destination.busy_since_ms = None

    async def _build(self, destination: Destination) -> Transaction | None:
        now_ms = self.clock.monotonic_ms()
        if destination.complete and destination.owes_receipts and not destination.has_waiting:
            return await self._build_owed(destination)
        if destination.complete:
            return destination.take(self._next_txn_id(), now_ms)
        items = await self.backlog.load_page(destination.server)
        if not items and not self.backlog.has_noted(destination.server):
            destination.complete = True
            destination.has_backlog = False
            return None
        room = MAX_EDUS - sum(item.edus for item in items)
        destination.unsure = Transaction(
            self._next_txn_id(), items, destination.take_ephemeral(room, now_ms), from_backlog=True
        )
        return destination.unsure

    async def _build_owed(self, destination: Destination) -> Transaction | None:
        """Of receipts in the backlog, which come last: those whom they tell of should know the events."""
        if self.backlog.is_dirty:
            await self.backlog.flush()
        transaction = await self.load_receipts(destination.server, self._next_txn_id())
        if transaction is not None:
            destination.unsure = transaction
        elif not self.backlog.receipts.has_noted(destination.server):
            destination.owes_receipts = False
        return transaction

    async def _send(self, destination: Destination, transaction: Transaction) -> None:
        """Raises: RemoteUnreachable, RemoteRefused."""
        patient, destination.woken = destination.woken, False
        if not patient:
            self.client.check(destination.server)
        body = await self.bodies.load(transaction, self.clock.time_ms(), self.clock.monotonic_ms())
        if body is None:
            return
        path = "/_matrix/federation/v1/send/" + quote(transaction.txn_id, safe="")
        answer = await self.client.put(
            destination.server, path, body, timeout_ms=TIMEOUT_MS, max_bytes=MAX_ANSWER_BYTES, patient=patient
        )
        _log_rejected(destination.server, answer)

    def _next_txn_id(self) -> str:
        self._txn_count += 1
        return str(self._txn_count)

    def _on_delivered(self, destination: Destination, transaction: Transaction) -> None:
        destination.unsure = None
        destination.failures = 0
        if transaction.receipts_before:
            self.backlog.mark_receipts_sent(destination.server, transaction.receipts_before)
        elif transaction.receipts:
            self.backlog.schedule()  # for the cursor
        if transaction.from_backlog:
            self.backlog.remove(destination.server, transaction.items)
        elif destination.has_backlog and transaction.items:
            last = transaction.items[-1].position
            self.backlog.remove_upto(destination.server, last)
            destination.has_backlog = not destination.complete or destination.shadowed > last

    def _on_refused(self, destination: Destination, transaction: Transaction, error: RemoteRefused) -> None:
        """An error for the transaction as a whole. Where the peer will never take it, only what it minds is given up."""
        if error.status not in UNACCEPTABLE:
            self._retry_later(destination, error)
            return
        items = transaction.items
        if items:
            self._put_receipts_aside(destination)
        if len(items) <= 1:
            logger.warning("%s does not take %s: %s", destination.server, _named(items), error.error)
            self._on_delivered(destination, transaction)
            return
        first = Transaction(self._next_txn_id(), items[: len(items) // 2], from_backlog=transaction.from_backlog)
        if not transaction.from_backlog:
            destination.queue.extendleft(reversed(items[len(items) // 2 :]))
        destination.unsure = first

    # -- failure -----------------------------------------------------------------------------------------------------

    def _retry_later(self, destination: Destination, error: RemoteUnreachable | RemoteRefused | None) -> None:
        if self._stopped:
            return
        if isinstance(error, NotAllowed):
            self._forget(destination)
            return
        destination.failures += 1
        self._put_receipts_aside(destination)
        if destination.timer is None:
            delay_ms = self._delay(destination, error)
            destination.retry_ms = self.clock.monotonic_ms() + delay_ms
            destination.timer = self.clock.call_later(delay_ms, self._on_timer, destination)
        destination.keep_lasting(self._lasting_ms(destination))
        self.backlog.schedule()

    def _lasting_ms(self, destination: Destination) -> int:
        """What expires later is kept for a server that fails."""
        return min(destination.retry_ms, self.clock.monotonic_ms() + LASTING_MS)

    def _delay(self, destination: Destination, error: RemoteUnreachable | RemoteRefused | None) -> int:
        """Until the client would ask the server again, or longer each time where it does not mind; as long as the server says."""
        if isinstance(error, RemoteUnreachable) and not isinstance(error, BackingOff):
            try:
                self.client.check(destination.server)
            except RemoteUnreachable as backing_off:
                error = backing_off
        if isinstance(error, BackingOff):
            return max(1, error.retry_ts_ms - self.clock.time_ms())
        longest = min(FIRST_RETRY_MS * 2 ** min(destination.failures, 20), MAX_RETRY_MS)
        asked_ms = error.retry_after_ms if isinstance(error, RemoteRefused) else 0
        return max(int(longest * self._random.uniform(0.5, 1)), min(asked_ms, MAX_RETRY_MS))

    def _on_timer(self, destination: Destination) -> None:
        destination.timer = None
        if destination.has_work:
            self._line_up(destination)
        else:
            destination.failures = 0
            self._let_go_of(destination)

    def _let_go_of(self, destination: Destination) -> None:
        if destination.is_idle:
            self._destinations.pop(destination.server, None)

    def _stop_timer(self, destination: Destination) -> None:
        if destination.timer is not None:
            destination.timer.cancel()
            destination.timer = None

    def _forget(self, destination: Destination) -> None:
        """This server is not to talk to that one: nothing waits for it."""
        destination.let_go()
        destination.complete = True
        destination.ephemeral.clear()
        destination.receipts.clear()
        destination.owes_receipts = False
        destination.failures = 0
        destination.has_backlog = False
        self.backlog.remove_all(destination.server)

    def _put_receipts_aside(self, destination: Destination) -> None:
        """In the backlog."""
        receipts = destination.take_back_receipts()
        if receipts:
            self.backlog.note_receipts(destination.server, receipts)

    def _shadow(self, destination: Destination) -> None:
        """Have all that is undelivered in the backlog too."""
        self._put_receipts_aside(destination)
        if destination.complete:
            for item in destination.take_unshadowed():
                self.backlog.note(destination.server, item)


def _log_rejected(server: ServerName, answer: Any) -> None:
    """What the peer says of single PDUs: nothing that we could do about it."""
    results: Any = answer.get("pdus") if isinstance(answer, dict) else None
    for event_id, result in results.items() if isinstance(results, dict) else ():
        if isinstance(result, dict) and result.get("error"):
            logger.info("%s does not accept %s: %.200s", server, event_id, result["error"])


def _named(items: Sequence[Item]) -> str:
    return ", ".join(item.event_id or f"{item.kind} {item.key}" for item in items) or "EDUs"


def _log_failure(failure: Any) -> None:
    logger.error("A turn of sending ended badly: %s", failure.value)
