"""schemathesis reads our own OpenAPI document and makes requests of it, right ones and wrong ones: no answer is a 5xx."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import schemathesis
from hypothesis import Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.generation.modes import GenerationMode

from tests.kit.client import TIMEOUT_S
from tests.scenarios.unavailable import is_answer

EACH = 2


@pytest.mark.timeout(1800)
def test_every_operation_answers_what_its_document_says_may_be_asked(hearth: Any) -> None:
    alice = hearth.register("alice")
    schema = schemathesis.openapi.from_url(f"{hearth.url}/docs/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 130
    asked = set()

    def ask(case: Any) -> None:
        case.query = {**(case.query or {}), "timeout": 0}
        headers = {"Authorization": f"Bearer {alice.token}"}
        response = case.call(base_url=hearth.url, headers=headers, timeout=TIMEOUT_S)
        assert is_answer(response.status_code, case.method, case.path), (case, response.text)
        asked.add((case.method, case.path))
        if response.status_code == 401:
            alice.login("alice", "password of the tests")

    for operation in operations:
        for mode in GenerationMode:
            asking = given(operation.as_strategy(generation_mode=mode))(ask)
            with suppress(Unsatisfiable):  # nothing can be wrong with a request that has nothing in it
                settings(max_examples=EACH, phases=[Phase.generate])(asking)()
    assert len(asked) == len(operations)
