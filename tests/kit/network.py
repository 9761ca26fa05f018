"""Wires between servers that a test can cut: a TCP proxy before a server, or an HTTP proxy that a server calls out through.

wire = CuttableProxy(to_port=server_port)       # listens at wire.port; whoever calls that reaches the server
wire.cut()                                      # connections break off, new ones too
wire.heal()

way_out = CuttableProxy()                       # an HTTP proxy (CONNECT), for `[federation] proxy`
way_out.cut("localhost:8448")                   # its server reaches all others, and is reached by all
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
TIMEOUT_S = 120
CHUNK_BYTES = 65_536


class CuttableProxy:
    """Listens on loopback from the start. `to_port` None: it asks who calls, as an HTTP proxy does."""

    def __init__(self, to_port: int | None = None) -> None:
        self._to_port = to_port
        self._cut: set[str] = set()
        self._all_cut = False
        self._open: dict[asyncio.StreamWriter, str] = {}
        self.accepted = 0
        self._server = _run(asyncio.start_server(self._on_connection, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cut(self, *servers: str) -> None:
        """To these servers, or to all."""
        _run(self._break_off(servers))

    def heal(self, *servers: str) -> None:
        """To these servers, or to all."""
        self._cut = self._cut - set(servers) if servers else set()
        self._all_cut = self._all_cut and bool(servers)

    def stop(self) -> None:
        self.cut()
        _run(self._close())

    # -- in the loop -----------------------------------------------------------------------------------------------

    async def _break_off(self, servers: tuple[str, ...]) -> None:
        self._cut |= set(servers)
        self._all_cut = self._all_cut or not servers
        for writer, server in list(self._open.items()):
            if self._is_cut(server):
                writer.transport.abort()

    async def _close(self) -> None:
        self._server.close()

    def _is_cut(self, server: str) -> bool:
        return self._all_cut or server in self._cut

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            # A server that is gone looks like one that was cut off.
            with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
                server = await self._read_target(reader)
                if not self._is_cut(server):
                    await self._forward(server, reader, writer)
        finally:
            writer.transport.abort()

    async def _read_target(self, reader: asyncio.StreamReader) -> str:
        if self._to_port is not None:
            return f"localhost:{self._to_port}"
        head = await reader.readuntil(b"\r\n\r\n")
        return head.split(b" ", 2)[1].decode()

    async def _forward(self, server: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = int(server.rpartition(":")[2])
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        self._open.update({writer: server, far_writer: server})
        try:
            if self._to_port is None:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.transport.abort()
            self._open.pop(writer, None)
            self._open.pop(far_writer, None)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while content := await reader.read(CHUNK_BYTES):
        writer.write(content)
        await writer.drain()
    with contextlib.suppress(OSError, NotImplementedError):
        writer.write_eof()


_lock = threading.Lock()
_loops: list[asyncio.AbstractEventLoop] = []


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """In the loop of all proxies, which has a thread of its own for the whole run."""
    with _lock:
        if not _loops:
            _loops.append(asyncio.new_event_loop())
            threading.Thread(target=_loops[0].run_forever, name="proxies", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(coroutine, _loops[0]).result(TIMEOUT_S)
