"""The fixture that tests of room services and of their endpoints share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts.harness import _empty_postgres, postgres_url
from tests.rooms.harness import RoomsServer


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RoomsServer]:
    url = "sqlite:///hearth.db"
    if request.param == "postgresql":
        if not postgres_url():
            pytest.skip("HEARTH_TEST_POSTGRES_URL is not set")
        _empty_postgres()
        url = postgres_url()
    made = RoomsServer(url, tmp_path)
    yield made
    made.close()
