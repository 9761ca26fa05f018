"""What a request costs beside a bare twisted.web Request that answers `{}`, and what a waiting one holds.

    python tests/perf/bench_http.py

Starts each server in a process of its own (pinned to core 1), drives it with 16 connections from this one (on core 0),
and prints microseconds of CPU for each request, and KiB for each waiting connection.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CONNECTIONS = 16
SECONDS = 4.0
WAITERS = 2000

WHOAMI = b"/_matrix/client/v3/account/whoami"
HEADERS = b" HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer syt_c29tZW9uZQ_abcdefghijklmnopqrst_1a2b3c\r\n"
BROWSER = (
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\nOrigin: https://app.example\r\n"
    b"Referer: https://app.example/\r\nConnection: keep-alive\r\nSec-Fetch-Dest: empty\r\nSec-Fetch-Mode: cors\r\n"
)


def install_reactor() -> Any:
    import uvloop
    from twisted.internet import asyncioreactor

    install: Any = asyncioreactor.install
    install(uvloop.new_event_loop())
    from twisted.internet import reactor

    return reactor


def serve_bare() -> None:
    """twisted.web with nothing on it."""
    reactor = install_reactor()
    from twisted.web import http

    bare_request: Any = http.Request
    bare_factory: Any = http.HTTPFactory

    class Request(bare_request):  # type: ignore[misc]  # Any: twisted.web has no annotations
        def process(self) -> None:
            self.setHeader(b"content-type", b"application/json")
            self.setHeader(b"content-length", b"2")
            self.write(b"{}")
            self.finish()

    class Factory(bare_factory):  # type: ignore[misc]  # as above
        def log(self, request: object) -> None: ...

        def buildProtocol(self, address: object) -> Any:
            protocol = bare_factory.buildProtocol(self, address)
            protocol.requestFactory = Request
            return protocol

    listen(reactor, Factory())


def serve_ours() -> None:
    """The router with one authenticated endpoint and one that waits."""
    reactor = install_reactor()
    import msgspec
    from twisted.internet.defer import Deferred

    from homeserver.runtime.http.endpoint import Auth, endpoint
    from homeserver.runtime.http.request import Request
    from homeserver.runtime.http.router import Router
    from homeserver.runtime.http.site import App, Site

    class WhoamiResponse(msgspec.Struct):
        user_id: str
        device_id: str
        is_guest: bool = False

    class Requester:
        rate_limit_key = "@someone:example.org"
        is_guest = False

    class Tokens:
        def get_requester(self, token: str) -> Requester:
            return Requester()

        async def authenticate(self, request: Request, auth: Auth) -> Requester:
            return Requester()

    class Endpoints:
        @endpoint("GET", WHOAMI.decode(), auth=Auth.GUEST_OK)
        async def get_whoami(self, requester: Requester) -> WhoamiResponse:
            return WhoamiResponse(requester.rate_limit_key, "ABCDEFGHIJ")

        @endpoint("GET", "/_matrix/client/v3/sync", auth=Auth.USER, long_poll=True)
        async def get_sync(self, request: Request) -> None:
            request.on_disconnect(self._gone)
            await Deferred()

        def _gone(self) -> None: ...

    router = Router()
    router.add(Endpoints())
    listen(reactor, Site(App(reactor, router, Tokens())))


def listen(reactor: Any, factory: object) -> None:
    port = reactor.listenTCP(0, factory, backlog=4096, interface="127.0.0.1")
    print(port.getHost().port, flush=True)
    reactor.run()


class Client(asyncio.Protocol):
    """Sends the same request again and again."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answers = 0
        self.stopping = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if data.endswith(b"}"):
            self.answers += 1
            if not self.stopping:
                self._transport.write(self._request)


async def drive(port: int, request: bytes) -> int:
    loop = asyncio.get_running_loop()
    clients = [Client(request) for _ in range(CONNECTIONS)]
    for client in clients:
        await loop.create_connection(lambda made=client: made, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(SECONDS)
    for client in clients:
        client.stopping = True
    return sum(client.answers for client in clients)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_kib(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def started(kind: str) -> tuple[subprocess.Popen[str], int]:
    command = ["taskset", "-c", "1", sys.executable, __file__, kind]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def measure_speed(kind: str, headers: bytes) -> None:
    process, port = started(kind)
    try:
        request = b"GET " + WHOAMI + HEADERS + headers + b"\r\n"
        asyncio.run(drive(port, request))
        before = cpu_s(process.pid)
        began = time.perf_counter()
        answers = asyncio.run(drive(port, request))
        used_us = (cpu_s(process.pid) - before) * 1e6 / answers
        rate = answers / (time.perf_counter() - began)
        name = f"{kind}, {'browser' if headers else 'short'} headers"
        print(f"{name:28} {used_us:7.1f} us CPU/request {rate:9.0f} requests/s")
    finally:
        process.kill()
        process.wait()


def measure_waiting() -> None:
    process, port = started("ours")
    try:
        request = b"GET /_matrix/client/v3/sync?since=s1_2&timeout=30000" + HEADERS + BROWSER + b"\r\n"
        before = rss_kib(process.pid)
        sockets = []
        for _ in range(WAITERS):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(request)
            sockets.append(sock)
        asyncio.run(drive(port, b"GET " + WHOAMI + HEADERS + b"\r\n"))  # by its end all have been read
        held = rss_kib(process.pid) - before
        print(f"{WAITERS} waiting connections: {held / WAITERS:.1f} KiB each; idle process {before / 1024:.1f} MiB")
        for sock in sockets:
            sock.close()
    finally:
        process.kill()
        process.wait()


def main() -> None:
    if sys.argv[1:] == ["bare"]:
        serve_bare()
    elif sys.argv[1:] == ["ours"]:
        serve_ours()
    else:
        with suppress(OSError):
            os.sched_setaffinity(0, {0})
        for headers in (b"", BROWSER):
            measure_speed("bare", headers)
            measure_speed("ours", headers)
        measure_waiting()


if __name__ == "__main__":
    main()
