"""From a server name to an address, step by step; and what hostile .well-known documents can do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from federation.discovery import (
    FINDING_AT_ONCE,
    LONGEST_TURN_MS,
    Discovery,
    Found,
    LookupFailed,
    SrvRecord,
    keep_ms,
    order_records,
)
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import ManualClock, SystemClock
from homeserver.runtime.coroutine import next_turn
from homeserver.runtime.http_client import HttpClient, HttpPolicy, Target
from homeserver.runtime.outbound_addresses import AddressPolicy
from tests.kit.certificates import TestCa
from tests.kit.federation import Answer
from tests.kit.reactor import get_reactor, run_in_reactor

PATH = "/.well-known/matrix/server"
HOUR_MS = 3600 * 1000


class Network:
    """Names at addresses, SRV records, and a Discovery that sees them."""

    def __init__(self, ca: TestCa, well_known_port: int, clock: Any = None, **policy: Any) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.records: dict[str, Any] = {}
        self.looked_up: list[str] = []
        self.resolved: list[str] = []
        self.is_silent = False  # no name server answers
        self.clock = clock or SystemClock(get_reactor())
        addresses = AddressPolicy(**{"allow_private": True, **policy})
        made = HttpPolicy(ca_file=ca.file, addresses=addresses)
        self.http: HttpClient = run_in_reactor(
            lambda: HttpClient(get_reactor(), self.clock, made, resolve=self._resolve)
        )
        self.discovery = Discovery(self.http, self._look_up_srv, self.clock, well_known_port)

    def find(self, server: str) -> Found:
        found: Found = run_in_reactor(lambda: self.discovery.find(ServerName(server)))
        return found

    def fault(self, host: str) -> str | None:
        known = run_in_reactor(lambda: self.discovery.load_well_known(host))
        text: str | None = known.fault
        return text

    async def _resolve(self, host: str) -> Sequence[str]:
        self.resolved.append(host)
        if self.is_silent:
            await Deferred()
        if host not in self.addresses:
            raise OSError("no such host")
        return self.addresses[host]

    async def _look_up_srv(self, name: str) -> Sequence[SrvRecord]:
        self.looked_up.append(name)
        records = self.records.get(name, [])
        if isinstance(records, Exception):
            raise records
        found: Sequence[SrvRecord] = records
        return found


@pytest.fixture
def start_network(test_ca: TestCa) -> Any:
    networks: list[Network] = []

    def start(port: int = 9, clock: Any = None, **policy: Any) -> Network:
        networks.append(Network(test_ca, port, clock, **policy))
        return networks[-1]

    yield start
    for network in networks:
        run_in_reactor(network.http.stop)


@pytest.fixture
def well_known(start_peer: Any, test_ca: TestCa) -> Any:
    """The web server of example.test."""
    return start_peer(certificate=test_ca.issue("example.test"))


@pytest.fixture
def network(start_network: Any, well_known: Any) -> Network:
    made: Network = start_network(well_known.port)
    made.addresses["example.test"] = ["127.0.0.1"]
    return made


def targets(found: Found) -> list[tuple[str, int, str, str]]:
    return [(target.host, target.port, target.name, target.host_header) for target in found.targets]


# -- the steps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "step", "target"),
    [
        ("1.2.3.4", "1", ("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:99", "1", ("1.2.3.4", 99, "1.2.3.4", "1.2.3.4:99")),
        ("[2001:db8::1]", "1", ("2001:db8::1", 8448, "2001:db8::1", "[2001:db8::1]")),
        ("[2001:db8::1]:99", "1", ("2001:db8::1", 99, "2001:db8::1", "[2001:db8::1]:99")),
        ("example.test:99", "2", ("example.test", 99, "example.test", "example.test:99")),
    ],
)
def test_address_or_port_needs_no_lookup(start_network: Any, server: str, step: str, target: Any) -> None:
    network = start_network()
    found = network.find(server)
    assert (found.step, targets(found)) == (step, [target])
    assert network.looked_up == []


@pytest.mark.parametrize(
    ("delegated", "step", "target"),
    [
        ("1.2.3.4", "3.1", ("1.2.3.4", 8448, "1.2.3.4", "1.2.3.4")),
        ("1.2.3.4:99", "3.1", ("1.2.3.4", 99, "1.2.3.4", "1.2.3.4:99")),
        ("[2001:db8::1]:99", "3.1", ("2001:db8::1", 99, "2001:db8::1", "[2001:db8::1]:99")),
        ("matrix.example.test:99", "3.2", ("matrix.example.test", 99, "matrix.example.test", "matrix.example.test:99")),
        ("matrix.example.test", "3.5", ("matrix.example.test", 8448, "matrix.example.test", "matrix.example.test")),
    ],
)
def test_well_known_delegates(network: Network, well_known: Any, delegated: str, step: str, target: Any) -> None:
    well_known.answer("GET", PATH, {"m.server": delegated})
    found = network.find("example.test")
    assert (found.step, targets(found)) == (step, [target])


@pytest.mark.parametrize(("service", "step"), [("_matrix-fed._tcp", "3.3"), ("_matrix._tcp", "3.4")])
def test_srv_of_the_delegated_name(network: Network, well_known: Any, service: str, step: str) -> None:
    well_known.answer("GET", PATH, {"m.server": "other.test"})
    network.records[f"{service}.other.test"] = [SrvRecord(1, 1, 99, "host.test")]
    found = network.find("example.test")
    assert (found.step, targets(found)) == (step, [("host.test", 99, "other.test", "other.test")])


@pytest.mark.parametrize(("service", "step"), [("_matrix-fed._tcp", "4"), ("_matrix._tcp", "5")])
def test_srv_without_well_known_keeps_the_name_for_the_certificate(network: Network, service: str, step: str) -> None:
    network.records[f"{service}.example.test"] = [SrvRecord(1, 1, 99, "host.test")]
    found = network.find("example.test")
    assert (found.step, targets(found)) == (step, [("host.test", 99, "example.test", "example.test")])


def test_last_resort_is_port_8448(network: Network) -> None:
    found = network.find("example.test")
    assert (found.step, targets(found)) == ("6", [("example.test", 8448, "example.test", "example.test")])
    assert network.looked_up == ["_matrix-fed._tcp.example.test", "_matrix._tcp.example.test"]


def test_dns_failure_falls_back_to_8448(network: Network) -> None:
    network.records["_matrix-fed._tcp.example.test"] = LookupFailed("no answer")
    network.records["_matrix._tcp.example.test"] = LookupFailed("no answer")
    assert network.find("example.test").step == "6"


def test_srv_record_that_says_there_is_no_service_is_skipped(network: Network) -> None:
    network.records["_matrix-fed._tcp.example.test"] = [SrvRecord(0, 0, 0, "")]
    assert network.find("example.test").step == "6"


def test_srv_records_are_tried_by_priority() -> None:
    records = [SrvRecord(20, 5, 1, "c"), SrvRecord(10, 1, 1, "b"), SrvRecord(10, 60, 1, "a")]
    assert [record.target for record in order_records(records, lambda low, high: 0.5)] == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["", "a b", "example.test:0", "example.test:99999", "[::1", "a/b", "ex..test", "😀"])
def test_what_is_no_server_name_is_refused(start_network: Any, name: str) -> None:
    with pytest.raises(InvalidParam):
        start_network().find(name)


# -- the document --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (Answer({}, 404), "it answers 404"),
        (Answer(b"<html>"), "it is not JSON"),
        (Answer([]), "it has no m.server"),
        (Answer({"m.server": 5}), "it has no m.server"),
        (Answer({"m.server": "a b"}), "its m.server is"),
        (Answer({"m.server": "https://example.org"}), "its m.server is"),
        (Answer(b'{"m.server":"a.test","x":"' + b"y" * 60_000 + b'"}'), "answers with 6"),
        (Answer(b"[" * 49_000), "it is not JSON"),
    ],
)
def test_bad_document_is_as_none(network: Network, well_known: Any, reply: Answer, fault: str) -> None:
    well_known.answer("GET", PATH, reply)
    assert network.find("example.test").step == "6"
    assert fault in str(network.fault("example.test"))


def test_endless_document_is_cut(network: Network, well_known: Any) -> None:
    def write(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while not well_known.stopping.is_set():
            handler.wfile.write(b" " * 65536)

    well_known.answer_raw("GET", PATH, write)
    assert network.find("example.test").step == "6"
    assert "more than" in str(network.fault("example.test"))


def test_redirects_are_followed(network: Network, well_known: Any) -> None:
    well_known.answer("GET", PATH, Answer({}, 302, {"Location": "/there?x=1"}))
    url = f"https://example.test:{well_known.port}/again"
    well_known.answer("GET", "/there", Answer({}, 308, {"Location": url}))
    well_known.answer("GET", "/again", {"m.server": "a.test:1"})
    assert targets(network.find("example.test")) == [("a.test", 1, "a.test", "a.test:1")]


def test_redirection_loop_ends(network: Network, well_known: Any) -> None:
    well_known.answer("GET", PATH, Answer({}, 302, {"Location": PATH}))
    assert network.find("example.test").step == "6"
    assert len(well_known.requests) == 6


@pytest.mark.parametrize("location", ["http://example.test/x", "ftp://example.test/", "", "https://[", "//é"])
def test_redirect_to_something_other_than_https_is_not_followed(
    network: Network, well_known: Any, location: str
) -> None:
    well_known.answer("GET", PATH, Answer({}, 302, {"Location": location.encode("utf-8").decode("latin-1")}))
    assert network.find("example.test").step == "6"
    assert len(well_known.requests) == 1


def test_redirect_to_a_private_address_is_refused(
    start_network: Any, well_known: Any, start_peer: Any, test_ca: TestCa
) -> None:
    """Loopback is allowed here as the place of example.test; 127.0.0.2 plays the private network."""
    victim = start_peer(certificate=test_ca.issue("victim.test", "127.0.0.2"))
    denied = AddressPolicy().denied
    network = start_network(well_known.port, denied=(*denied, *_networks("127.0.0.2")))
    network.addresses.update({"example.test": ["127.0.0.1"], "victim.test": ["127.0.0.2"]})
    for location in (f"https://victim.test:{victim.port}/", f"https://127.0.0.2:{victim.port}/"):
        well_known.answer("GET", PATH, Answer({}, 302, {"Location": location}))
        run_in_reactor(lambda: network.discovery.forget(ServerName("example.test")))
        assert network.find("example.test").step == "6"
        assert "may not be connected to" in str(network.fault("example.test"))
    assert victim.requests == []


def _networks(*texts: str) -> Any:
    from homeserver.runtime.outbound_addresses import parse_networks

    return parse_networks(texts, "test")


def test_document_behind_a_wrong_certificate_is_not_believed(start_network: Any, start_peer: Any, test_ca: Any) -> None:
    impostor = start_peer(certificate=test_ca.issue("impostor.test"))
    impostor.answer("GET", PATH, {"m.server": "impostor.test:1"})
    network = start_network(impostor.port)
    network.addresses["example.test"] = ["127.0.0.1"]
    assert network.find("example.test").step == "6"
    assert "another name" in str(network.fault("example.test"))


# -- keeping -------------------------------------------------------------------------------------------------------------


def test_document_is_kept_as_long_as_it_says(start_network: Any, well_known: Any) -> None:
    clock = ManualClock()
    network = start_network(well_known.port, clock)
    network.addresses["example.test"] = ["127.0.0.1"]
    well_known.answer("GET", PATH, Answer({"m.server": "a.test:1"}, 200, {"Cache-Control": "public, max-age=7200"}))
    for _ in range(2):
        network.find("example.test")
        run_in_reactor(lambda: clock.advance(2 * HOUR_MS - 1000))
    assert len(well_known.requests) == 1
    run_in_reactor(lambda: clock.advance(2000))
    network.find("example.test")
    assert len(well_known.requests) == 2


def test_failures_are_kept_longer_each_time(start_network: Any, well_known: Any) -> None:
    clock = ManualClock()
    network = start_network(well_known.port, clock)
    network.addresses["example.test"] = ["127.0.0.1"]
    waits = []
    for _ in range(9):
        run_in_reactor(lambda: network.discovery.load_well_known("example.test"))
        known = run_in_reactor(lambda: network.discovery.load_well_known("example.test"))
        waits.append(known.keep_until_ms - clock.time_ms())
        run_in_reactor(lambda: clock.advance(HOUR_MS))
    assert len(well_known.requests) == 9
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (60_000, HOUR_MS)


def test_good_document_outlives_an_outage(start_network: Any, well_known: Any) -> None:
    clock = ManualClock()
    network = start_network(well_known.port, clock)
    network.addresses["example.test"] = ["127.0.0.1"]
    well_known.answer("GET", PATH, Answer({"m.server": "a.test:1"}, 200, {"Cache-Control": "max-age=600"}))
    network.find("example.test")
    well_known.answer("GET", PATH, Answer(b"", 500))
    run_in_reactor(lambda: clock.advance(700_000))
    assert network.find("example.test").step == "3.2"
    run_in_reactor(lambda: clock.advance(50 * HOUR_MS))
    assert network.find("example.test").step == "6"


@pytest.mark.parametrize(
    ("headers", "kept_ms"),
    [
        ({}, 24 * HOUR_MS),
        ({"cache-control": "max-age=7200"}, 2 * HOUR_MS),
        ({"cache-control": "max-age=1"}, 300_000),
        ({"cache-control": "no-store"}, 300_000),
        ({"cache-control": "max-age=9999999999"}, 48 * HOUR_MS),
        ({"cache-control": "max-age=99999999999999999999999"}, 48 * HOUR_MS),
        ({"cache-control": "s-max-age=5"}, 24 * HOUR_MS),
        ({"expires": "Thu, 01 Jan 1970 03:00:00 GMT"}, 3 * HOUR_MS),
        ({"expires": "0"}, 300_000),
        ({"expires": "Thu, 01 Jan 9999 03:00:00 GMT"}, 48 * HOUR_MS),
    ],
)
def test_headers_decide_within_bounds(headers: dict[str, str], kept_ms: int) -> None:
    assert keep_ms(headers, 0) == kept_ms


def test_ten_thousand_names_fill_no_memory(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    import federation.discovery as module

    assert module.MAX_KEPT == 10_000
    bounded = network.discovery._well_knowns
    for number in range(module.MAX_KEPT + 50):
        bounded.put(f"{number}.test", json)  # type: ignore[arg-type]  # what is kept does not matter here
    assert len(bounded) == module.MAX_KEPT


def test_many_who_look_for_one_server_ask_once(network: Network, well_known: Any) -> None:
    from homeserver.runtime.coroutine import gather

    well_known.answer("GET", PATH, Answer({"m.server": "a.test:1"}, delay_s=0.2))
    server = ServerName("example.test")
    found = run_in_reactor(lambda: gather(network.discovery.find(server) for _ in range(20)))
    assert {each.step for each in found} == {"3.2"}
    assert len(well_known.requests) == 1


def test_target_of_a_host_shows_its_port_unless_usual() -> None:
    assert Target.at("a.test", 443).host_header == "a.test"
    assert Target.at("::1", 99).host_header == "[::1]:99"


def test_forgetting_looks_everything_up_anew_but_keeps_a_good_document(network: Network, well_known: Any) -> None:
    well_known.answer("GET", PATH, {"m.server": "other.test"})
    network.records["_matrix-fed._tcp.other.test"] = [SrvRecord(1, 1, 99, "host.test")]
    network.find("example.test")
    network.discovery.forget(ServerName("example.test"))
    network.records["_matrix-fed._tcp.other.test"] = [SrvRecord(1, 1, 98, "host.test")]
    well_known.answer("GET", PATH, {}, status=500)
    found = network.find("example.test")
    assert (found.step, targets(found)) == ("3.3", [("host.test", 98, "other.test", "other.test")])
    assert len(well_known.requests) == 2


def drop_cancelled(failure: Any) -> None:
    failure.trap(CancelledError)


def test_so_many_servers_are_looked_for_at_once_and_those_given_up_before_not_at_all(start_network: Any) -> None:
    clock = ManualClock()
    network = start_network(clock=clock)
    network.is_silent = True
    names = [f"s{number}.test" for number in range(3 * FINDING_AT_ONCE)]

    def begin() -> list[Deferred[Any]]:
        finding = [Deferred.fromCoroutine(network.discovery.find(ServerName(name))) for name in names]
        return [each.addErrback(drop_cancelled) for each in finding]

    async def turn() -> None:
        for _ in range(10 * len(names)):
            await next_turn()

    finding = run_in_reactor(begin)
    run_in_reactor(turn)
    assert network.resolved == names[:FINDING_AT_ONCE]
    for each in finding[FINDING_AT_ONCE : 2 * FINDING_AT_ONCE]:
        run_in_reactor(each.cancel)
    run_in_reactor(clock.advance, LONGEST_TURN_MS)
    run_in_reactor(turn)
    assert network.resolved == names[:FINDING_AT_ONCE] + names[2 * FINDING_AT_ONCE :]
    for each in finding:
        run_in_reactor(each.cancel)


def test_server_that_is_known_is_found_while_others_are_looked_for(start_network: Any) -> None:
    clock = ManualClock()
    network = start_network(clock=clock)
    assert network.find("known.test").step == "6"
    network.is_silent = True

    def begin() -> list[Deferred[Any]]:
        names = [ServerName(f"s{number}.test") for number in range(FINDING_AT_ONCE + 1)]
        finding = [Deferred.fromCoroutine(network.discovery.find(name)) for name in names]
        return [each.addErrback(drop_cancelled) for each in finding]

    finding = run_in_reactor(begin)
    assert network.find("known.test").step == "6"
    for each in finding:
        run_in_reactor(each.cancel)
