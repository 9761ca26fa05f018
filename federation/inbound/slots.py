"""Places for work that strangers cause: so many in all, and so many for each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from attrs import define, field
from twisted.internet.defer import DeferredSemaphore


@define(eq=False)
class Slots:
    """A key that uses its own places up waits without holding one of the others'."""

    total: int
    for_each: int
    _all: Any = field(init=False)
    _each: dict[str, Any] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._all = DeferredSemaphore(self.total)

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        own = self._each.setdefault(key, DeferredSemaphore(self.for_each))
        await own.acquire()
        try:
            await self._all.acquire()
            try:
                yield
            finally:
                self._all.release()
        finally:
            own.release()
            if own.tokens == own.limit:
                self._each.pop(key, None)
