"""So many at once."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.clock import ManualClock, SystemClock
from homeserver.runtime.coroutine import next_turn
from homeserver.runtime.turns import Slots
from tests.kit.reactor import get_reactor, run_in_reactor


def drop_cancelled(failure: Any) -> None:
    failure.trap(CancelledError)


class Jobs:
    """Each runs until it is told to end, and gives its number."""

    def __init__(self) -> None:
        self.begun: dict[int, Deferred[int]] = {}

    async def run(self, number: int) -> int:
        self.begun[number] = Deferred()
        return await self.begun[number]

    def starts(self, count: int) -> list[Callable[[], Coroutine[Any, Any, int]]]:
        return [partial(self.run, number) for number in range(count)]


def test_next_one_begins_when_one_ends_and_the_results_are_in_order() -> None:
    jobs = Jobs()
    running = Deferred.fromCoroutine(Slots(ManualClock(), 2, 1_000).gather(jobs.starts(4)))
    for begun, ends in ((2, 1), (3, 0), (4, 3), (4, 2)):
        assert len(jobs.begun) == begun
        jobs.begun[ends].callback(ends)
    assert running.result == [0, 1, 2, 3]


def test_one_that_hangs_leaves_its_slot_once() -> None:
    clock, jobs = ManualClock(), Jobs()
    running = Deferred.fromCoroutine(Slots(clock, 1, 1_000).gather(jobs.starts(3)))
    clock.advance(999)
    assert len(jobs.begun) == 1
    clock.advance(1)
    assert len(jobs.begun) == 2
    jobs.begun[0].callback(0)
    assert len(jobs.begun) == 2
    jobs.begun[1].callback(1)
    jobs.begun[2].callback(2)
    assert running.result == [0, 1, 2]


def test_whoever_gives_up_before_their_turn_has_none() -> None:
    slots = Slots(ManualClock(), 1, 1_000)
    leave = [Deferred.fromCoroutine(slots.take()) for _ in range(3)]
    leave[1].addErrback(drop_cancelled)
    leave[1].cancel()
    assert not leave[2].called
    leave[0].result()  # type: ignore[operator]  # what it came to
    assert leave[2].called


def test_what_runs_is_cancelled_with_whoever_waits() -> None:
    jobs = Jobs()
    running = Deferred.fromCoroutine(Slots(ManualClock(), 2, 1_000).gather(jobs.starts(3)))
    running.addErrback(drop_cancelled)
    running.cancel()
    assert running.result is None
    assert len(jobs.begun) == 2 and all(job.called for job in jobs.begun.values())


def test_one_begins_in_each_turn_of_the_event_loop() -> None:
    async def gather() -> list[int]:
        turns = 0

        async def count() -> None:
            nonlocal turns
            while turns < 1_000:
                await next_turn()
                turns += 1

        async def note() -> int:
            return turns

        counting = Deferred.fromCoroutine(count())
        begun = await Slots(SystemClock(get_reactor()), 50, 1_000).gather([note] * 20)
        await counting
        return begun

    begun = run_in_reactor(gather)
    assert len(set(begun)) == 20
