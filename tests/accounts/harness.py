"""The account services on a real database, their endpoints behind the real HTTP parser, without sockets.

What other threads hand to the reactor is run by the test itself, in `Pump.wait`. Every answer is checked against the
specification, as those are that the client of tests/kit gets.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any
from urllib.parse import quote

import attrs
import pytest
from sqlalchemy import create_engine, text
from twisted.internet.defer import Deferred
from twisted.internet.testing import StringTransport

from homeserver.accounts.access import AccessTokens
from homeserver.accounts.account import Accounts
from homeserver.accounts.account_data import AccountData
from homeserver.accounts.commands import AccountCommands
from homeserver.accounts.config import LoginConfig, RegistrationConfig, WellKnownConfig
from homeserver.accounts.creation import AccountCreator
from homeserver.accounts.devices import Devices
from homeserver.accounts.filters import Filters
from homeserver.accounts.interactive_auth import InteractiveAuth
from homeserver.accounts.last_seen import LastSeen
from homeserver.accounts.logins import Logins
from homeserver.accounts.passwords import PasswordCheck, PasswordHashes
from homeserver.accounts.profiles import Profiles
from homeserver.accounts.registration import Registrations
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.shared_secret import SharedSecretRegistration
from homeserver.accounts.stages import (
    DummyStage,
    PasswordStage,
    RegistrationTokens,
    RegistrationTokenStage,
    TermsStage,
)
from homeserver.clientapi.account_data import AccountDataEndpoints
from homeserver.clientapi.account_management import AccountManagement
from homeserver.clientapi.account_moderation import AccountModeration
from homeserver.clientapi.capabilities import Capabilities
from homeserver.clientapi.devices import DeviceEndpoints
from homeserver.clientapi.filter import FilterEndpoints
from homeserver.clientapi.login import LoginEndpoints
from homeserver.clientapi.profiles import ProfileEndpoints
from homeserver.clientapi.registration import RegistrationEndpoints
from homeserver.clientapi.shared_secret_registration import SharedSecretEndpoints
from homeserver.clientapi.tags import TagEndpoints
from homeserver.clientapi.versions import Versions
from homeserver.clientapi.wellknown import WellKnown
from homeserver.matrix.ids import ServerName, UserId
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.config_sections import RateLimitsConfig
from homeserver.runtime.db import Database, engine_url, make_engine
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App, Site
from homeserver.runtime.rate_limit import RateLimiter
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogWriter
from homeserver.store.migrations import upgrade
from tests.kit.specification import SPECIFICATION

SERVER_NAME = ServerName("test.example")
V3 = "/_matrix/client/v3"


def postgres_url() -> str:
    """An empty database that tests may clear, or "" where there is none."""
    return os.environ.get("HEARTH_TEST_POSTGRES_URL", "")


def with_defaults(section: Any, **settings: Any) -> Any:
    """A section of the configuration, as it is when the file sets these only."""
    return section(**settings)


class Pump:
    """A reactor that stands still but while a test waits for something."""

    def __init__(self) -> None:
        self._calls: Queue[tuple[Any, Any, Any]] = Queue()

    def callFromThread(self, function: Any, *args: Any, **kwargs: Any) -> None:
        self._calls.put((function, args, kwargs))

    def seconds(self) -> float:
        return 0.0

    def wait(self, awaitable: Any) -> Any:
        deferred = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)
        outcome: list[Any] = []
        deferred.addBoth(outcome.append)
        self.run_until(lambda: bool(outcome))
        if hasattr(outcome[0], "raiseException"):
            outcome[0].raiseException()
        return outcome[0]

    def run_until(self, is_done: Any) -> None:
        while not is_done():
            function, args, kwargs = self._calls.get(timeout=120)
            function(*args, **kwargs)


@attrs.define
class Answer:
    status: int
    json: Any

    @property
    def errcode(self) -> str | None:
        code: str | None = self.json.get("errcode")
        return code


class Rooms:
    """What rooms would be told."""

    def __init__(self) -> None:
        self.propagated: list[tuple[str, str, Any]] = []
        self.left: list[str] = []

    async def propagate(self, user_id: UserId, field: str, value: Any) -> None:
        self.propagated.append((user_id, field, value))

    async def leave_all_rooms(self, user_id: UserId) -> None:
        self.left.append(user_id)


class AccountsServer:
    def __init__(self, url: str, data_dir: Path, registration: dict[str, Any], login: dict[str, Any]) -> None:
        self.pump = Pump()
        self.wait = self.pump.wait
        self.clock = ManualClock()
        engine = make_engine(engine_url(url, data_dir))
        self.database = Database(engine, self.pump)  # type: ignore[arg-type]
        self.wait(self.database.run(upgrade))
        self.rows: list[LogRow] = []
        self.rooms = Rooms()
        self._build(
            {"enabled": True, "password_hash_cost": "minimum", "shared_secret": "s3cret", **registration},
            login,
        )
        self._serve()

    def _build(self, registration: dict[str, Any], login: dict[str, Any]) -> None:
        config, login_config = (
            with_defaults(RegistrationConfig, **registration),
            with_defaults(LoginConfig, **login),
        )
        database, clock = self.database, self.clock
        self.log_writer = LogWriter(database)
        self.access = AccessTokens(database, self.log_writer, clock)
        self.profiles = Profiles(SERVER_NAME, database, self.log_writer, self.rooms)
        for follower in (self.access.on_rows, self.profiles.on_rows, self.rows.extend):
            self.log_writer.follow(follower)
        self.hashes = PasswordHashes(self.pump, config.password_hash_cost)  # type: ignore[arg-type]
        self.hashes.start()
        limiter = RateLimiter(clock, with_defaults(RateLimitsConfig))
        self.passwords = PasswordCheck(database, self.hashes, SERVER_NAME, limiter)
        self.tokens = RegistrationTokens(database, clock, config)
        stages = (
            DummyStage(),
            TermsStage(config),
            RegistrationTokenStage(self.tokens),
            PasswordStage(self.passwords),
        )
        by_type = {stage.type: stage for stage in stages}
        self.auth = InteractiveAuth(database, clock, by_type, config.session_lifetime_ms)
        self.sessions = Sessions(database, self.log_writer, clock, login_config)
        self.creator = AccountCreator(database, self.log_writer, clock, self.hashes, self.sessions)
        self.registrations = Registrations(SERVER_NAME, config, self.creator, self.auth, self.access, self.tokens)
        self.shared_secret = SharedSecretRegistration(SERVER_NAME, config.shared_secret, clock, self.creator)
        self.logins = Logins(database, clock, login_config, self.passwords, self.sessions)
        self.accounts = Accounts(database, self.log_writer, self.hashes, self.rooms)
        self.devices = Devices(database, self.log_writer)
        self.account_data = AccountData(database, self.log_writer)
        self.filters = Filters(database)
        self.last_seen = LastSeen(database, clock)
        self.commands = AccountCommands(SERVER_NAME, self.creator, self.accounts)

    def _serve(self) -> None:
        router = Router()
        for endpoints in (
            LoginEndpoints(self.logins, self.sessions, self.auth),
            RegistrationEndpoints(self.registrations, self.tokens),
            SharedSecretEndpoints(self.shared_secret),
            AccountManagement(self.accounts, self.auth),
            AccountModeration(SERVER_NAME, self.accounts),
            DeviceEndpoints(self.devices, self.sessions, self.auth),
            ProfileEndpoints(self.profiles),
            AccountDataEndpoints(self.account_data),
            TagEndpoints(self.account_data),
            FilterEndpoints(self.filters),
            Capabilities("12", login_tokens=True),
            Versions({"org.example.works": True, "org.example.broken": False}),
            WellKnown(
                "https://test.example/",
                with_defaults(WellKnownConfig, support_contacts=["@admin:test.example"]),
            ),
        ):
            router.add(endpoints)
        self.site = Site(App(self.pump, router, self.access, None, self.last_seen.note))

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        head = [
            f"{method} {path} HTTP/1.1",
            "Host: x",
            f"Content-Length: {len(content)}",
            "User-Agent: tests",
        ]
        if token is not None:
            head.append(f"Authorization: Bearer {token}")
        return exchange(self.site, self.pump, head, content)

    def get(self, path: str, token: str | None = None) -> Answer:
        return self.request("GET", path, None, token)

    def post(self, path: str, body: Any = None, token: str | None = None) -> Answer:
        return self.request("POST", path, {} if body is None else body, token)

    def put(self, path: str, body: Any, token: str | None = None) -> Answer:
        return self.request("PUT", path, body, token)

    def delete(self, path: str, body: Any = None, token: str | None = None) -> Answer:
        return self.request("DELETE", path, body, token)

    def register(self, username: str = "alice", password: str = "wonderland", **more: Any) -> dict[str, Any]:
        body = {"username": username, "password": password, "auth": {"type": "m.login.dummy"}, **more}
        answer = self.post(f"{V3}/register", body)
        assert answer.status == 200, answer
        return dict(answer.json)

    def login(self, username: str = "alice", password: str = "wonderland", **more: Any) -> Answer:
        identifier = {"type": "m.id.user", "user": username}
        body = {"type": "m.login.password", "identifier": identifier, "password": password, **more}
        return self.post(f"{V3}/login", body)

    def whoami(self, token: str) -> Answer:
        return self.get(f"{V3}/account/whoami", token)

    def close(self) -> None:
        self.hashes.stop()
        self.wait(self.database.close())


def password_auth(username: str = "alice", password: str = "wonderland", **more: Any) -> dict[str, Any]:
    identifier = {"type": "m.id.user", "user": username}
    return {"type": "m.login.password", "identifier": identifier, "password": password, **more}


def in_path(value: str) -> str:
    return quote(value, safe="")


def exchange(site: Site, pump: Pump, head: list[str], content: bytes) -> Answer:
    """The answer to one request, on a connection of its own; `head` is its request line and its headers.

    Raises: NotAsSpecified.
    """
    transport: Any = StringTransport()  # type: ignore[no-untyped-call]  # twisted is untyped
    channel: Any = site.buildProtocol(None)
    channel.makeConnection(transport)
    channel.dataReceived("\r\n".join([*head, "", ""]).encode() + content)
    pump.run_until(lambda: _is_complete(transport.value()))
    status, _, rest = transport.value().partition(b"\r\n")
    answer = Answer(int(status.split()[1]), json.loads(rest.partition(b"\r\n\r\n")[2]))
    method, target, _ = head[0].split(" ")
    SPECIFICATION.check_response(method, target.partition("?")[0], answer.status, answer.json)
    return answer


def _is_complete(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(blank) and len(body) >= int(lengths[0].split(b":")[1])


@pytest.fixture(params=["sqlite", "postgresql"])
def make_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Makes a server, with settings of [registration] by name and those of [login] in `login`."""
    if request.param == "postgresql" and not postgres_url():
        pytest.skip("HEARTH_TEST_POSTGRES_URL is not set")
    made: list[AccountsServer] = []

    def make(login: dict[str, Any] | None = None, **registration: Any) -> AccountsServer:
        url = "sqlite:///hearth.db"
        if request.param == "postgresql":
            _empty_postgres()
            url = postgres_url()
        made.append(AccountsServer(url, tmp_path, registration, login or {}))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def server(make_server: Any) -> AccountsServer:
    made: AccountsServer = make_server()
    return made


def _empty_postgres() -> None:
    engine = create_engine(postgres_url().replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
