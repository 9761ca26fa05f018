"""The reader at /docs in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TIMEOUT_S = 90


@pytest.mark.skipif(BROWSER is None, reason="scripts/test installs Chromium where it can; it is absent")
def test_the_reader_shows_all_operations_with_no_help_of_other_hosts(hearth: Any, tmp_path: Path) -> None:
    document = hearth.client().send_raw("GET", "/docs/openapi.json").json()
    done = subprocess.run(
        [
            str(BROWSER),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path}",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--virtual-time-budget=10000",
            "--enable-logging=stderr",
            "--dump-dom",
            f"{hearth.url}/docs",
        ],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for path in document["paths"]:
        assert path in done.stdout
    assert "/_matrix/client/v3/sync" in done.stdout
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
