"""A reactor in a thread, sites in it, and a client that speaks HTTP by hand."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any

import orjson
import pytest
from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import MissingToken, UnknownToken
from homeserver.runtime.http.endpoint import Auth
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import ALL_RESOURCES, App, Site, TimeLimits
from tests.kit.reactor import get_reactor

TIMEOUT_S = 120


@pytest.fixture(scope="session")
def reactor() -> Any:
    """The process's reactor, running in a thread of its own."""
    return get_reactor()


@pytest.fixture
def in_reactor(reactor: Any) -> Callable[..., Any]:
    """Calls a function in the reactor's thread and waits for its result, Deferred or not."""
    from twisted.internet.threads import blockingCallFromThread

    return lambda function, *args, **kwargs: blockingCallFromThread(reactor, function, *args, **kwargs)


@frozen
class Someone:
    """A requester."""

    rate_limit_key: str
    is_guest: bool = False


KNOWN = {"alice_token": Someone("@alice:x"), "guest_token": Someone("@guest:x", is_guest=True)}
SLOW = {"slow_token": Someone("@slow:x")}


class Tokens:
    """An authenticator with some tokens in memory, and one that it must wait for."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def get_requester(self, token: str) -> Someone | None:
        return KNOWN.get(token)

    async def authenticate(self, request: Request, auth: Auth) -> Someone | None:
        token = request.access_token
        if token is None:
            if auth is Auth.OPTIONAL:
                return None
            raise MissingToken()
        await self._turn()
        if token not in SLOW:
            raise UnknownToken()
        return SLOW[token]

    def _turn(self) -> Deferred[None]:
        turned: Deferred[None] = Deferred()
        self._reactor.callLater(0, turned.callback, None)
        return turned


@frozen
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@define
class Connection:
    """One connection; bytes in, answers out."""

    sock: socket.socket
    _file: Any = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.sock.settimeout(TIMEOUT_S)
        self._file = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data)

    def answer(self, method: str = "GET") -> Answer:
        response = HTTPResponse(_Kept(self._file), method=method)  # type: ignore[arg-type]
        response.begin()
        body = response.read()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, body)

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data: bytes = self._file.read()
        return data

    def line(self) -> bytes:
        data: bytes = self._file.readline()
        return data

    def close(self) -> None:
        self._file.close()
        self.sock.close()


class _Kept:
    """Lends the connection's file to HTTPResponse, which would close it."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def makefile(self, mode: str) -> Any:
        return _Unclosable(self._file)


class _Unclosable(io.BufferedIOBase):
    def __init__(self, file: Any) -> None:
        self._inner = file

    def read(self, size: int | None = -1) -> bytes:
        data: bytes = self._inner.read(size)
        return data

    def readinto(self, buffer: Any) -> int:
        count: int = self._inner.readinto(buffer)
        return count

    def readline(self, size: int | None = -1) -> bytes:
        data: bytes = self._inner.readline(size)
        return data

    def close(self) -> None: ...

    @property
    def closed(self) -> bool:
        return False


@define
class Served:
    """A site that listens."""

    site: Site
    port: int
    token: str | None = "alice_token"

    def connect(self) -> Connection:
        return Connection(socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S))

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        token: str | None = None,
    ) -> Answer:
        connection = self.connect()
        try:
            connection.send(build_request(method, target, body, headers, token))
            return connection.answer(method)
        finally:
            connection.close()

    def get(self, target: str, **options: Any) -> Answer:
        return self.request("GET", target, **options)


def build_request(
    method: str,
    target: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    token: str | None = None,
) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b"")


Serve = Callable[..., Served]


@pytest.fixture
def serve(reactor: Any, in_reactor: Callable[..., Any]) -> Iterator[Serve]:
    """Serves endpoint objects until the test ends."""
    ports: list[Any] = []

    def start(
        *endpoints: object,
        limiter: Any = None,
        resources: frozenset[str] = ALL_RESOURCES,
        trusted: tuple[Any, ...] = (),
        limits: TimeLimits | None = None,
        on_authenticated: Any = None,
    ) -> Served:
        router = Router()
        for one in endpoints:
            router.add(one)
        app = App(reactor, router, Tokens(reactor), limiter, on_authenticated)
        site = Site(app, resources, trusted, limits)
        port = in_reactor(reactor.listenTCP, 0, site, 50, "127.0.0.1")
        ports.append((port, site))
        return Served(site, port.getHost().port)

    yield start
    for port, site in ports:
        in_reactor(port.stopListening)
        in_reactor(site.abort_all)
