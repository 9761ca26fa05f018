"""What joining needs of its neighbours: the checks of federation/inbound, and the rooms' ingest."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Protocol

from homeserver.matrix.ids import RoomId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion


class EventChecks(Protocol):
    """federation/inbound/pdu_checks.py"""

    def check(self, raw: object, version: RoomVersion, /, *, room_id: RoomId | None = None) -> Awaitable[Pdu]:
        """Format, signatures, content hash. Raises: MatrixError."""
        ...

    def check_many(
        self, raws: Iterable[object], version: RoomVersion, /, *, room_id: RoomId | None = None, source: str = ...
    ) -> Awaitable[list[Pdu]]:
        """The valid ones, in order. Raises nothing."""
        ...
