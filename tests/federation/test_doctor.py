"""The doctor: each fault that a server can have is named in words."""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from typing import Any

import pytest

from federation.discovery import Discovery, LookupFailed, SrvRecord
from federation.doctor import Doctor, Finding, Level, OwnServer, is_well
from homeserver.matrix.signing import SigningKey, sign_json
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.http_client import HttpClient, HttpPolicy
from homeserver.runtime.outbound_addresses import AddressPolicy, parse_networks
from tests.kit.certificates import TestCa
from tests.kit.federation import Answer, Received, ScriptedPeer
from tests.kit.reactor import get_reactor, run_in_reactor

VERSION = "/_matrix/federation/v1/version"
KEYS = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
WELL_KNOWN = "/.well-known/matrix/server"
HOUR_MS = 3600 * 1000


class Surgery:
    """A doctor with names and SRV records of its own."""

    def __init__(self, ca: TestCa, well_known_port: int, policy: AddressPolicy | None = None) -> None:
        self.addresses: dict[str, list[str]] = {"localhost": ["127.0.0.1"]}
        self.records: dict[str, Any] = {}
        self._permitted = policy or AddressPolicy(allow_private=True)
        self._port = well_known_port
        self._ca = ca

    def examine(self, server: str, own: OwnServer | None = None) -> list[Finding]:
        findings: list[Finding] = run_in_reactor(lambda: self._examine(server, own))
        assert findings
        return findings

    async def _examine(self, server: str, own: OwnServer | None) -> list[Finding]:
        reactor, ends_ms = get_reactor(), dict[str, int]()
        clock = SystemClock(reactor)
        policy = HttpPolicy(ca_file=self._ca.file, addresses=AddressPolicy(allow_private=True))
        http = HttpClient(reactor, clock, policy, "Doctor", self._resolve, ends_ms.__setitem__)
        discovery = Discovery(http, self._look_up_srv, clock, self._port)
        doctor = Doctor(http, discovery, self._look_up_srv, self._resolve, self._permitted, clock, ends_ms)
        try:
            return await (doctor.examine(server) if own is None else doctor.examine_own(own))
        finally:
            await http.stop()

    async def _resolve(self, host: str) -> Sequence[str]:
        if host not in self.addresses:
            raise OSError("no such host")
        return self.addresses[host]

    async def _look_up_srv(self, name: str) -> Sequence[SrvRecord]:
        records = self.records.get(name, [])
        if isinstance(records, Exception):
            raise records
        found: Sequence[SrvRecord] = records
        return found


@pytest.fixture
def surgery(test_ca: TestCa) -> Surgery:
    return Surgery(test_ca, 9)


@pytest.fixture
def peer(start_peer: Any) -> ScriptedPeer:
    """A server with nothing wrong."""
    return well(start_peer())


def well(peer: ScriptedPeer) -> ScriptedPeer:
    peer.answer("GET", VERSION, {"server": {"name": "Scripted", "version": "1.2"}})
    return peer


def at(level: Level, findings: list[Finding], topic: str) -> str:
    """What is said at that level about the topic."""
    return "\n".join(each.text for each in findings if each.level is level and each.topic == topic)


def assert_wrong(findings: list[Finding], topic: str, *words: str) -> None:
    assert not is_well(findings)
    for word in words:
        assert word in at(Level.WRONG, findings, topic), findings


def test_nothing_is_wrong(surgery: Surgery, start_peer: Any, test_ca: TestCa) -> None:
    peer = well(start_peer(certificate=test_ca.issue("localhost", expires_in_days=25)))
    findings = surgery.examine(peer.server_name)
    assert is_well(findings)
    assert {each.level for each in findings} == {Level.OK}
    assert at(Level.OK, findings, "version").endswith("runs Scripted 1.2")
    assert "ed25519:peer" in at(Level.OK, findings, "keys")
    assert "good for 24 days" in at(Level.OK, findings, "TLS")
    assert "same time" in at(Level.OK, findings, "clock")


def test_hearth_is_well(surgery: Surgery, start_federated: Any) -> None:
    findings = surgery.examine(start_federated().server_name)
    assert is_well(findings), findings
    assert "runs Hearth" in at(Level.OK, findings, "version")


@pytest.mark.parametrize("name", ["", "a b", "https://example.org", "@alice:example.org", "example.org:99999"])
def test_what_is_no_name(surgery: Surgery, name: str) -> None:
    assert_wrong(surgery.examine(name), "name", "not a server name")


