"""matrix-js-sdk, in Node, against a running server, or two that federate; the stories are in *.mjs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kit.peers import Pair

HERE = Path(__file__).parent
TIMEOUT_S = 240

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is absent"),
    pytest.mark.skipif(
        not (HERE / "node_modules").exists(), reason="scripts/test installs matrix-js-sdk; it is absent"
    ),
]


def _tell(story: str, *arguments: str, **environment: str) -> None:
    done = subprocess.run(
        ["node", story, *arguments],
        cwd=HERE,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


@pytest.mark.parametrize("story", ["talk.mjs", "encrypt.mjs", "verify.mjs"])
def test_two_users_talk(hearth: Any, story: str) -> None:
    _tell(story, hearth.url)


@pytest.mark.parametrize("story", ["encrypt.mjs", "verify.mjs"])
def test_users_of_two_servers_talk(start_federated: Callable[..., Any], story: str) -> None:
    here, there = start_federated("here"), start_federated("there")
    _tell(story, here.url, there.url)


def test_messages_arrive_when_all_one_time_keys_are_used_up(hearth: Any) -> None:
    _tell("fallback.mjs", hearth.url)


def _node_version() -> int:
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.removeprefix("v").partition(".")[0])


def test_a_client_follows_by_its_own_sliding_sync(hearth: Any) -> None:
    if _node_version() < 20:
        pytest.skip("the matrix-js-sdk that knows simplified sliding sync needs Node.js 20")
    _tell("sliding.mjs", hearth.url, MATRIX_JS_SDK="matrix-js-sdk-37")


@pytest.mark.parametrize("pair", ["hearth-synapse", "synapse-hearth"], indirect=True)
def test_users_of_hearth_and_synapse_talk_encrypted(pair: Pair) -> None:
    """Also with the new device of the first one, who restores the backup there."""
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    names = [user.user_id[1:].partition(":")[0] for user in (alice, bob)]
    _tell("encrypt.mjs", alice.base_url, bob.base_url, *names)
