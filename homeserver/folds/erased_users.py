"""Users who had themselves erased: who was not there gets their events redacted.

Spec: client-server-api#post_matrixclientv3accountdeactivate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, field

from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.pdu import redact_pdu
from homeserver.runtime.db import Database
from homeserver.store.accounts import load_erased_users
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow


@define(eq=False)
class ErasedUsers:
    """All of them, in memory: they are few. Follows the log."""

    _users: set[UserId] = field(factory=set, init=False)

    async def start(self, database: Database) -> None:
        self._users.update(await database.read(load_erased_users))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == "user" and row.data.get("erased"):
                self._users.add(UserId(row.key))

    def shown(self, event: StoredEvent, membership: str | None) -> StoredEvent:
        """The event as it is shown to somebody who was that to the room when it was sent (None: it does not matter)."""
        if not self._users or membership in ("join", None) or event.pdu.sender not in self._users:
            return event
        return StoredEvent(redact_pdu(event.pdu), nid=event.nid, timeline_order=event.timeline_order)

    def quoted(self, events: Mapping[EventId, StoredEvent]) -> Mapping[EventId, StoredEvent]:
        """Events as others quote them (`prev_content`, `redacted_because`): redacted whoever reads, if an erased user sent
        them."""
        if not self._users:
            return events
        return {event_id: self.shown(event, "leave") for event_id, event in events.items()}
