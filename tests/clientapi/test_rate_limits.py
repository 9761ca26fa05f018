"""What the specification lets a server limit is limited."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.kit.specification import Specification


def shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path.strip())


def test_every_operation_with_a_429_has_a_limit(hearth: Any) -> None:
    file = Specification().file
    if not file.exists():
        pytest.skip("the specification is absent")
    paths = json.loads(file.read_text())["paths"]
    limited = {
        (method.upper(), shape(path))
        for path, operations in paths.items()
        for method, operation in operations.items()
        if "429" in operation.get("responses", {})
    }
    declared = [plan.declaration for plan in hearth.running.listeners.app.router.plans]
    served = {(each.method, shape(path)): each.limit for each in declared for path in each.paths}
    assert len(limited & served.keys()) > 50
    assert {operation for operation in limited & served.keys() if served[operation] is None} == set()