# -- delegation ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(start_peer: Any, test_ca: TestCa) -> ScriptedPeer:
    """The web server of example.test; the homeserver is another."""
    made: ScriptedPeer = start_peer(certificate=test_ca.issue("example.test"))
    return made


@pytest.fixture
def town(test_ca: TestCa, web: ScriptedPeer) -> Surgery:
    made = Surgery(test_ca, web.port)
    made.addresses |= {"example.test": ["127.0.0.1"], "matrix.test": ["127.0.0.1"]}
    return made


def as_example(peer: ScriptedPeer) -> ScriptedPeer:
    """A homeserver that is called example.test."""
    document = {**peer.key_document(server_name="example.test"), "signatures": {}}
    peer.answer("GET", KEYS, sign_json(document, "example.test", peer.key))
    return well(peer)


def test_well_known_and_certificate_of_the_delegated_name(
    town: Surgery, web: Any, start_peer: Any, test_ca: Any
) -> None:
    homeserver = as_example(start_peer(certificate=test_ca.issue("matrix.test")))
    web.answer("GET", WELL_KNOWN, {"m.server": f"matrix.test:{homeserver.port}"})
    findings = town.examine("example.test")
    assert is_well(findings), findings
    assert f"names matrix.test:{homeserver.port}" in at(Level.OK, findings, "delegation")


def test_certificate_of_the_server_s_name_where_the_delegated_one_is_needed(
    town: Surgery, web: Any, start_peer: Any, test_ca: Any
) -> None:
    homeserver = start_peer(certificate=test_ca.issue("example.test"))
    web.answer("GET", WELL_KNOWN, {"m.server": f"matrix.test:{homeserver.port}"})
    assert_wrong(town.examine("example.test"), "TLS", "another name", "must be for matrix.test")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(b"<html>"), "not JSON"),
        ({"m.homeserver": {}}, "no m.server"),
        ({"m.server": "https://matrix.test"}, "m.server is"),
        (Answer({}, 500), "answers 500"),
        (Answer({}, 301, {"Location": "http://example.test/x"}), "something other than https"),
        (Answer({}, 302, {"Location": "/.well-known/matrix/server"}), "more than 5 redirects"),
    ],
)
def test_well_known_that_can_t_be_used(town: Surgery, web: Any, answer: Any, words: str) -> None:
    web.answer("GET", WELL_KNOWN, answer)
    assert_wrong(town.examine("example.test"), "delegation", "can't be used", words)


def test_certificate_of_the_web_server_is_wrong(town: Surgery, web: Any) -> None:
    town.addresses["other.test"] = ["127.0.0.1"]
    assert_wrong(town.examine("other.test"), "delegation", "another name than other.test")


def test_no_well_known_is_no_fault_but_nobody_at_8448_is(town: Surgery) -> None:
    town.addresses["example.test"] = ["127.0.0.99"]
    findings = town.examine("example.test")
    assert "there is no https://example.test/.well-known" in at(Level.NOTE, findings, "delegation")
    assert "try port 8448" in at(Level.NOTE, findings, "DNS")
    assert_wrong(findings, "connection", "port 8448 can't be connected to", "firewall")


def test_srv_records(town: Surgery, start_peer: Any, test_ca: Any) -> None:
    homeserver = as_example(start_peer(certificate=test_ca.issue("example.test")))
    record = SrvRecord(1, 1, homeserver.port, "matrix.test")
    town.records["_matrix._tcp.example.test"] = [record]
    findings = town.examine("example.test")
    assert is_well(findings), findings
    assert "deprecated" in at(Level.WARNING, findings, "DNS")
    town.records["_matrix-fed._tcp.example.test"] = [record]
    assert f"leads to matrix.test port {homeserver.port}" in at(Level.OK, town.examine("example.test"), "DNS")


def test_srv_record_that_leads_nowhere(town: Surgery) -> None:
    town.records["_matrix-fed._tcp.example.test"] = [SrvRecord(1, 1, 99, "gone.test")]
    assert_wrong(town.examine("example.test"), "DNS", "gone.test has no address")


def test_name_servers_that_fail(town: Surgery) -> None:
    town.records["_matrix-fed._tcp.example.test"] = LookupFailed("no answer for _matrix-fed._tcp.example.test")
    assert "no answer for" in at(Level.WARNING, town.examine("example.test"), "DNS")


