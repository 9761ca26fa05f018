"""The same transaction again has the same answer, for ever.

What was done lately is answered from memory, what is being done right now is waited for; everything older is found by
the unique key in the database, when the log writer refuses to write it a second time. So a new transaction, the rule,
costs no query. Where the event would be refused before that (its sender has left the room since, say), the database is
asked first: what was allowed when it came first has its answer.

Spec: client-server-api#transaction-identifiers
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

from attrs import define, field
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import EventId
from homeserver.runtime.db import Database
from homeserver.store.log_writer import DuplicateTransaction
from homeserver.store.room_writes import Transaction, load_transactions

RECENT_TRANSACTIONS = 20_000


@define(eq=False)
class Transactions:
    """Event transactions, by user, device and the rest of the request path."""

    database: Database
    _done: OrderedDict[Transaction, EventId] = field(factory=OrderedDict, init=False)
    _doing: dict[Transaction, list[Deferred[EventId]]] = field(factory=dict, init=False)

    async def once(self, transaction: Transaction, send: Callable[[], Awaitable[EventId]]) -> EventId:
        """The event that `send` makes, or that it made when the transaction came first.

        All that may refuse the event belongs into `send`, so that it is not asked about one that was sent.
        """
        done = self._done.get(transaction)
        if done is not None:
            return done
        if transaction in self._doing:
            waiting: Deferred[EventId] = Deferred()
            self._doing[transaction].append(waiting)
            return await waiting
        return await self._do(transaction, send)

    async def _do(self, transaction: Transaction, send: Callable[[], Awaitable[EventId]]) -> EventId:
        self._doing[transaction] = []
        try:
            event_id = await self._send_or_load(transaction, send)
        except BaseException as error:
            for waiting in self._doing.pop(transaction):
                if not waiting.called:
                    waiting.errback(error)
            raise
        self._done[transaction] = event_id
        if len(self._done) > RECENT_TRANSACTIONS:
            self._done.popitem(last=False)
        for waiting in self._doing.pop(transaction):
            if not waiting.called:
                waiting.callback(event_id)
        return event_id

    async def _send_or_load(self, transaction: Transaction, send: Callable[[], Awaitable[EventId]]) -> EventId:
        try:
            return await send()
        except DuplicateTransaction as duplicate:
            return duplicate.event_id
        except MatrixError:
            known = await self.database.read(load_transactions, [transaction])
            if transaction not in known:
                raise
            return known[transaction]
