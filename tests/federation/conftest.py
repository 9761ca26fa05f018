"""What the tests of federation share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.federation.outbox import Outbox
from tests.federation.visitor import Visitor


@pytest.fixture
def visitor(start_federated: Callable[..., Any], start_peer: Callable[..., Any]) -> Visitor:
    """Another server that visits a Hearth (`visitor.hearth`)."""
    return Visitor(start_peer(), start_federated())


@pytest.fixture
def outbox_config() -> Mapping[str, Any]:
    """The configuration of the `outbox`, where that takes more than usual."""
    return {}


@pytest.fixture
def outbox(start_local: Callable[..., Any], outbox_config: Mapping[str, Any]) -> Iterator[Outbox]:
    """A server whose peers are scripted, with a room that some of them are in."""
    box = Outbox(start_local({"federation": {"enabled": False}, **outbox_config}))
    box.start()
    box.make_room()
    yield box
    box.stop()