def test_name_without_address(surgery: Surgery) -> None:
    assert_wrong(surgery.examine("nobody.test:8448"), "DNS", "nobody.test has no address", "A or AAAA")


def test_address_that_this_server_does_not_call(test_ca: Any, peer: ScriptedPeer) -> None:
    findings = Surgery(test_ca, 9, AddressPolicy()).examine(peer.server_name)
    assert_wrong(findings, "address", "localhost is at 127.0.0.1", "private")
    assert "runs Scripted" in at(Level.OK, findings, "version")  # looked at nevertheless


def test_one_of_several_addresses_is_private(test_ca: Any, peer: ScriptedPeer) -> None:
    surgery = Surgery(test_ca, 9, AddressPolicy(allowed=parse_networks(["127.0.0.1"], "")))
    surgery.addresses["localhost"] = ["127.0.0.1", "10.0.0.1"]
    findings = surgery.examine(peer.server_name)
    assert is_well(findings)
    assert "10.0.0.1" in at(Level.WARNING, findings, "address")


# -- TLS and HTTP --------------------------------------------------------------------------------------------------------


def test_nobody_listens(surgery: Surgery, peer: ScriptedPeer) -> None:
    peer.stop()
    assert_wrong(surgery.examine(peer.server_name), "connection", "can't be connected to", "firewall")


def test_certificate_faults(surgery: Surgery, start_peer: Any, test_ca: Any, tmp_path: Any) -> None:
    for certificate, words in (
        (test_ca.issue("other.test"), "another name than localhost"),
        (test_ca.issue("localhost", expires_in_days=-1), "expired"),
        (TestCa(tmp_path, "Stranger").issue("localhost"), "authority"),
    ):
        findings = surgery.examine(start_peer(certificate=certificate).server_name)
        assert_wrong(findings, "TLS", words, "whole chain")


def test_certificate_that_ends_soon(surgery: Surgery, start_peer: Any, test_ca: Any) -> None:
    peer = well(start_peer(certificate=test_ca.issue("localhost", expires_in_days=3)))
    findings = surgery.examine(peer.server_name)
    assert is_well(findings)
    assert "good for 2 days" in at(Level.WARNING, findings, "TLS")


def test_no_https(surgery: Surgery, start_peer: Any) -> None:
    peer = start_peer()
    peer.answer_raw("GET", "/", lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n"))
    assert_wrong(surgery.examine(peer.server_name), "connection", "HTTPS")


@pytest.mark.parametrize(
    "answer", [Answer(b"<html>", 404, {"Content-Type": "text/html"}), {"hello": 1}, Answer([], 502)]
)
def test_proxy_that_does_not_pass_requests_on(surgery: Surgery, peer: ScriptedPeer, answer: Any) -> None:
    peer.answer("GET", "/_matrix", answer)
    findings = surgery.examine(peer.server_name)
    assert_wrong(findings, "connection", VERSION, "reverse proxy")


# -- clock and keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off_s", "level", "words"),
    [
        (5, Level.OK, "same time"),
        (60, Level.WARNING, "seconds ahead of"),
        (-90, Level.WARNING, "seconds behind"),
        (7200, Level.WRONG, "minutes ahead of"),
        (-86400 * 3, Level.WRONG, "behind"),
    ],
)
def test_clock(surgery: Surgery, peer: ScriptedPeer, off_s: int, level: Level, words: str) -> None:
    document = {"server": {"name": "Scripted", "version": "1"}}

    def answer(_: Received) -> Answer:
        return Answer(document, 200, {"Date": formatdate(time.time() + off_s, usegmt=True)})

    peer.answer("GET", VERSION, answer)
    assert words in at(level, surgery.examine(peer.server_name), "clock")


def test_date_that_is_none(surgery: Surgery, peer: ScriptedPeer) -> None:
    peer.answer("GET", VERSION, Answer({"server": {"name": "x"}}, 200, {"Date": "yesterday"}))
    assert "does not say" in at(Level.NOTE, surgery.examine(peer.server_name), "clock")


def test_other_name_in_the_keys(surgery: Surgery, peer: ScriptedPeer) -> None:
    document = {**peer.key_document(server_name="other.test"), "signatures": {}}
    peer.answer("GET", KEYS, sign_json(document, "other.test", peer.key))
    assert_wrong(surgery.examine(peer.server_name), "keys", "is called other.test, not localhost", "server_name")


