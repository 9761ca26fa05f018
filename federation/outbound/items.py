"""What is on its way to other servers: rows of the log, by their positions, and what is not worth keeping.

An item is shared by all the servers that it concerns, and holds no body: so a thousand servers that are away cost a
thousand references for each event, up to a bound.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Final, Protocol

from attrs import field, frozen

from homeserver.matrix.ids import EventId, RoomId, ServerName
from homeserver.store.log import LogRow
from homeserver.store.outbound import STICKY

EVENT: Final = "event"
PDU_KINDS: Final = frozenset({EVENT, STICKY})
MAX_PDUS: Final = 50
MAX_EDUS: Final = 100


@frozen(eq=False, slots=True)
class Item:
    """A row of the log that servers have to get. key: what the newest row of is enough after an outage (a room, a user);
    of kinds that are sent one by one, the position. is_sticky: of an event; those are kept one by one, too."""

    position: int
    kind: str
    key: str
    event_id: EventId | None = None
    edus: int = 0  # that it becomes, at most
    is_sticky: bool = False


@frozen(eq=False, slots=True)
class Ephemeral:
    """An EDU that a server which is away does not get. One of the same key takes its place."""

    key: Hashable
    edu: Mapping[str, Any]
    expires_ms: int  # on the monotonic clock


@frozen(eq=False, slots=True)
class Receipt:
    """What a user has read: a row of the log. One of the same key takes its place, of which the database has only the newest."""

    position: int
    room_id: RoomId
    key: Hashable
    edu: Mapping[str, Any]


@frozen(eq=False)
class Transaction:
    """What goes to a server at once. Sent again under the same id when it is not known whether it arrived.

    receipts_before: of a transaction from the backlog, for each room the position before which the server then has all
    receipts.
    """

    txn_id: str
    items: Sequence[Item] = field(factory=tuple)
    ephemeral: Sequence[Ephemeral] = field(factory=tuple)
    receipts: Sequence[Receipt] = field(factory=tuple)
    from_backlog: bool = False
    receipts_before: Mapping[RoomId, int] = field(factory=dict)


def sticky_key(position: int) -> str:
    """The key of a sticky event, which is kept for itself."""
    return f"{position:020}"


class RowReader(Protocol):
    """Whom rows of some kinds in the log concern."""

    @property
    def kind(self) -> str:
        """Of the items, and in the backlog."""
        ...

    @property
    def log_kinds(self) -> Sequence[str]:
        """Of the rows."""
        ...

    def get_addressed(self, row: LogRow, /) -> tuple[Item | Receipt, Sequence[ServerName]] | None:
        """The item that the row becomes, and whom it concerns; None when memory lacks what tells."""
        ...

    async def load_missing(self, row: LogRow, /) -> None:
        """Have in memory what `get_addressed` lacked."""
        ...


class Source(RowReader, Protocol):
    """What rows of some kinds in the log mean to other servers, which get them or find them in their backlogs."""

    @property
    def most_edus(self) -> int:
        """That an item becomes; 0 where it becomes a PDU."""
        ...

    @property
    def newest_first(self) -> bool:
        """After an outage the newest of each key comes first, and older ones not at all."""
        ...

    async def load_bodies(self, items: Sequence[Item], /) -> Sequence[dict[str, Any]]:
        """PDUs, or EDUs, for these items, in their order; one that is there no more is left out."""
        ...
