"""Why an event of another server can't be taken in now."""

from __future__ import annotations

from collections.abc import Collection

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import EventId


class MissingEvents(MatrixError):
    """Prev events or auth events that have to be stored first; `ids` are some of them or all."""

    status = 404
    errcode = "M_NOT_FOUND"

    def __init__(self, ids: Collection[EventId]) -> None:
        super().__init__(f"Events that this one builds on are not known: {', '.join(sorted(ids)[:5])}")
        self.ids = frozenset(ids)
