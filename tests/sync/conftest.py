from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sync.world import World


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = World(database_url)
    yield world
    world.stop()
