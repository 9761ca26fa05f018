"""m.direct_to_device: messages to devices of other servers' users, each of them, in order, until it is delivered.

A row of the log holds the message. It is emptied once it is delivered, or given up because its server is away for too long or too
many wait for it (outbound/upkeep.py).

Spec: server-server-api#send-to-device-messaging
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define

from federation.outbound.items import Item
from homeserver.e2ee.to_device import EDU
from homeserver.matrix.ids import ServerName
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.outbound import load_log_rows


@define(eq=False)
class ToDeviceSource:
    """Rows of the log which are an EDU for the server that they are keyed by."""

    database: Database
    kind: str = EDU
    log_kinds: Sequence[str] = (EDU,)
    most_edus: int = 1
    newest_first: bool = False

    def get_addressed(self, row: LogRow) -> tuple[Item, Sequence[ServerName]] | None:
        item = Item(row.position, EDU, f"{row.position:020}", edus=1)
        # Empty: the client's transaction had been done before.
        return item, [ServerName(row.key)] if "edu_type" in row.data else []

    async def load_missing(self, row: LogRow) -> None:
        """Nothing is ever missing."""

    async def load_bodies(self, items: Sequence[Item]) -> Sequence[dict[str, Any]]:
        rows = await self.database.read(load_log_rows, [item.position for item in items])
        found = (rows.get(item.position) for item in items)
        return [
            {"edu_type": row.data["edu_type"], "content": row.data["content"]}
            for row in found
            if row is not None and "edu_type" in row.data
        ]