def test_keys_with_a_wrong_signature(surgery: Surgery, peer: ScriptedPeer) -> None:
    peer.answer("GET", KEYS, {**peer.key_document(), "more": 1})
    assert_wrong(surgery.examine(peer.server_name), "keys", "Wrong signature")


def test_keys_are_missing(surgery: Surgery, peer: ScriptedPeer) -> None:
    peer.answer("GET", KEYS, Answer(b"no", 404, {"Content-Type": "text/plain"}))
    assert_wrong(surgery.examine(peer.server_name), "keys", "404 (text/plain)", "reverse proxy")


def test_keys_that_have_ended(surgery: Surgery, peer: ScriptedPeer) -> None:
    peer.valid_for_ms = -3 * HOUR_MS
    assert_wrong(surgery.examine(peer.server_name), "keys", "ended", "3 hours ago", "clock")
    peer.valid_for_ms = HOUR_MS // 2
    findings = surgery.examine(peer.server_name)
    assert "ed25519:peer" in at(Level.WARNING, findings, "keys")


def test_places_with_different_keys(town: Surgery, start_peer: Any, test_ca: Any) -> None:
    one = as_example(start_peer(certificate=test_ca.issue("example.test")))
    two = start_peer(certificate=test_ca.issue("example.test"), key=SigningKey("two", b"2" * 32))
    records = [SrvRecord(1, 1, each.port, "matrix.test") for each in (one, as_example(two))]
    town.records["_matrix-fed._tcp.example.test"] = records
    assert_wrong(town.examine("example.test"), "keys", "don't give the same keys")


# -- this server ---------------------------------------------------------------------------------------------------------


def own(peer: ScriptedPeer, *notaries: ScriptedPeer, **changes: Any) -> OwnServer:
    values = {"federates": True, "has_federation_listener": True, "key_ids": ("ed25519:peer",), **changes}
    return OwnServer(peer.server_name, notaries=tuple(each.server_name for each in notaries), **values)


def test_own_server_seen_from_outside(surgery: Surgery, peer: ScriptedPeer, start_peer: Any) -> None:
    notary = start_peer()
    peer.valid_for_ms = 24 * HOUR_MS
    notary.answer("GET", QUERY, {"server_keys": [peer.key_document()]})
    findings = surgery.examine("", own(peer, notary))
    assert is_well(findings), findings
    assert "reaches this server" in at(Level.OK, findings, "from outside")
    assert notary.requests[-1].path == f"{QUERY}/{peer.server_name}"
    notary.answer("GET", QUERY, {"server_keys": [peer.key_document(valid_until_ts=int(time.time() * 1000) + HOUR_MS)]})
    assert_wrong(surgery.examine("", own(peer, notary)), "from outside", "old keys", "does not reach it now")
    for answer in ({"server_keys": []}, {}, [], Answer(b"x", 404)):
        notary.answer("GET", QUERY, answer)
        assert_wrong(surgery.examine("", own(peer, notary)), "from outside", "does not reach this server")
    notary.stop()
    findings = surgery.examine("", own(peer, notary))
    assert is_well(findings)
    assert "can't be asked" in at(Level.NOTE, findings, "from outside")


def test_wrong_clock_of_this_machine_shows_at_the_notary(surgery: Surgery, peer: ScriptedPeer, start_peer: Any) -> None:
    notary = start_peer()
    notary.answer("GET", QUERY, Answer({}, 200, {"Date": formatdate(time.time() - 3600, usegmt=True)}))
    assert_wrong(surgery.examine("", own(peer, notary)), "clock", str(notary.server_name), "one is wrong")


def test_configuration_that_keeps_others_out(surgery: Surgery, peer: ScriptedPeer) -> None:
    findings = surgery.examine("", own(peer, federates=False, has_federation_listener=False))
    assert_wrong(findings, "configuration", "enabled = false", '"federation"')
    assert "only servers on this machine" in at(Level.WARNING, findings, "configuration")


def test_running_server_signs_with_another_key_than_the_file_s(surgery: Surgery, peer: ScriptedPeer) -> None:
    findings = surgery.examine("", own(peer, key_ids=("ed25519:new", "ed25519:peer")))
    assert_wrong(findings, "keys", "ed25519:new", "restart")
