"""Databases for tests: SQLite files, and a PostgreSQL cluster of our own that lives as long as the run.

Each test gets a fresh database with the newest schema. It is a copy of a template (a file; CREATE DATABASE … TEMPLATE), as
running the migrations for each test would cost more than most tests.
"""

from __future__ import annotations

import atexit
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

import psycopg
from sqlalchemy import Connection

from homeserver.runtime.db import engine_url, make_engine
from homeserver.store.migrations import upgrade
from tests.kit.processes import die_with_parent, get_unprivileged_user, give_to

ENGINES = ("sqlite", "postgresql")
START_TIMEOUT_MS = 120_000
ATTEMPTS = 12
MAX_SOCKET_FOLDER = 60  # a socket's whole path has at most 107 bytes
_USER = "hearth"
_TEMPLATE = "hearth_template"


class PostgresMissing(RuntimeError):
    """No PostgreSQL binaries on this machine."""


def find_postgres() -> Path | None:
    """The folder of PostgreSQL's server binaries: $HEARTH_POSTGRES_BIN, the system's newest, or those of the wheel."""
    if configured := os.environ.get("HEARTH_POSTGRES_BIN"):
        return Path(configured)
    installed = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if installed:
        return max(installed, key=lambda path: float(path.parent.name))
    if on_path := shutil.which("initdb"):
        return Path(on_path).resolve().parent
    return _find_wheel()


def _find_wheel() -> Path | None:
    """`pgserver` carries the binaries for who can't install PostgreSQL."""
    import importlib.util

    found = importlib.util.find_spec("pgserver")
    if found is None or found.origin is None:
        return None
    binaries = Path(found.origin).parent / "pginstall" / "bin"
    return binaries if (binaries / "initdb").exists() else None


def _folder_for_sockets(user: pwd.struct_passwd | None) -> str:
    """$TMPDIR, unless a socket's path would be too long there or it is closed to the user that PostgreSQL runs as."""
    folder = tempfile.gettempdir()
    is_open = user is None or all(path.stat().st_mode & 0o001 for path in (Path(folder), *Path(folder).parents))
    return folder if is_open and len(folder) < MAX_SOCKET_FOLDER else "/tmp"


class PostgresCluster:
    """A cluster in a temporary folder, reached through a socket there."""

    def __init__(self, *, is_durable: bool = False) -> None:
        """`is_durable`: with fsync, for tests that crash the machine in earnest; kill -9 does not need it."""
        self._is_durable = is_durable
        self._user: pwd.struct_passwd | None = get_unprivileged_user()
        self.folder = Path(tempfile.mkdtemp(prefix="hearth-pg-", dir=_folder_for_sockets(self._user)))
        give_to(self.folder, self._user)
        atexit.register(self.stop)
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._has_template = False

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Raises: PostgresMissing; RuntimeError with PostgreSQL's own words."""
        if self._process is not None:
            return
        binaries = find_postgres()
        if binaries is None:
            raise PostgresMissing
        self._initialise(binaries)
        self.resume()

    def stop(self) -> None:
        """Ends the server and removes all data."""
        self.pause()
        shutil.rmtree(self.folder, ignore_errors=True)

    def pause(self) -> None:
        """Ends the server; its data stay for `resume`."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(120)
            self._process = None

    def resume(self) -> None:
        """Raises: PostgresMissing; RuntimeError."""
        binaries = find_postgres()
        if binaries is None:
            raise PostgresMissing
        self._launch(binaries)

    def url(self, database: str) -> str:
        return f"postgresql://{_USER}@/{database}?host={self.folder}"

    def create_database(self, *, is_empty: bool = False) -> str:
        """A new database's URL, with the newest schema unless it is to be empty."""
        self.start()
        name = f"test_{next(self._numbers)}"
        template = "template0" if is_empty else self._template()
        self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)

    def create_shared_database(self) -> None:
        """An empty database named `shared`, for tests that clear it themselves."""
        self._execute("CREATE DATABASE shared TEMPLATE template0")

    def drop_database(self, url: str) -> None:
        name = url.partition("@/")[2].partition("?")[0]
        self._execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _template(self) -> str:
        if not self._has_template:
            self._execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0")
            apply_schema(self.url(_TEMPLATE))
            self._has_template = True
        return _TEMPLATE

    def _execute(self, statement: str) -> None:
        """Those who left a database may still be on their way out: PostgreSQL waits for them, but not for more than 5 s."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for _ in range(ATTEMPTS - 1):
                with suppress(psycopg.errors.ObjectInUse):
                    connection.execute(statement.encode())
                    return
            connection.execute(statement.encode())

    def _initialise(self, binaries: Path) -> None:
        done = subprocess.run(
            [
                str(binaries / "initdb"),
                *("-D", str(self.folder / "data")),
                *("-U", _USER),
                *("-A", "trust"),
                *("-E", "UTF8"),
                "--locale=C",
                "--no-sync",
            ],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=die_with_parent(self._user),
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr}")

    def _launch(self, binaries: Path) -> None:
        settings = {"listen_addresses": "", "unix_socket_directories": str(self.folder), "max_connections": "200"}
        settings |= {"shared_buffers": "64MB", "log_min_messages": "warning"}
        if not self._is_durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(binaries / "postgres"), "-D", str(self.folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = self.folder / "postgres.log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, cwd="/", stdout=output, stderr=output, preexec_fn=die_with_parent(self._user)
            )
        wait_until_up(self._process, self._is_up, log, START_TIMEOUT_MS)

    def _is_up(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


class SqliteFiles:
    """SQLite databases, each in a folder that its test gives."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def create_database(self, folder: Path) -> str:
        """The URL of a new database with the newest schema."""
        path = folder / "hearth.db"
        shutil.copyfile(self._template(), path)
        return f"sqlite:///{path}"

    def close(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _template(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hearth-sqlite-"))
            apply_schema(f"sqlite:///{self._folder / 'template.db'}")
        return self._folder / "template.db"


@contextmanager
def transaction(url: str) -> Iterator[Connection]:
    """One that no server makes."""
    engine = make_engine(engine_url(url, Path("/")))
    try:
        with engine.begin() as connection:
            yield connection
    finally:
        engine.dispose()


def apply_schema(url: str) -> None:
    """Brings a database's schema up to date."""
    with transaction(url) as connection:
        upgrade(connection)


def wait_until_up(process: subprocess.Popen[bytes], is_up: Callable[[], bool], log: Path, timeout_ms: int) -> None:
    """Waits until `is_up()` says so, or the process ends.

    Raises: RuntimeError with the log's end.
    """
    for _ in range(timeout_ms // 20):
        if is_up():
            return
        try:
            process.wait(0.02)  # a pause that ends at once when the process does
        except subprocess.TimeoutExpired:
            continue
        raise RuntimeError(f"ended with {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    raise RuntimeError(f"not up after {timeout_ms} ms: {log.read_text(errors='replace')[-2000:]}")
