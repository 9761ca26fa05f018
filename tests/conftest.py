"""Databases and servers for all tests. `--database sqlite|postgresql|both` chooses what those with a database run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.kit.databases import ENGINES, PostgresCluster, PostgresMissing, SqliteFiles, find_postgres
from tests.kit.processes import find_synapse
from tests.kit.specification import FEDERATION, SPECIFICATION

CLUSTER = pytest.StashKey[PostgresCluster]()
SPECIFICATIONS = (SPECIFICATION, FEDERATION)
POSTGRES_URL = "HEARTH_TEST_POSTGRES_URL"

# What hypothesis draws is the same in each run, and no machine is too slow for it: a run fails for what the code does only.
# `--hypothesis-profile search` looks for new examples.
settings.register_profile(
    "hearth", deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
)
settings.register_profile("search", settings.get_profile("hearth"), derandomize=False)
settings.load_profile("hearth")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgres", "postgresql", "both"),
        default="both",
        help="what tests with a database run on",
    )


def pytest_configure(config: pytest.Config) -> None:
    cluster = PostgresCluster()
    config.stash[CLUSTER] = cluster
    config.add_cleanup(cluster.stop)
    # For tests that empty a database of their own; it is there once the first of them is set up. One of several processes has
    # its own, not that of the process that started it.
    if find_postgres() is not None and (hasattr(config, "workerinput") or POSTGRES_URL not in os.environ):
        os.environ[POSTGRES_URL] = cluster.url("shared")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what runs on the other engine."""
    wanted = config.getoption("--database")
    if wanted == "both":
        return
    other = "postgresql" if wanted == "sqlite" else "sqlite"
    left_out = [item for item in items if other in _parameters(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if other not in _parameters(item)]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The cluster takes a second or two to make, so only tests that use it start it."""
    if "postgresql" in _parameters(item):
        start_cluster(item.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells what it saw."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["seen"] = [specification.seen for specification in SPECIFICATIONS]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """The process that reports hears it."""
    for specification, seen in zip(SPECIFICATIONS, getattr(node, "workeroutput", {}).get("seen", ()), strict=False):
        specification.add(seen)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what this run rests on")
    terminalreporter.line(SPECIFICATION.summary())
    terminalreporter.line(f"Federation: {FEDERATION.summary()}")
    if find_postgres() is None:
        terminalreporter.line("Nothing ran on PostgreSQL: its binaries are absent (apt-get install postgresql)")
    if find_synapse() is None:
        terminalreporter.line("Nothing federated with Synapse: .venv-synapse is absent (scripts/test makes it)")


def start_cluster(config: pytest.Config) -> PostgresCluster:
    """The run's cluster, started; skips the test where that can't be."""
    cluster = config.stash[CLUSTER]
    if cluster.is_running:
        return cluster
    try:
        cluster.start()
    except PostgresMissing:
        pytest.skip("PostgreSQL's binaries are absent")
    cluster.create_shared_database()
    return cluster


def _parameters(item: pytest.Item) -> list[object]:
    callspec = getattr(item, "callspec", None)
    return [] if callspec is None else [value for value in callspec.params.values() if value in ENGINES]


@pytest.fixture(scope="session")
def sqlite_files() -> Iterator[SqliteFiles]:
    files = SqliteFiles()
    yield files
    files.close()


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, sqlite_files: SqliteFiles) -> Iterator[str]:
    """A fresh database with the newest schema, as `[database] url` has it; on both engines."""
    if request.param == "sqlite":
        yield sqlite_files.create_database(tmp_path)
        return
    cluster = start_cluster(request.config)
    url = cluster.create_database()
    yield url
    cluster.drop_database(url)


@pytest.fixture(params=ENGINES)
def make_database(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_files: SqliteFiles
) -> Iterator[Callable[[str], str]]:
    """Makes fresh databases, for tests with several servers; on both engines."""
    made: list[str] = []

    def make(name: str) -> str:
        if request.param == "sqlite":
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            return sqlite_files.create_database(folder)
        made.append(start_cluster(request.config).create_database())
        return made[-1]

    yield make
    for url in made:
        start_cluster(request.config).drop_database(url)


@pytest.fixture(scope="session")
def test_ca(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The certificate authority of this run."""
    from tests.kit.certificates import TestCa

    return TestCa(tmp_path_factory.mktemp("ca"))


# Another server is there, though it needs longer on a busy machine than most have patience for.
PATIENCE_MS = {
    "federation.backfill.BUDGET_MS": 600_000,
    "federation.backfill.REQUEST_TIMEOUT_MS": 120_000,
    "federation.inbound.policy.SIGN_TIMEOUT_MS": 60_000,
    "federation.inbound.room_parts.CHECKS_MOMENT_MS": 60_000,
    "federation.joining.doors.LEAVE_BUDGET_MS": 120_000,
    "federation.keys.key_ring.FETCH_TIMEOUT_MS": 60_000,
    "federation.remote_keys.TIMEOUT_MS": 60_000,
    "homeserver.e2ee.ports.MAX_TIMEOUT_MS": 60_000,
    "homeserver.rooms.identity_servers.TIMEOUT_MS": 60_000,
}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hearths wait for other servers however slow the machine is. Tests of how long they wait say so themselves."""
    for name, value in PATIENCE_MS.items():
        monkeypatch.setattr(name, value)


@pytest.fixture
def start_federated(
    make_database: Callable[[str], str], tmp_path: Path, test_ca: Any, patient: None
) -> Iterator[Callable[..., Any]]:
    """Starts a server that federates, `localhost:<port>`; its arguments are a name, settings, and `clock`."""
    from tests.kit.federation import FederatedServer

    servers: list[FederatedServer] = []

    def start(name: str = "hearth", settings: Any = None, clock: Any = None) -> FederatedServer:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        servers.append(FederatedServer(make_database(name), folder, test_ca, settings, clock))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def start_peer(test_ca: Any) -> Iterator[Callable[..., Any]]:
    """Starts a ScriptedPeer; its arguments are the peer's."""
    from tests.kit.federation import ScriptedPeer

    peers: list[ScriptedPeer] = []

    def start(**about: Any) -> ScriptedPeer:
        peers.append(ScriptedPeer(test_ca, **about).start())
        return peers[-1]

    yield start
    for peer in peers:
        peer.stop()


@pytest.fixture(scope="session")
def peers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, test_ca: Any, sqlite_files: SqliteFiles
) -> Iterator[Any]:
    """The servers that the scenarios of federation share. Hearths are on SQLite and PostgreSQL by turns, where both run."""
    from tests.kit.peers import Peers

    wanted = request.config.getoption("--database")
    both = ENGINES if find_postgres() else ("sqlite",)
    engines = both if wanted == "both" else ("sqlite",) if wanted == "sqlite" else ("postgresql",)

    def make_database(folder: Path, number: int) -> str:
        if engines[number % len(engines)] == "sqlite":
            return sqlite_files.create_database(folder)
        return start_cluster(request.config).create_database()

    made = Peers(tmp_path_factory.mktemp("peers"), test_ca, make_database)
    yield made
    made.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, patient: None) -> None:
    """Hearths soon try again when another server was away; they wait for one that is there."""
    monkeypatch.setattr("federation.destinations.FIRST_INTERVAL_MS", 200)
    monkeypatch.setattr("federation.destinations.MAX_INTERVAL_MS", 1_000)
    monkeypatch.setattr("federation.outbound.sender.FIRST_RETRY_MS", 200)
    monkeypatch.setattr("federation.outbound.sender.MAX_RETRY_MS", 1_000)


@pytest.fixture
def pair(request: pytest.FixtureRequest, peers: Any, impatient: None) -> Iterator[Any]:
    """Two servers of the makes that the parameter names, "hearth-synapse" by default; they are whole again afterwards."""
    found = peers.pair(getattr(request, "param", "hearth-synapse"))
    yield found
    found.restore()


@pytest.fixture
def start_local(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a server in this process; its arguments are settings over those of tests, and `clock`."""
    from tests.kit.servers import LocalServer

    servers: list[LocalServer] = []

    def start(settings: Any = None, clock: Any = None) -> LocalServer:
        servers.append(LocalServer(database_url, tmp_path, settings, clock))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def hearth(start_local: Callable[..., Any]) -> Any:
    """A server in this process, as tests need it mostly."""
    return start_local()


@pytest.fixture
def alice(hearth: Any) -> Any:
    """A user of `hearth`."""
    return hearth.register("alice")


@pytest.fixture
def bob(hearth: Any) -> Any:
    """Another one."""
    return hearth.register("bob")


@pytest.fixture
def start_subprocess(database_url: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a server in a process of its own, which can be killed."""
    from tests.kit.servers import SubprocessServer

    servers: list[SubprocessServer] = []

    def start(settings: Any = None) -> SubprocessServer:
        servers.append(SubprocessServer(database_url, tmp_path, settings))
        return servers[-1]

    yield start
    for server in servers:
        server.kill()
