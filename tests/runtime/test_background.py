"""Work that no request waits for."""

from __future__ import annotations

import logging

import pytest
from twisted.internet.defer import Deferred

from homeserver.runtime.background import Background


class Work:
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.goes_on: Deferred[None] = Deferred()

    async def run(self) -> None:
        self.steps.append("began")
        await self.goes_on
        self.steps.append("ended")


def test_stopping_waits_for_what_runs_and_nothing_more_is_begun() -> None:
    background, works = Background(), [Work() for _ in range(3)]
    for work in works[:2]:
        background.run(work.run(), "failed")
    stopped = Deferred.fromCoroutine(background.stop())
    background.run(works[2].run(), "failed")
    for work in works[:2]:
        assert not stopped.called
        work.goes_on.callback(None)
    assert stopped.called
    assert [work.steps for work in works] == [["began", "ended"], ["began", "ended"], []]


def test_what_has_ended_is_not_waited_for() -> None:
    background, work = Background(), Work()
    background.run(work.run(), "failed")
    work.goes_on.callback(None)
    assert Deferred.fromCoroutine(background.stop()).called


def test_what_fails_is_logged_and_told_to_whoever_wants_to_know(caplog: pytest.LogCaptureFixture) -> None:
    background, works, told = Background(), [Work(), Work()], []
    background.run(works[0].run(), "The first failed")
    background.run(works[1].run(), "The second failed", lambda: told.append("second"))
    stopped = Deferred.fromCoroutine(background.stop())
    for work in works:
        work.goes_on.errback(ValueError("why"))
    assert stopped.called
    assert [record.getMessage() for record in caplog.records] == ["The first failed", "The second failed"]
    assert all(record.levelno == logging.ERROR and "ValueError: why" in caplog.text for record in caplog.records)
    assert told == ["second"]
