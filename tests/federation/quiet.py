"""What the log holds after something hostile."""

from __future__ import annotations

import logging
from typing import Any

import pytest


@pytest.fixture
def log(caplog: Any) -> Any:
    """Log: `lines()` of information about others, `faults()` that point to an error of ours."""
    caplog.set_level(logging.INFO, logger="federation")
    return Log(caplog)


class Log:
    def __init__(self, caplog: Any) -> None:
        self._caplog = caplog

    def clear(self) -> None:
        self._caplog.clear()

    def faults(self) -> list[str]:
        """Warnings, errors and stacks."""
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.levelno >= logging.WARNING or record.exc_info
        ]

    def lines(self) -> list[str]:
        """What `federation.inbound` says."""
        return [record.getMessage() for record in self._caplog.records if record.name.startswith("federation.inbound")]
