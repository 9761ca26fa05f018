"""Which addresses may be connected to, however they are written; and how names are looked up."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from homeserver.runtime.outbound_addresses import LOOKUPS_AT_ONCE, AddressPolicy, SystemResolver, parse_networks
from tests.kit.reactor import get_reactor, run_in_reactor, wait
from tests.runtime.conftest import TIMEOUT_S


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1::1", "64:ff9b::5db8:d822"])
def test_public_address_is_permitted(text: str) -> None:
    assert AddressPolicy().permits(text)


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("224.0.0.1", "255.255.255.255", "198.18.0.1", "240.0.0.1"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fec0::1", "ff02::1"),
        *(
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:5db8:d822::1",
        ),
        *("", "localhost", "127.1", "2130706433", "0x7f.1", "1.2.3.4.5"),
    ],
)
def test_private_address_is_refused_in_every_form(text: str) -> None:
    assert not AddressPolicy().permits(text)


@pytest.mark.parametrize("text", ["1.2.3.4", "::ffff:1.2.3.4", "::1.2.3.4", "64:ff9b::102:304", "2002:102:304::"])
def test_denied_network_is_refused_in_every_form(text: str) -> None:
    denied = parse_networks(["1.2.3.0/24"], "")
    assert not AddressPolicy(allow_private=True, denied=denied, allowed=denied).permits(text)


def test_allowed_network_is_permitted_though_others_are_not() -> None:
    policy = AddressPolicy(allowed=parse_networks(["10.1.0.0/16", "fec0::/64"], ""))
    permitted = [text for text in ("10.1.2.3", "10.2.0.1", "fec0::1", "fec0:1::1") if policy.permits(text)]
    assert permitted == ["10.1.2.3", "fec0::1"]


# -- looking up ----------------------------------------------------------------------------------------------------------


class NameServer:
    """In the place of the machine's own: it answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answering = threading.Event()
        self._asking = threading.Semaphore(0)

    def getaddrinfo(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        self._asking.release()
        assert self.answering.wait(TIMEOUT_S)
        if host.startswith("unknown"):
            raise socket.gaierror("no such host")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))]

    def wait_until_asked(self, times: int) -> None:
        for _ in range(times):
            assert self._asking.acquire(timeout=TIMEOUT_S)


@pytest.fixture
def name_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr("homeserver.runtime.outbound_addresses.socket.getaddrinfo", server.getaddrinfo)
    yield server
    server.answering.set()


def look_up(resolver: SystemResolver, host: str) -> Deferred[Any]:
    """What comes of it, an error too."""

    def begin() -> list[Deferred[Any]]:
        return [Deferred.fromCoroutine(resolver(host)).addErrback(lambda failure: failure.value)]

    found: list[Deferred[Any]] = run_in_reactor(begin)
    return found[0]


def test_so_many_names_are_looked_up_at_once(name_server: NameServer) -> None:
    resolver = SystemResolver(get_reactor())
    lookups = [look_up(resolver, f"h{number}.example") for number in range(3 * LOOKUPS_AT_ONCE)]
    name_server.wait_until_asked(LOOKUPS_AT_ONCE)
    assert len(name_server.asked) == LOOKUPS_AT_ONCE
    unknown = look_up(resolver, "unknown.example")
    name_server.answering.set()
    assert [wait(lookup) for lookup in lookups] == [["192.0.2.1"]] * len(lookups)
    assert isinstance(wait(unknown), OSError)


def test_name_that_nobody_waits_for_any_more_is_not_looked_up(name_server: NameServer) -> None:
    resolver = SystemResolver(get_reactor())
    under_way = [look_up(resolver, f"h{number}.example") for number in range(LOOKUPS_AT_ONCE)]
    given_up, waiting = look_up(resolver, "given-up.example"), look_up(resolver, "waiting.example")
    for lookup in (under_way[0], given_up):
        run_in_reactor(lookup.cancel)
        assert isinstance(wait(lookup), CancelledError)
    name_server.answering.set()
    assert wait(waiting) == ["192.0.2.1"]
    assert len(name_server.asked) == LOOKUPS_AT_ONCE + 1 and "given-up.example" not in name_server.asked


def test_stopped_resolver_looks_nothing_up(name_server: NameServer) -> None:
    resolver = SystemResolver(get_reactor())
    lookups = [look_up(resolver, f"h{number}.example") for number in range(LOOKUPS_AT_ONCE + 1_000)]
    run_in_reactor(resolver.stop)
    name_server.answering.set()
    for lookup in lookups[LOOKUPS_AT_ONCE:]:
        assert isinstance(wait(lookup), OSError)
    assert len(name_server.asked) == LOOKUPS_AT_ONCE


STUCK = """
import socket, threading
asked = []
def getaddrinfo(host, *_, **__):
    asked.append(host)
    threading.Event().wait()
socket.getaddrinfo = getaddrinfo
from homeserver.main.process import run_alone
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.http_client import HttpClient, HttpFailure, HttpPolicy, Target
from twisted.internet.defer import Deferred

async def act(reactor):
    http = HttpClient(reactor, SystemClock(reactor), HttpPolicy())
    for number in range(100):
        request = http.request("GET", Target.at(f"h{number}.example", 443), "/", timeout_ms=60_000)
        Deferred.fromCoroutine(request).addErrback(lambda _: None)
    while not asked:
        await SystemClock(reactor).sleep(1)
    await http.stop()
    print("stopped", flush=True)

run_alone(act)
"""


def test_process_ends_while_names_are_looked_up_that_no_name_server_answers_for() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", STUCK], cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert (ended.returncode, ended.stdout) == (0, "stopped\n"), ended.stderr
