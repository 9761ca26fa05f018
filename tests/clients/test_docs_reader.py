"""The reader at /docs in a real browser."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.kit.browser import ABSENT, EXECUTABLE, OPTIONS, TIMEOUT_S


@pytest.mark.skipif(EXECUTABLE is None, reason=ABSENT)
def test_the_reader_shows_all_operations_with_no_help_of_other_hosts(hearth: Any, tmp_path: Path) -> None:
    document = hearth.client().send_raw("GET", "/docs/openapi.json").json()
    done = subprocess.run(
        [
            str(EXECUTABLE),
            *OPTIONS,
            f"--user-data-dir={tmp_path}",
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
