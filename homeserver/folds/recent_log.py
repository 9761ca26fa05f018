"""The newest rows of the log, by what they are about.

A client that syncs regularly is answered from here alone. Rows are found by their key (a room or a user) and,
where they change a membership, by the user whom they concern.

Invariant: for every key, all rows behind `floor` are here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from homeserver.matrix.ids import EventId
from homeserver.store.log import LogRow

K = TypeVar("K", bound=str)

MAX_ROWS = 4000
_NONE: tuple[LogRow, ...] = ()


class RecentLog:
    """At most `max_rows` rows, those behind `floor`; begins empty at the position where the process
    starts.
    """

    def __init__(self, position: int, max_rows: int = MAX_ROWS) -> None:
        self.floor = position
        self.position = position
        self._max_rows = max_rows
        self._rows: deque[LogRow] = deque()
        self._by_key: dict[str, deque[LogRow]] = {}

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            target = row.data.get("redacts") if row.kind == "event" else None
            if target is not None:
                self._redact(row.key, target, row.data["event_id"])
            self._rows.append(row)
            for key in _keys(row):
                self._by_key.setdefault(key, deque()).append(row)
        if rows:
            self.position = rows[-1].position
        while len(self._rows) > self._max_rows:
            self._drop(self._rows.popleft())

    def last_position(self, key: str) -> int:
        """A position behind which nothing happened to the key: that of its newest row, or the floor."""
        rows = self._by_key.get(key)
        return rows[-1].position if rows else self.floor

    def changed_after(self, keys: Iterable[K], position: int) -> set[K]:
        """Those of the keys that have rows behind a position (not below the floor)."""
        by_key = self._by_key
        return {key for key in keys if (rows := by_key.get(key)) is not None and rows[-1].position > position}

    def rows_after(self, key: str, position: int) -> list[LogRow]:
        """The key's rows behind a position (not below the floor), oldest first."""
        rows = self._by_key.get(key, _NONE)
        return _after(rows, position)

    def all_after(self, position: int) -> list[LogRow]:
        """All rows behind a position (not below the floor), oldest first."""
        return _after(self._rows, position)

    def _redact(self, room_id: str, target: EventId, redacted_by: EventId) -> None:
        for row in self._by_key.get(room_id, _NONE):
            event = row.event
            if event is not None and event.redacted_by is None and event.event_id == target:
                event.redact(redacted_by)

    def _drop(self, row: LogRow) -> None:
        self.floor = row.position
        for key in _keys(row):
            rows = self._by_key[key]
            rows.popleft()
            if not rows:
                del self._by_key[key]


def _after(rows: Sequence[LogRow], position: int) -> list[LogRow]:
    found = []
    for row in reversed(rows):
        if row.position <= position:
            break
        found.append(row)
    found.reverse()
    return found


def _keys(row: LogRow) -> tuple[str, ...]:
    change = row.membership
    return (row.key,) if change is None else (row.key, change.user_id)
