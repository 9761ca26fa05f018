"""matrix-js-sdk, in Node, against a running server, or two that federate; the stories are in *.mjs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit.client import Client
from tests.kit.peers import PAIRS, Pair

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


def test_messages_arrive_when_all_one_time_keys_are_used_up(hearth: Any) -> None:
    _tell("fallback.mjs", hearth.url)


def _node_version() -> int:
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return int(told.removeprefix("v").partition(".")[0])


def test_a_client_follows_by_its_own_sliding_sync(hearth: Any) -> None:
    if _node_version() < 20:
        pytest.skip("the matrix-js-sdk that knows simplified sliding sync needs Node.js 20")
    _tell("sliding.mjs", hearth.url, MATRIX_JS_SDK="matrix-js-sdk-37")


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
@pytest.mark.parametrize("story", ["encrypt.mjs", "verify.mjs"])
def test_users_of_two_servers_talk(pair: Pair, story: str) -> None:
    """What concerns one of them (a new device, a backup) is alice's, who is on the near one."""
    _tell_of(story, pair.near.person("alice"), pair.far.person("bob"))


@pytest.mark.parametrize("pair", ["synapse-hearth"], indirect=True)
def test_messages_arrive_from_another_server_when_all_one_time_keys_are_used_up(pair: Pair) -> None:
    """Its users claim them from Hearth. On other pairs this is told with matrix-nio and mautrix-python, which take less time."""
    _tell_of("fallback.mjs", pair.near.person("alice"), pair.far.person("bob"), pair.near.person("carol"))


def _tell_of(story: str, *people: Client) -> None:
    _tell(story, *(part for person in people for part in (person.base_url, _localpart(person.user_id))))


def _localpart(user_id: str) -> str:
    return user_id[1:].partition(":")[0]
