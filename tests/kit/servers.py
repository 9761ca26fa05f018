"""Whole servers for tests: in this process, where a test may reach into them, and as a process that can be killed.

Both are given a database and a folder, and are asked over HTTP. Their configuration is that of a server for tests: rate limits
off, the cheapest password hash, registration open. `settings` are put over it, as nested dicts:

    server = LocalServer(database_url, tmp_path, {"rate_limits": {"enabled": True}})
    alice = server.register("alice")
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homeserver.main.sections import SECTIONS
from homeserver.main.server import RunningServer, start_server
from homeserver.runtime.clock import Clock
from homeserver.runtime.config import load_config
from tests.kit.client import Client
from tests.kit.databases import wait_until_up
from tests.kit.processes import die_with_parent, get_free_port
from tests.kit.reactor import get_reactor, run_in_reactor

SERVER_NAME = "test.example"
SHARED_SECRET = "the shared secret of the tests"
CHECKOUT = Path(__file__).resolve().parents[2]
START_TIMEOUT_MS = 120_000
STOP_TIMEOUT_S = 120

Settings = Mapping[str, Any]


def write_config(folder: Path, database_url: str, port: int, settings: Settings | None = None) -> Path:
    """Writes folder/hearth.toml."""
    values: dict[str, Any] = {
        "server_name": SERVER_NAME,
        "data_dir": str(folder / "data"),
        "database": {"url": database_url},
        "listeners": [{"bind": ["127.0.0.1"], "port": port}],
        "registration": {
            "enabled": True,
            "guests": True,
            "shared_secret": SHARED_SECRET,
            "password_hash_cost": "minimum",
        },
        "rate_limits": {"enabled": False},
        "log": {"level": "warning"},
    }
    path = folder / "hearth.toml"
    path.write_text(to_toml(_merged(values, settings or {})))
    return path


def to_toml(values: Settings) -> str:
    """Nested dicts, lists of dicts, strings, numbers and booleans as TOML."""
    return "\n".join(_lines(values, ())) + "\n"


def _lines(values: Settings, at: tuple[str, ...]) -> list[str]:
    lines = [f"{key} = {_inline(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"[{'.'.join((*at, key))}]", *_lines(value, (*at, key))]
    return lines


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {_inline(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    return json.dumps(value)


def _merged(under: Settings, over: Settings) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


class Addressed:
    """What both kinds of servers can be asked."""

    url: str

    def client(self, **about: Any) -> Client:
        """A client that is not logged in."""
        return Client(self.url, **about)

    def register(self, name: str, password: str = "password of the tests") -> Client:
        """A new user's client, logged in."""
        client = self.client()
        client.register(name, password)
        return client


class LocalServer(Addressed):
    """A server in this process. `running.services` is what it is made of; only touch that in `run_in_reactor`."""

    running: RunningServer

    def __init__(
        self, database_url: str, folder: Path, settings: Settings | None = None, clock: Clock | None = None
    ) -> None:
        self._config_file = write_config(folder, database_url, 0, settings)
        self._clock = clock
        self.start()

    def start(self) -> None:
        config = load_config(self._config_file, SECTIONS, {})
        self.running = run_in_reactor(start_server, config, get_reactor(), self._clock)
        self.url = f"http://127.0.0.1:{self.running.ports[0]}"

    def stop(self) -> None:
        run_in_reactor(self.running.stop)

    def restart(self) -> None:
        """Stops in an orderly way and starts anew on the same data; at another port."""
        self.stop()
        self.start()


class SubprocessServer(Addressed):
    """A server as admins start it, `python -m homeserver.main run`; its log is folder/server.log."""

    def __init__(self, database_url: str, folder: Path, settings: Settings | None = None) -> None:
        self._port = get_free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.folder = folder
        self.log_file = folder / "server.log"
        self.config_file = write_config(folder, database_url, self._port, settings)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Returns when the server accepts requests."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "homeserver.main", "run", "--config", str(self.config_file)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
            )
        wait_until_up(self._process, self._accepts, self.log_file, START_TIMEOUT_MS)

    def kill(self) -> None:
        """kill -9: nothing is finished, nothing is said."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kills and starts anew, on the same data at the same port."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _accepts(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
