"""What a transaction carries: the bodies of its items, read when it is sent, and EDUs put together where that can be.

Spec: server-server-api#transactions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from federation.outbound.items import EVENT, Item, Source, Transaction
from homeserver.matrix.ids import ServerName
from homeserver.store.outbound import STICKY

Edu = Mapping[str, Any]


class TransactionBodies:
    def __init__(self, server_name: ServerName, sources: Iterable[Source]) -> None:
        self._server_name = server_name
        self._sources = {source.kind: source for source in sources}

    async def load(self, transaction: Transaction, now_ms: int, monotonic_ms: int) -> dict[str, Any] | None:
        """The body; None when nothing of it is there any more."""
        of_kind: dict[str, list[Item]] = {}
        for item in transaction.items:
            of_kind.setdefault(item.kind, []).append(item)
        # In the order of the log: what is sticky is older than what a server joined with, or than a room's newest event.
        pdus = [*await self._load(STICKY, of_kind.pop(STICKY, ()))]
        pdus += [pdu for pdu in await self._load(EVENT, of_kind.pop(EVENT, ())) if pdu not in pdus]
        edus: list[Edu] = [edu for kind, items in of_kind.items() for edu in await self._load(kind, items)]
        lasting = (each.edu for each in transaction.ephemeral if each.expires_ms > monotonic_ms)
        edus += merge_edus(chain(lasting, (receipt.edu for receipt in transaction.receipts)))
        if not pdus and not edus:
            return None
        return {"origin": self._server_name, "origin_server_ts": now_ms, "pdus": pdus, "edus": edus}

    async def _load(self, kind: str, items: Sequence[Item]) -> Sequence[dict[str, Any]]:
        source = self._sources.get(kind)
        return await source.load_bodies(items) if source is not None and items else ()


def merge_edus(edus: Iterable[Edu]) -> list[Edu]:
    """As few EDUs as say the same: receipts and presence of many users go into one."""
    merged: list[Edu] = []
    receipts: dict[str, Any] = {}
    presence: list[Any] = []
    for edu in edus:
        match edu["edu_type"]:
            case "m.receipt" if _add_receipts(receipts, edu["content"]):
                continue
            case "m.presence":
                presence += edu["content"]["push"]
            case _:
                merged.append(edu)
    if receipts:
        merged.append({"edu_type": "m.receipt", "content": receipts})
    if presence:
        merged.append({"edu_type": "m.presence", "content": {"push": presence}})
    return merged


def _add_receipts(into: dict[str, Any], content: Mapping[str, Any]) -> bool:
    """False where the user's receipt in the room is there already, of another thread."""
    if any(user_id in into.get(room_id, {}).get(kind, ()) for room_id, kind, user_id, _ in _receipts(content)):
        return False
    for room_id, kind, user_id, receipt in _receipts(content):
        into.setdefault(room_id, {}).setdefault(kind, {})[user_id] = receipt
    return True


def _receipts(content: Mapping[str, Any]) -> Iterable[tuple[str, str, str, Any]]:
    return (
        (room_id, kind, user_id, receipt)
        for room_id, kinds in content.items()
        for kind, users in kinds.items()
        for user_id, receipt in users.items()
    )
