"""A bounded memory of loaded values, kept true by log rows.

A value is loaded from the database while rows may be committed. So a load notes the cache's version before it
begins, and its value is kept only if nothing was dropped since: what is in the cache is never older than the
last row applied.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class FoldedCache(Generic[K, V]):
    """Least recently used entries fall out first."""

    def __init__(self, max_entries: int) -> None:
        self.version = 0
        self._max_entries = max_entries
        self._entries: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        value = self._entries.get(key)
        # PERF: the order says nothing before some may fall out; and what is hot is in order by then.
        if value is not None and len(self._entries) > self._max_entries // 2:
            self._entries.move_to_end(key)
        return value

    def put(self, key: K, value: V, loaded_at: int) -> tuple[K, V] | None:
        """Keep what was loaded since `version` was loaded_at; the entry that fell out for it, if one did."""
        if loaded_at != self.version:
            return None
        self._entries[key] = value
        if len(self._entries) > self._max_entries:
            return self._entries.popitem(last=False)
        return None

    def drop(self, key: K) -> None:
        """Forget an entry, and distrust what is being loaded now."""
        self.touch()
        self._entries.pop(key, None)

    def touch(self) -> None:
        """Distrust what is being loaded now."""
        self.version += 1
