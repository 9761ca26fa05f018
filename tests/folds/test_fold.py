"""What is shared by those who want the same of a fold at once."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import Any

from sqlalchemy import Connection
from twisted.internet.defer import CancelledError, Deferred

from homeserver.folds.fold import Fold
from homeserver.store.log import LogRow, load_head_position
from tests.kit.reactor import run_in_reactor, wait


def test_who_gives_up_does_not_take_the_value_from_others(hearth: Any) -> None:
    may_go = Event()

    def load(_conn: Connection, keys: Sequence[str]) -> dict[str, str]:
        may_go.wait(120)
        return {key: key.upper() for key in keys}

    def ask() -> tuple[Deferred[str], Deferred[str]]:
        fold: Fold[str, str] = Fold(
            hearth.running.services.core.database,
            load=load,
            keys_of=lambda _row: (),
            apply=lambda _key, value, _row: value,
            max_entries=10,
        )
        first, second = (Deferred.fromCoroutine(fold.load("a")) for _ in range(2))
        first.cancel()
        first.addErrback(lambda failure: failure.trap(CancelledError))
        may_go.set()
        return first, second

    _, second = run_in_reactor(ask)
    assert wait(second) == "A"


def test_what_was_loaded_ahead_of_the_followers_is_not_applied_once_more(hearth: Any) -> None:
    hearth.register("somebody")
    core = hearth.running.services.core
    fold: Fold[str, tuple[int, ...]] = Fold(
        core.database,
        load=lambda conn, keys: {key: (load_head_position(conn),) for key in keys},
        keys_of=lambda row: (row.key,),
        apply=lambda _key, value, row: (*value, row.position),
        max_entries=10,
    )
    (loaded,) = run_in_reactor(fold.load, "a")

    def follow(*positions: int) -> None:
        fold.on_rows([LogRow(position, "kind", "a", {}) for position in positions])

    run_in_reactor(follow, loaded - 1)
    run_in_reactor(follow, loaded, loaded + 1)
    run_in_reactor(follow, loaded + 2)
    assert fold.get("a") == (loaded, loaded + 1, loaded + 2)


def test_those_that_are_asked_for_together_are_used_up_last(hearth: Any) -> None:
    fold: Fold[str, str] = Fold(
        hearth.running.services.core.database,
        load=lambda _conn, keys: {key: key.upper() for key in keys},
        keys_of=lambda _row: (),
        apply=lambda _key, value, _row: value,
        max_entries=3,
    )
    run_in_reactor(fold.load_many, ["a", "b", "c"])
    assert run_in_reactor(fold.get_many, ["a", "b", "x"]) == {"a": "A", "b": "B"}
    run_in_reactor(fold.load, "d")
    assert [fold.peek(key) for key in "abcd"] == ["A", "B", None, "D"]
