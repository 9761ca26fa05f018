"""matrix-js-sdk, in Node, against a running server; the stories are in talk.mjs, encrypt.mjs and verify.mjs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
TIMEOUT_S = 120


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is absent")
@pytest.mark.skipif(not (HERE / "node_modules").exists(), reason="scripts/test installs matrix-js-sdk; it is absent")
@pytest.mark.parametrize("story", ["talk.mjs", "encrypt.mjs", "verify.mjs"])
def test_two_users_talk(hearth: Any, story: str) -> None:
    hearth.register("alice")
    hearth.register("bob")
    done = subprocess.run(
        ["node", story, hearth.url], cwd=HERE, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
