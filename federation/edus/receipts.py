"""m.receipt: what our users have read, to the servers in the room (never private receipts); and what theirs have.

A receipt may come before the event that it names; early_receipts.py keeps it until then. It is stored before the transaction that
brought it is answered, for the other server sends it only once.

Spec: server-server-api#receipts
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from attrs import define

from federation.edus.early_receipts import EarlyReceipts
from federation.outbound.backlog import EVERYTHING
from federation.outbound.items import MAX_EDUS, Receipt, Transaction
from homeserver.folds.room_servers import RoomServers
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of, is_user_of
from homeserver.matrix.limits import MAX_ID_BYTES
from homeserver.rooms.receipts import READ, Receipts
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import gather
from homeserver.runtime.db import Database
from homeserver.store.early_receipts import EarlyReceipt
from homeserver.store.log import LogRow
from homeserver.store.owed_receipts import RECEIPT, OwedReceipt, load_owed_receipts
from homeserver.store.receipts import UNTHREADED

logger = logging.getLogger(__name__)

EDU: Final = "m.receipt"
ROOMS_AT_ONCE: Final = 50  # of a backlog
MAX_RECEIPTS: Final = 1_000  # in one EDU
AT_ONCE: Final = 50
MAX_EVENT_IDS: Final = 10
MAX_TS_MS: Final = 2**53


@define(eq=False)
class ReceiptSource:
    """Our users' receipts: as the log tells of them, and as the table has them for a server that missed some."""

    server_name: ServerName
    database: Database
    servers: RoomServers
    kind: str = RECEIPT
    log_kinds: Sequence[str] = (RECEIPT,)

    def get_addressed(self, row: LogRow) -> tuple[Receipt, Sequence[ServerName]] | None:
        data = row.data
        read = OwedReceipt(data["user_id"], data["thread_id"], data["event_id"], data["ts_ms"], row.position)
        receipt = _build(RoomId(row.key), read)
        if data["receipt_type"] != READ or domain_of(read.user_id) != self.server_name:
            return receipt, ()
        members = self.servers.get(RoomId(row.key))
        return None if members is None else (receipt, list(members.servers))

    async def load_missing(self, row: LogRow) -> None:
        await self.servers.load(RoomId(row.key))

    async def load_owed(self, server: ServerName, txn_id: str) -> Transaction | None:
        """The next of those that stand in the server's backlog; None when there are none. Of a room that the server is in no
        more it gets nothing.
        """
        rooms = await self.database.read(load_owed_receipts, server, self.server_name, ROOMS_AT_ONCE, MAX_EDUS)
        if not rooms:
            return None
        known = await self.servers.load_many([room.room_id for room in rooms])
        receipts, before = [], {}
        for room in rooms:
            members = known.get(room.room_id)
            if members is None or server not in members.servers:
                before[room.room_id] = EVERYTHING
                continue
            receipts += [_build(room.room_id, read) for read in room.receipts]
            before[room.room_id] = room.receipts[-1].position + 1 if room.receipts else room.since
        return Transaction(txn_id, receipts=receipts, from_backlog=True, receipts_before=before)


def _build(room_id: RoomId, read: OwedReceipt) -> Receipt:
    about: dict[str, Any] = {"ts": read.ts_ms}
    if read.thread_id != UNTHREADED:
        about["thread_id"] = read.thread_id
    receipt = {"data": about, "event_ids": [read.event_id]}
    edu = {"edu_type": EDU, "content": {room_id: {READ: {read.user_id: receipt}}}}
    return Receipt(read.position, room_id, (room_id, read.user_id, read.thread_id), edu)


@define(eq=False)
class ReceiptReceiver:
    """Takes in other servers' receipts; follows the log for those that came too early."""

    clock: Clock
    receipts: Receipts
    early: EarlyReceipts
    background: Background

    async def resume(self) -> None:
        """Know those that came too early in an earlier run, and let go of old ones; at the start, and now and then."""
        await self._take_early(await self.early.resume())

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """What is not well-formed, or not the origin's to say, is passed over.

        Spec: server-server-api#definition-mreceipt
        """
        receipts = list(islice(_parse(origin, content, self.clock.time_ms()), MAX_RECEIPTS))
        taken = await self._take_all(receipts)
        early = [receipt for receipt, is_taken in zip(receipts, taken, strict=True) if not is_taken]
        await self._take_early(await self.early.save(early, (receipt.key for receipt in receipts)))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            waiting = self.early.get_waiting(row.data.get("event_id")) if row.kind == "event" else ()
            if waiting:
                self.background.run(self._take_early(waiting), "Receipts that came early could not be taken in")

    async def _take_early(self, receipts: Sequence[EarlyReceipt]) -> None:
        taken = await self._take_all(receipts)
        await self.early.drop([receipt for receipt, is_taken in zip(receipts, taken, strict=True) if is_taken])

    async def _take_all(self, receipts: Sequence[EarlyReceipt]) -> list[bool]:
        """Of each, whether that was all: False where its event has not come yet."""
        taken: list[bool] = []
        for first in range(0, len(receipts), AT_ONCE):
            taken += await gather([self._take(receipt) for receipt in receipts[first : first + AT_ONCE]])
        return taken

    async def _take(self, receipt: EarlyReceipt) -> bool:
        try:
            await self.receipts.set_receipt(
                receipt.user_id, receipt.room_id, READ, receipt.event_id, receipt.thread_id, receipt.ts_ms
            )
        except NotFound:
            return False
        except MatrixError as error:
            logger.debug("A receipt of %s is passed over: %s", receipt.user_id, error.error)
        return True


def _parse(origin: ServerName, content: Mapping[str, Any], now_ms: int) -> Iterable[EarlyReceipt]:
    for room_id, kinds in content.items():
        users = kinds.get(READ) if isinstance(kinds, dict) else None
        for user_id, receipt in users.items() if isinstance(users, dict) else ():
            if is_user_of(user_id, origin) and isinstance(receipt, dict):
                yield from _of_user(RoomId(room_id), UserId(user_id), receipt, now_ms)


def _of_user(room_id: RoomId, user_id: UserId, receipt: Mapping[str, Any], now_ms: int) -> Iterable[EarlyReceipt]:
    data, event_ids = receipt.get("data"), receipt.get("event_ids")
    about = data if isinstance(data, dict) else {}
    thread_id, ts_ms = about.get("thread_id"), about.get("ts")
    if thread_id is not None and not _is_id(thread_id):
        return
    if isinstance(ts_ms, bool) or not (isinstance(ts_ms, int) and 0 <= ts_ms < MAX_TS_MS):
        ts_ms = now_ms
    for event_id in event_ids[:MAX_EVENT_IDS] if isinstance(event_ids, list) else ():
        if _is_id(event_id):
            yield EarlyReceipt(room_id, user_id, thread_id or UNTHREADED, EventId(event_id), ts_ms, now_ms)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES and "\0" not in value
