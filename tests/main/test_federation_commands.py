"""`hearth keys` and `hearth doctor`, as admins run them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

from homeserver.matrix.signing import VerifyKey, parse_signing_keys, verify_json
from tests.kit.servers import CHECKOUT, write_config

TIMEOUT_S = 120


def _hearth(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "homeserver.main", *arguments],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def _document(server: Any) -> Any:
    document = requests.get(f"{server.url}/_matrix/key/v2/server", timeout=TIMEOUT_S).json()
    [(key_id, key)] = document["verify_keys"].items()
    verify_json(document, document["server_name"], VerifyKey.from_base64(key_id, key["key"]))
    return document


def test_rotated_key_signs_after_a_restart_and_the_one_before_is_old_then(start_subprocess: Any) -> None:
    server = start_subprocess({"federation": {"trusted_key_servers": []}})
    config = ("--config", str(server.config_file))
    before = _document(server)
    [old_id] = before["verify_keys"]
    done = _hearth("keys", "rotate", *config)
    assert done.returncode == 0, done.stderr
    assert "Restart" in done.stdout
    # Other commands don't call the old key old while the server signs with it.
    assert _hearth("user", "add", "alice", "--password", "a good password", *config).returncode == 0
    assert _document(server)["verify_keys"] == before["verify_keys"]
    stopped_ms = int(time.time() * 1000)
    server.restart()
    after = _document(server)
    [new_id] = after["verify_keys"]
    assert new_id in done.stdout
    assert new_id != old_id
    [(listed, old)] = after["old_verify_keys"].items()
    assert (listed, old["key"]) == (old_id, before["verify_keys"][old_id]["key"])
    assert stopped_ms <= old["expired_ts"] <= int(time.time() * 1000)
    shown = _hearth("keys", "show", *config).stdout.splitlines()
    assert [line.split()[0::2] for line in shown] == [[new_id, "signs"], [old_id, "old"]]


def test_key_file_keeps_its_rights_and_its_keys(tmp_path: Path) -> None:
    config = write_config(tmp_path, "sqlite:///hearth.db", 0)
    file = tmp_path / "data" / "signing.key"
    refused = _hearth("keys", "rotate", "--config", str(config))
    assert (refused.returncode, "no" in refused.stderr, file.exists()) == (1, True, False)
    assert _hearth("install", "--config", str(config)).returncode == 0
    file.chmod(0o640)
    [first] = parse_signing_keys(file.read_text())
    assert [_hearth("keys", "rotate", "--config", str(config)).returncode for _ in range(2)] == [0, 0]
    keys = parse_signing_keys(file.read_text())
    assert (len(set(keys)), keys[-1]) == (3, first)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert sorted(each.name for each in file.parent.iterdir() if "signing" in each.name) == ["signing.key"]


def test_doctor_finds_nothing_wrong_with_a_server_that_is_well(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    config = str(hearth._config_file)
    done = _hearth("doctor", "--config", config)
    assert (done.returncode, "Nothing is wrong" in done.stdout) == (0, True), done.stdout + done.stderr
    assert "runs Hearth" in done.stdout
    peer.answer("GET", "/_matrix/federation/v1/version", {"server": {"name": "Scripted\x1b[2J", "version": "1"}})
    done = _hearth("doctor", peer.server_name, "--config", config)
    assert (done.returncode, "Scripted?[2J 1" in done.stdout) == (0, True), done.stdout


def test_doctor_says_what_is_wrong(start_federated: Any, tmp_path: Path) -> None:
    hearth = start_federated()
    done = _hearth("keys", "rotate", "--config", str(hearth._config_file))
    assert done.returncode == 0
    done = _hearth("doctor", "--config", str(hearth._config_file))
    assert (done.returncode, "restart the server" in done.stdout) == (1, True), done.stdout
    done = _hearth("doctor", "127.0.0.1:1", "--config", str(tmp_path / "nothing.toml"))
    assert done.returncode == 1
    assert "127.0.0.1: private" in done.stdout
    assert "can't be connected to" in done.stdout
    assert "Something is wrong" in done.stdout
