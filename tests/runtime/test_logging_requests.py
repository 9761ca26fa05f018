"""Which request a log line belongs to."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from homeserver.runtime.config_sections import LogConfig
from homeserver.runtime.coroutine import gather
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.logging_setup import set_up_logging
from tests.runtime.conftest import TIMEOUT_S, Serve, build_request

logger = logging.getLogger("homeserver.test")


class Path(msgspec.Struct):
    name: str


class Talkative:
    """Its handlers log before they wait, while they do, and after it; the test ends their waiting."""

    def __init__(self) -> None:
        self.waiting: SimpleQueue[Deferred[None]] = SimpleQueue()

    async def _wait(self, name: str) -> None:
        logger.info("%s waits", name)
        deferred: Deferred[None] = Deferred()
        self.waiting.put(deferred)
        await deferred
        logger.info("%s goes on", name)

    @endpoint("GET", "/one/{name}", auth=Auth.NONE)
    async def get_one(self, path: Path) -> JsonObject:
        await self._wait(path.name)
        return {}

    @endpoint("GET", "/two/{name}", auth=Auth.NONE)
    async def get_two(self, path: Path) -> JsonObject:
        await gather([self._wait(path.name), self._wait(path.name)])
        return {}

    @endpoint("GET", "/fail/{name}", auth=Auth.NONE)
    async def get_fail(self, path: Path) -> JsonObject:
        await self._wait(path.name)
        raise RuntimeError(path.name)

    @endpoint("GET", "/fail_at_once/{name}", auth=Auth.NONE)
    def get_fail_at_once(self, path: Path) -> JsonObject:
        raise RuntimeError(path.name)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


def test_each_line_has_the_id_of_its_own_request(
    serve: Serve, in_reactor: Callable[..., Any], stream: io.StringIO
) -> None:
    set_up_logging(LogConfig(format="json"), stream)
    talkative = Talkative()
    server = serve(talkative)
    connections = [server.connect() for _ in range(3)]
    for connection, target in zip(connections, ("/one/anna", "/two/berta", "/fail/carla"), strict=True):
        connection.send(build_request("GET", target))
    for deferred in [talkative.waiting.get(timeout=TIMEOUT_S) for _ in range(4)]:
        in_reactor(deferred.callback, None)
    answers = [connection.answer() for connection in connections]
    in_reactor(lambda: None)  # what was being answered has been logged
    for connection in connections:
        connection.close()

    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    ids = {
        name: {entry["request_id"] for entry in entries if name in str(entry)} for name in ("anna", "berta", "carla")
    }
    assert [len(found) for found in ids.values()] == [1, 1, 1]
    assert len(set.union(*ids.values())) == 3
    assert {answers[2].json["request_id"]} == ids["carla"]
    counts = {name: sum(entry["request_id"] in found for entry in entries) for name, found in ids.items()}
    # Each has its line of the access log; carla's fault has one of its own.
    assert counts == {"anna": 3, "berta": 5, "carla": 4}
    assert sum(counts.values()) == len(entries)


def test_a_request_that_fails_at_once_is_named_for_people(
    serve: Serve, in_reactor: Callable[..., Any], stream: io.StringIO
) -> None:
    set_up_logging(LogConfig(format="human"), stream)
    answer = serve(Talkative()).get("/fail_at_once/anna")
    in_reactor(lambda: None)
    request_id = answer.json["request_id"]
    heads = [line for line in stream.getvalue().splitlines() if re.match(r"\d\d:\d\d:\d\d\.\d+ ", line)]
    assert len(heads) == 2
    assert all(f" {request_id}: " in line for line in heads)
    assert answer.status == 500
