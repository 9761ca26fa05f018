"""What the tests of media share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.federation.visitor import Visitor


@pytest.fixture
def visitor(start_federated: Callable[..., Any], start_peer: Callable[..., Any]) -> Visitor:
    """Another server that visits a Hearth (`visitor.hearth`)."""
    return Visitor(start_peer(), start_federated())
