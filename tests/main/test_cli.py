"""The command line: what is wrong is one line and exit code 1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.kit.client import Client
from tests.kit.servers import CHECKOUT, write_config
from tests.kit.waiting import until

TIMEOUT_S = 120


def _hearth(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "homeserver.main", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.strip().splitlines()
    for word in words:
        assert word in line


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'server_name = "a"\n[registration]\nenabled = "yes"\n',
            ("hearth.toml:3", "enabled", '"yes"', "true or false"),
        ),
        ('server_name = "a"\n[registrations]\n', ("hearth.toml:2", "registrations")),
        ('server_name = "a"\n[[listeners]]\nport = 70000\n', ("hearth.toml:3", "port", "70000", "65535")),
        ("server_name = \n", ("hearth.toml:1", "not TOML")),
        ("", ("server_name",)),
        ('server_name = "a b"\n', ("hearth.toml:1", "server_name", '"a b"', "example.org")),
        ('server_name = "a"\npublic_base_url = "ftp://a"\n', ("hearth.toml:2", "public_base_url", "https://")),
        ('server_name = "a"\n[database]\nurl = "mysql://a/b"\n', ("hearth.toml:3", "url", "mysql", "sqlite:///file")),
        ('server_name = "a"\n[turn]\nuris = ["turn:a"]\n', ("[turn] shared_secret", "missing, as uris is set")),
        ('server_name = "a"\n[[listeners]]\ntrusted_proxies = ["::1", "x"]\n', ("hearth.toml:3", '"x"', "10.0.0.0/8")),
    ],
)
def test_wrong_configuration_is_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    (tmp_path / "hearth.toml").write_text(text)
    _assert_refused(_hearth("run", "--config", "hearth.toml", cwd=tmp_path), *words)


@pytest.mark.parametrize("command", ["run", "config check"])
def test_wrong_variable_is_one_line(tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hearth.toml").write_text('server_name = "a"\n')
    monkeypatch.setenv("HEARTH_SERVER_NAME", "a b")
    done = _hearth(*command.split(), "--config", "hearth.toml", cwd=tmp_path)
    _assert_refused(done, "environment", "HEARTH_SERVER_NAME", '"a b"', "example.org")


def test_misspelt_variable_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "environment: HEARTH_SERVER_NAM: no such setting, did you mean HEARTH_SERVER_NAME?"
    monkeypatch.setenv("HEARTH_SERVER_NAM", "b")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        config = write_config(tmp_path, "sqlite:///hearth.db", taken.getsockname()[1])
        checked = _hearth("config", "check", "--config", str(config))
        assert (checked.returncode, checked.stderr.strip()) == (0, told)
        assert told in _hearth("run", "--config", str(config)).stderr


def test_missing_configuration_is_one_line(tmp_path: Path) -> None:
    _assert_refused(_hearth("run", "--config", str(tmp_path / "nothing.toml")), "nothing.toml")


def test_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = write_config(tmp_path, "sqlite:///hearth.db", port)
        _assert_refused(_hearth("run", "--config", str(config)), str(port), "in use")


def test_unwritable_data_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    config = write_config(tmp_path, "sqlite:///hearth.db", 0)
    _assert_refused(_hearth("run", "--config", str(config)), "data_dir", str(tmp_path / "data"))


def test_database_of_a_newer_version_is_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path, "sqlite:///hearth.db", 0)
    assert _hearth("db", "upgrade", "--config", str(config)).returncode == 0
    engine = create_engine(f"sqlite:///{tmp_path / 'data' / 'hearth.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE schema_version SET version = 9999"))
    engine.dispose()
    _assert_refused(_hearth("run", "--config", str(config)), "schema 9999")


def test_unreachable_database_is_one_line_without_its_password(tmp_path: Path) -> None:
    config = write_config(tmp_path, "postgresql://someone:geheim@127.0.0.1:1/nothing", 0)
    done = _hearth("run", "--config", str(config))
    _assert_refused(done, "[database] url", "someone")
    assert "geheim" not in done.stderr


def test_users_are_made_on_the_command_line(start_subprocess: Any) -> None:
    server = start_subprocess()
    config = ("--config", str(server.config_file))
    assert _hearth("user", "add", "alice", "--admin", "--password", "a good password", *config).returncode == 0
    _assert_refused(_hearth("user", "add", "alice", "--password", "a good password", *config), "taken")
    server.client().login("alice", "a good password")
    assert _hearth("user", "password", "alice", "--password", "a better password", *config).returncode == 0
    server.client().login("alice", "a better password")
    _assert_refused(_hearth("user", "password", "nobody", "--password", "a good password", *config), "nobody")


def test_an_account_becomes_an_admins_and_is_it_no_more(start_subprocess: Any) -> None:
    server = start_subprocess()
    alice, bob = server.register("alice"), server.register("bob")
    config = ("--config", str(server.config_file))
    lock = "/_matrix/client/v1/admin/lock/{}"
    alice.put(lock, {"locked": True}, at=[bob.user_id], expect="M_FORBIDDEN")

    done = _hearth("user", "admin", "alice", *config)
    assert (done.returncode, done.stdout) == (0, "Changed @alice:test.example\n")
    until(alice, lambda: alice.put(lock, {"locked": True}, at=[bob.user_id]) == {"locked": True})
    bob.get("/account/whoami", expect="M_USER_LOCKED")

    done = _hearth("user", "admin", alice.user_id, "--remove", *config)
    assert (done.returncode, done.stdout) == (0, "Changed @alice:test.example\n")
    until(alice, lambda: _is_forbidden(alice, lock.format(bob.user_id)))

    _assert_refused(_hearth("user", "admin", "nobody", *config), "nobody")
    _assert_refused(_hearth("user", "admin", "@alice:elsewhere.example", *config), "not a user of")


def _is_forbidden(client: Client, path: str) -> bool:
    return client.send_raw("GET", path).status_code == 403


def test_version_and_configuration_are_shown(tmp_path: Path) -> None:
    assert _hearth("version").stdout.startswith("hearth ")
    example = _hearth("config", "example").stdout
    (tmp_path / "hearth.toml").write_text(example)
    assert _hearth("config", "check", "--config", str(tmp_path / "hearth.toml")).returncode == 0
