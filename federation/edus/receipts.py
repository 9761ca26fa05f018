"""m.receipt: what our users have read, to the servers in the room (never private receipts); and what theirs have.

A receipt may come before the event that it names, which travels another way; such ones are kept for a while.

Spec: server-server-api#receipts
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from federation.outbound.sender import Sender
from homeserver.folds.room_servers import RoomServers
from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of, is_user_of
from homeserver.matrix.limits import MAX_ID_BYTES
from homeserver.rooms.receipts import READ, Receipts
from homeserver.runtime.coroutine import gather
from homeserver.store.log import LogRow
from homeserver.store.receipts import UNTHREADED

logger = logging.getLogger(__name__)

RECEIPT: Final = "m.receipt"
LIFETIME_MS: Final = 24 * 3600 * 1000
MAX_EARLY: Final = 2_000  # events
MAX_EARLY_OF_EVENT: Final = 50
MAX_RECEIPTS: Final = 1_000  # in one EDU
AT_ONCE: Final = 50
MAX_EVENT_IDS: Final = 10
MAX_TS_MS: Final = 2**53


@define(eq=False)
class ReceiptSender:
    """Follows the log's receipts."""

    server_name: ServerName
    servers: RoomServers
    sender: Sender

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == "receipt" and self._is_ours(row.data):
                members = self.servers.get(RoomId(row.key))
                if members is None:
                    Deferred.fromCoroutine(self._send_later(row)).addErrback(_log_failure)
                elif members.servers:
                    self._send(row, list(members.servers))

    def _is_ours(self, data: Mapping[str, Any]) -> bool:
        return data["receipt_type"] == READ and domain_of(data["user_id"]) == self.server_name

    async def _send_later(self, row: LogRow) -> None:
        members = await self.servers.load(RoomId(row.key))
        self._send(row, list(members.servers))

    def _send(self, row: LogRow, servers: Sequence[ServerName]) -> None:
        data = row.data
        about: dict[str, Any] = {"ts": data["ts_ms"]}
        if data["thread_id"] != UNTHREADED:
            about["thread_id"] = data["thread_id"]
        receipt = {"data": about, "event_ids": [data["event_id"]]}
        edu = {"edu_type": RECEIPT, "content": {row.key: {READ: {data["user_id"]: receipt}}}}
        key = (RECEIPT, row.key, data["user_id"], data["thread_id"])
        self.sender.send_ephemeral(servers, key, edu, LIFETIME_MS, is_urgent=False)


@frozen
class _Receipt:
    room_id: RoomId
    user_id: UserId
    event_id: EventId
    thread_id: str
    ts_ms: int | None


@define(eq=False)
class ReceiptReceiver:
    """Takes in other servers' receipts; follows the log for those that came too early."""

    receipts: Receipts
    _early: OrderedDict[EventId, list[_Receipt]] = field(factory=OrderedDict, init=False)

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """What is not well-formed, or not the origin's to say, is passed over.

        Spec: server-server-api#definition-mreceipt
        """
        receipts = list(islice(_parse(origin, content), MAX_RECEIPTS))
        for first in range(0, len(receipts), AT_ONCE):
            await gather([self._take(receipt) for receipt in receipts[first : first + AT_ONCE]])

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        if not self._early:
            return
        for row in rows:
            for receipt in self._early.pop(row.data["event_id"], ()) if row.kind == "event" else ():
                Deferred.fromCoroutine(self._take(receipt)).addErrback(_log_failure)

    async def _take(self, receipt: _Receipt) -> None:
        try:
            await self.receipts.set_receipt(
                receipt.user_id, receipt.room_id, READ, receipt.event_id, receipt.thread_id, receipt.ts_ms
            )
        except NotFound:
            self._keep(receipt)
        except MatrixError as error:
            logger.debug("A receipt of %s is passed over: %s", receipt.user_id, error.error)

    def _keep(self, receipt: _Receipt) -> None:
        early = self._early.setdefault(receipt.event_id, [])
        if len(early) < MAX_EARLY_OF_EVENT:
            early.append(receipt)
        if len(self._early) > MAX_EARLY:
            self._early.popitem(last=False)


def _parse(origin: ServerName, content: Mapping[str, Any]) -> Iterable[_Receipt]:
    for room_id, kinds in content.items():
        users = kinds.get(READ) if isinstance(kinds, dict) else None
        for user_id, receipt in users.items() if isinstance(users, dict) else ():
            if is_user_of(user_id, origin) and isinstance(receipt, dict):
                yield from _of_user(RoomId(room_id), UserId(user_id), receipt)


def _of_user(room_id: RoomId, user_id: UserId, receipt: Mapping[str, Any]) -> Iterable[_Receipt]:
    data, event_ids = receipt.get("data"), receipt.get("event_ids")
    about = data if isinstance(data, dict) else {}
    thread_id, ts_ms = about.get("thread_id"), about.get("ts")
    if thread_id is not None and not _is_id(thread_id):
        return
    if isinstance(ts_ms, bool) or not (isinstance(ts_ms, int) and 0 <= ts_ms < MAX_TS_MS):
        ts_ms = None
    for event_id in event_ids[:MAX_EVENT_IDS] if isinstance(event_ids, list) else ():
        if _is_id(event_id):
            yield _Receipt(room_id, user_id, EventId(event_id), thread_id or UNTHREADED, ts_ms)


def _is_id(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_BYTES and "\0" not in value


def _log_failure(failure: Any) -> None:
    logger.error("A receipt is lost between servers: %s", failure.value)
