"""The driver of handlers."""

from __future__ import annotations

import gc
import weakref
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.coroutine import Drive, drive

variable: ContextVar[str] = ContextVar("variable")


class Outcome:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, BaseException | None]] = []

    def __call__(self, value: Any, error: BaseException | None) -> None:
        self.calls.append((value, error))


async def wait_for(*deferreds: Deferred[Any]) -> list[Any]:
    return [await deferred for deferred in deferreds]


def test_coroutine_that_does_not_wait_is_done_at_once() -> None:
    outcome = Outcome()
    assert drive(wait_for(), outcome) is None
    assert outcome.calls == [([], None)]


def test_fired_deferreds_do_not_make_it_wait() -> None:
    outcome = Outcome()
    fired: Deferred[int] = Deferred()
    fired.callback(3)
    assert drive(wait_for(fired), outcome) is None
    assert outcome.calls == [([3], None)]


def test_results_of_deferreds_reach_the_coroutine() -> None:
    outcome = Outcome()
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    assert isinstance(drive(wait_for(first, second), outcome), Drive)
    first.callback(1)
    assert outcome.calls == []
    second.callback(2)
    assert outcome.calls == [([1, 2], None)]


def test_error_is_raised_where_the_coroutine_waits() -> None:
    async def catch() -> str:
        try:
            await waiting
        except ValueError as error:
            return str(error)
        return "not raised"

    outcome = Outcome()
    waiting: Deferred[None] = Deferred()
    drive(catch(), outcome)
    waiting.errback(ValueError("wrong"))
    assert outcome.calls == [("wrong", None)]


@pytest.mark.parametrize("late", [False, True])
def test_error_of_the_coroutine_is_handed_over(late: bool) -> None:
    async def fail() -> None:
        if late:
            await waiting
        raise KeyError("x")

    outcome = Outcome()
    waiting: Deferred[None] = Deferred()
    drive(fail(), outcome)
    if late:
        waiting.callback(None)
    assert isinstance(outcome.calls[0][1], KeyError)


def test_cancel_cancels_what_is_waited_for() -> None:
    outcome = Outcome()
    cancelled: list[str] = []
    waiting: Deferred[None] = Deferred(lambda _: cancelled.append("yes"))
    driven = drive(wait_for(waiting), outcome)
    assert driven is not None
    driven.cancel()
    assert cancelled == ["yes"]
    assert isinstance(outcome.calls[0][1], CancelledError)
    driven.cancel()
    assert len(outcome.calls) == 1


def test_coroutine_may_go_on_after_a_cancellation() -> None:
    async def stubborn() -> str:
        try:
            await first
        except CancelledError:
            return await second
        return "not cancelled"

    outcome = Outcome()
    first: Deferred[str] = Deferred()
    second: Deferred[str] = Deferred()
    driven = drive(stubborn(), outcome)
    assert driven is not None
    driven.cancel()
    second.callback("finished")
    assert outcome.calls == [("finished", None)]


def test_context_of_the_start_is_kept_over_waits() -> None:
    async def read() -> str:
        await waiting
        return variable.get()

    outcome = Outcome()
    waiting: Deferred[None] = Deferred()
    token = variable.set("mine")
    drive(read(), outcome)
    variable.reset(token)
    waiting.callback(None)
    assert outcome.calls == [("mine", None)]


def test_awaiting_something_else_is_an_error_in_the_coroutine() -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def misuse() -> None:
        await Odd()

    outcome = Outcome()
    drive(misuse(), outcome)
    assert isinstance(outcome.calls[0][1], TypeError)


def test_many_waits_in_a_row_need_no_deep_stack() -> None:
    async def often() -> int:
        for waiting in deferreds:
            await waiting
        return len(deferreds)

    outcome = Outcome()
    deferreds: list[Deferred[None]] = [Deferred() for _ in range(5000)]
    drive(often(), outcome)
    for waiting in deferreds:
        waiting.callback(None)
    assert outcome.calls == [(5000, None)]


def test_finished_drive_leaves_nothing_behind() -> None:
    class Held: ...

    async def hold(held: object) -> None:
        await waiting

    waiting: Deferred[None] = Deferred()
    held = Held()
    reference = weakref.ref(held)
    driven = drive(hold(held), Outcome())
    del held
    assert reference() is not None
    waiting.callback(None)
    del driven
    gc.collect()
    assert reference() is None
