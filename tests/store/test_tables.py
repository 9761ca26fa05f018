"""What the tables' declarations cost a server."""

from __future__ import annotations

import subprocess
import sys

SHOW_DIALECTS = """
import sys, homeserver.store.tables
print(*(name for name in sys.modules if name.startswith("sqlalchemy.dialects.")))
"""


def test_tables_load_no_dialect() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOW_DIALECTS], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == []
