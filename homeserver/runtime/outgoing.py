"""What is written to many connections at once goes out together.

PERF(a third of the CPU of a delivery by WebSocket): a write wakes whoever reads on the other side. When a change is told to many
clients, each write by itself wakes a proxy that has all their connections, or a program with many of them; it reads, and sleeps
again before the next. Here writes are held until there are a few dozens of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Writer(Protocol):
    def write(self, data: bytes, /) -> None: ...


class Outgoing:
    """held: by connection what is to be written, while writes are held; else None. Connections put it there themselves."""

    def __init__(self) -> None:
        self.held: dict[Writer, bytes] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Hold what is written, until the end. No await within."""
        if self.held is not None:
            yield
            return
        self.held = {}
        try:
            yield
        finally:
            held, self.held = self.held, None
            for connection, data in held.items():
                connection.write(data)
