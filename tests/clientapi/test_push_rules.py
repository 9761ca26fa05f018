"""Push rules, as clients read them."""

from __future__ import annotations

from typing import Any


def test_everybody_has_the_predefined_rules(hearth: Any) -> None:
    alice = hearth.register("alice")
    rules = alice.get("/pushrules/")
    assert rules["global"]["override"][0]["rule_id"] == ".m.rule.master"
    assert alice.get("/pushrules/global/") == rules["global"]


def test_single_rules(hearth: Any) -> None:
    alice = hearth.register("alice")
    rule = alice.get("/pushrules/global/{}/{}", at=("underride", ".m.rule.message"))
    assert rule["default"] is True
    assert alice.get("/pushrules/global/{}/{}/enabled", at=("underride", ".m.rule.message")) == {"enabled": True}
    assert (
        alice.get("/pushrules/global/{}/{}/actions", at=("underride", ".m.rule.message"))["actions"] == rule["actions"]
    )
    alice.get("/pushrules/global/{}/{}", at=("underride", "nothing"), expect="M_NOT_FOUND")
