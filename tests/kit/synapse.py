"""A real Synapse from PyPI, the peer that nobody here wrote, on SQLite; its name is `localhost:<port of its wire>`.

It runs in an environment of its own (tests/kit/processes.py). It trusts the tests' authority and may call loopback; rate limits
are off, and it soon tries again when a server is away.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

from homeserver.matrix.ids import ServerName
from tests.kit.certificates import TestCa
from tests.kit.client import Client
from tests.kit.databases import wait_until_up
from tests.kit.network import CuttableProxy
from tests.kit.processes import die_with_parent, get_free_port
from tests.kit.servers import Addressed

START_TIMEOUT_MS = 120_000
STOP_TIMEOUT_S = 120
UNLIMITED = {"per_second": 1_000_000, "burst_count": 1_000_000}


class SynapseClient(Client):
    """As tests talk with Hearth; but what Synapse answers is not held against the specification."""

    def check_answer(self, method: str, path: str, status: int, answer: Any) -> None:
        """Anything goes."""


class Synapse(Addressed):
    """A Synapse in a process of its own; `wire` is what other servers reach it through."""

    def __init__(self, python: Path, folder: Path, ca: TestCa) -> None:
        self._python = python
        self.folder = folder
        self.ca = ca
        self._client_port, self._federation_port = get_free_port(), get_free_port()
        self.wire = CuttableProxy(self._federation_port)
        self.url = f"http://127.0.0.1:{self._client_port}"
        self.server_name = ServerName(f"localhost:{self.wire.port}")
        self.log_file = folder / "synapse.log"
        self._config_file = folder / "homeserver.yaml"
        self._config_file.write_text(json.dumps(self._build_config()))  # which is YAML, too
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Synapse:
        """Returns when it accepts requests."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [self._python, "-m", "synapse.app.homeserver", "-c", self._config_file],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent(),
            )
        wait_until_up(self._process, self._accepts, self.log_file, START_TIMEOUT_MS)
        return self

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        self.stop()
        self.wire.stop()

    def client(self, **about: Any) -> Client:
        return SynapseClient(self.url, **about)

    def _accepts(self) -> bool:
        with socket.socket() as clients, socket.socket() as servers:
            ports = ((clients, self._client_port), (servers, self._federation_port))
            return not any(probe.connect_ex(("127.0.0.1", port)) for probe, port in ports)

    # -- configuration ---------------------------------------------------------------------------------------------

    def _build_config(self) -> dict[str, Any]:
        files = self.ca.for_loopback()
        key = b64encode(os.urandom(32)).decode().rstrip("=")
        return {
            "server_name": self.server_name,
            "public_baseurl": self.url + "/",
            "pid_file": str(self.folder / "pid"),
            "media_store_path": str(self.folder / "media"),
            "signing_key_path": self._write("signing.key", f"ed25519 a_test {key}\n"),
            "log_config": self._write("log.yaml", json.dumps(LOG)),
            "listeners": [
                _listener(self._client_port, "client", tls=False),
                _listener(self._federation_port, "federation", tls=True),
            ],
            "tls_certificate_path": str(files.certificate),
            "tls_private_key_path": str(files.private_key),
            "federation_custom_ca_list": [str(self.ca.file)],
            "database": {"name": "sqlite3", "args": {"database": str(self.folder / "homeserver.db")}},
            **SETTINGS,
        }

    def _write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)


def _listener(port: int, resource: str, *, tls: bool) -> dict[str, Any]:
    resources = [{"names": [resource], "compress": False}]
    return {"port": port, "bind_addresses": ["127.0.0.1"], "type": "http", "tls": tls, "resources": resources}


LOG = {
    "version": 1,
    "formatters": {"lines": {"format": "%(asctime)s %(levelname)s %(name)s %(request)s %(message)s"}},
    "filters": {"context": {"()": "synapse.logging.context.LoggingContextFilter"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "lines", "filters": ["context"]}},
    "root": {"level": os.environ.get("HEARTH_SYNAPSE_LOG", "WARNING"), "handlers": ["out"]},
    "disable_existing_loggers": False,
}
LIMITS = (
    "rc_message",
    "rc_registration",
    "rc_registration_token_validity",
    "rc_joins_per_room",
    "rc_room_creation",
    "rc_media_create",
    "rc_key_requests",
    "rc_3pid_validation",
    "rc_third_party_invite",
    "rc_reports",
    "rc_user_directory",
    "rc_profile",
    "rc_delayed_event_mgmt",
)
SETTINGS: dict[str, Any] = {
    "report_stats": False,
    "federation_verify_certificates": True,
    "trusted_key_servers": [],
    "suppress_key_server_warning": True,
    "ip_range_blacklist": [],
    "federation_ip_range_blacklist": [],
    "enable_registration": True,
    "enable_registration_without_verification": True,
    "macaroon_secret_key": "tests",
    "form_secret": "tests",
    "bcrypt_rounds": 4,
    "presence": {"enabled": True},
    "url_preview_enabled": False,
    # An initial /sync is the newest, not that of two minutes ago.
    "caches": {"sync_response_cache_duration": 0},
    "allow_public_rooms_over_federation": True,
    "experimental_features": {"msc4354_enabled": True},
    "room_list_publication_rules": [{"action": "allow"}],
    "federation": {
        "client_timeout": 20_000,
        "max_short_retries": 1,
        "max_short_retry_delay": 100,
        "max_long_retries": 1,
        "max_long_retry_delay": 200,
        "destination_min_retry_interval": 200,
        "destination_retry_multiplier": 1.5,
        "destination_max_retry_interval": 1000,
    },
    "rc_login": {"address": UNLIMITED, "account": UNLIMITED, "failed_attempts": UNLIMITED},
    "rc_joins": {"local": UNLIMITED, "remote": UNLIMITED},
    "rc_invites": {"per_room": UNLIMITED, "per_user": UNLIMITED, "per_issuer": UNLIMITED},
    "rc_presence": {"per_user": UNLIMITED},
    "rc_federation": {
        "window_size": 1000,
        "sleep_limit": 1_000_000,
        "sleep_delay": 1,
        "reject_limit": 1_000_000,
        "concurrent": 1000,
    },
    **dict.fromkeys(LIMITS, UNLIMITED),
}
