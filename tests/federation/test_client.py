"""Requests to other servers, over real TLS; and what slow, wrong and hostile ones can do."""

from __future__ import annotations

import socket
import threading
from contextlib import ExitStack
from typing import Any

import pytest

from federation.client import MAX_IN_FLIGHT, MAX_WAITING, V1, quote_path
from federation.destinations import Destinations
from federation.errors import BackingOff, NotAllowed, RemoteRefused, RemoteUnreachable
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.config import ConfigError
from homeserver.runtime.coroutine import gather
from tests.kit.certificates import TestCa
from tests.kit.federation import Answer, FederatedServer
from tests.kit.reactor import run_in_reactor


def get(server: FederatedServer, peer: Any, path: str = V1 + "/thing", **about: Any) -> Any:
    client = server.federation.client
    return run_in_reactor(lambda: client.get(peer.server_name, path, **about))


def test_answer_is_decoded_and_the_request_is_signed(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1 + "/event/", {"pdus": []})
    path = quote_path(V1 + "/event", "$a/b c")
    assert get(hearth, peer, path, query={"x": ["1", "2"]}) == {"pdus": []}
    received = peer.requests[-1]
    assert (received.path, received.query) == (V1 + "/event/%24a%2Fb%20c", "x=1&x=2")
    assert received.headers["authorization"].startswith(f'X-Matrix origin="{hearth.server_name}",destination=')
    assert received.headers["host"] == peer.server_name


def test_error_of_the_peer_is_told_with_its_errcode(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, {"errcode": "M_FORBIDDEN", "error": "no"}, status=403)
    with pytest.raises(RemoteRefused) as caught:
        get(hearth, peer)
    assert (caught.value.status, caught.value.errcode, caught.value.error) == (403, "M_FORBIDDEN", "no")


def test_two_hearths_know_each_other_by_their_keys(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    client, ring = one.federation.client, one.federation.ring
    version = run_in_reactor(lambda: client.get(two.server_name, V1 + "/version"))
    assert version["server"]["name"] == "Hearth"
    document = two.ask("GET", "/_matrix/key/v2/server").json()
    run_in_reactor(lambda: ring.check_json(two.server_name, document, valid_at_ms=None))


def ask(server: FederatedServer, peer: Any, method: str = "get", *args: Any, **about: Any) -> RemoteUnreachable:
    """The error of a request that can't succeed."""
    call = getattr(server.federation.client, method)
    with pytest.raises(RemoteUnreachable) as caught:
        run_in_reactor(lambda: call(peer.server_name, V1 + "/thing", *args, **about))
    return caught.value


# -- peers that misbehave ------------------------------------------------------------------------------------------------


def test_peer_that_never_answers_is_given_up(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, Answer({}, delay_s=600))
    error = ask(hearth, peer, timeout_ms=400, patient=True)
    assert error.status == 504
    assert "400 ms" in error.error


@pytest.mark.parametrize("is_taken", [True, False], ids=["silent", "packets swallowed"])
def test_peer_that_does_not_even_begin_is_given_up(start_federated: Any, is_taken: bool) -> None:
    """Nobody speaks TLS there, or not even the connection is taken."""
    hearth = start_federated()
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listening.getsockname()
        if not is_taken:
            for _ in range(3):
                full = sockets.enter_context(socket.socket())
                full.setblocking(False)
                full.connect_ex(address)
        silent = ServerName(f"localhost:{address[1]}")
        with pytest.raises(RemoteUnreachable) as caught:
            run_in_reactor(lambda: hearth.federation.client.post(silent, V1 + "/thing", {}, timeout_ms=400))
    assert caught.value.status == 504
    assert "400 ms" in caught.value.error
    assert "<" not in caught.value.error and "Error" not in caught.value.error


def test_peer_that_sends_a_byte_now_and_then_is_given_up(start_federated: Any, start_peer: Any) -> None:
    def write(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not peer.stopping.wait(0.02):
            handler.wfile.write(b" ")

    hearth, peer = start_federated(), start_peer()
    peer.answer_raw("GET", V1, write)
    assert ask(hearth, peer, timeout_ms=500).status == 504


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@pytest.mark.parametrize(
    ("head", "chunk"),
    [
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (HEAD + b"\r\n", b" " * 65536),
        (HEAD + b"Content-Length: 10737418240\r\n\r\n", b" " * 65536),
        (HEAD, b"X-More: " + b"x" * 8000 + b"\r\n"),
        (b"HTTP/1.1 ", b"x" * 65536),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    ],
    ids=["chunked", "until closed", "10 GB announced", "headers", "status line", "continue"],
)
def test_endless_answer_is_cut(start_federated: Any, start_peer: Any, head: bytes, chunk: bytes) -> None:
    """The peer's writes fail long before 10 GB, since the connection is gone."""
    written = []
    broken = threading.Event()

    def write(handler: Any) -> None:
        try:
            handler.wfile.write(head)
            for _ in range(10 * 1024 * 1024 * 1024 // len(chunk)):
                handler.wfile.write(chunk)
                written.append(len(chunk))
        finally:
            broken.set()

    hearth, peer = start_federated(), start_peer()
    peer.answer_raw("GET", V1, write)
    ask(hearth, peer, timeout_ms=2_000, max_bytes=200_000)
    assert broken.wait(120)
    assert len(peer.requests) <= 2
    if b"Continue" not in chunk:  # those are thrown away as they come, until the time is over
        assert sum(written) < 40_000_000


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(b"<html>hello</html>"), "not JSON"),
        (Answer(b""), "not JSON"),
        (Answer(b"\xff\xfe"), "not JSON"),
        (Answer(b"[" * 100_000), "not JSON"),
        (Answer(b'{"a":NaN}'), "not JSON"),
        (Answer(b"\x1f\x8b\x08" + b"x" * 100, 200, {"Content-Encoding": "gzip"}), "not JSON"),
        (Answer({}, 302, {"Location": "https://127.0.0.1/"}), "302"),
        (Answer(b"Bad Gateway", 502), "502"),
        (Answer(b"", 200, {"Content-Length": "-5"}), ""),
        (Answer(b"", 200, {"Transfer-Encoding": "nonsense"}), ""),
    ],
)
def test_wrong_content_is_an_error_that_says_so(
    start_federated: Any, start_peer: Any, answer: Answer, says: str
) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, answer)
    error = ask(hearth, peer, timeout_ms=60_000 if says else 1_500)
    assert says in error.error
    assert error.status in (502, 504)


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 100, b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"]
)
def test_peer_that_breaks_off_or_speaks_no_http(start_federated: Any, start_peer: Any, raw: bytes) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer_raw("GET", V1, lambda handler: handler.wfile.write(raw))
    assert ask(hearth, peer).status == 502


def test_error_that_is_not_of_matrix_is_told(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, Answer(b"<html>", 404))
    with pytest.raises(RemoteRefused) as caught:
        get(hearth, peer)
    assert (caught.value.status, caught.value.errcode) == (404, "M_UNKNOWN")


@pytest.mark.parametrize("body", [{"errcode": 5, "error": []}, {"errcode": "M_X" * 1000, "error": "x" * 100_000}, [1]])
def test_hostile_error_is_cut_to_size(start_federated: Any, start_peer: Any, body: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, body, status=400)
    with pytest.raises(RemoteRefused) as caught:
        get(hearth, peer)
    assert len(caught.value.errcode) <= 255
    assert len(caught.value.error) <= 1000


# -- certificates and addresses ------------------------------------------------------------------------------------------


def test_certificate_for_another_name_is_refused(start_federated: Any, start_peer: Any, test_ca: TestCa) -> None:
    hearth, peer = start_federated(), start_peer(certificate=test_ca.issue("other.test"))
    assert "another name" in ask(hearth, peer).error
    assert peer.requests == []


def test_expired_certificate_is_refused(start_federated: Any, start_peer: Any, test_ca: TestCa) -> None:
    hearth = start_federated()
    peer = start_peer(certificate=test_ca.issue("localhost", expires_in_days=-1))
    assert "expired" in ask(hearth, peer).error
    assert peer.requests == []


def test_certificate_of_an_unknown_authority_is_refused(start_federated: Any, start_peer: Any, tmp_path: Any) -> None:
    hearth = start_federated()
    peer = start_peer(certificate=TestCa(tmp_path, "Stranger").issue("localhost"))
    assert "authority" in ask(hearth, peer).error
    assert peer.requests == []


def test_certificates_need_not_be_checked(start_federated: Any, start_peer: Any, test_ca: TestCa) -> None:
    hearth = start_federated("lax", {"federation": {"verify_certificates": False}})
    peer = start_peer(certificate=test_ca.issue("other.test", expires_in_days=-1))
    peer.answer("GET", V1, {"yes": 1})
    assert get(hearth, peer) == {"yes": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"allow_private_addresses": False},
        {"denied_networks": ["127.0.0.0/8", "::1"]},
        {"allowed_networks": ["127.0.0.1"], "denied_networks": ["127.0.0.1", "::1"]},
    ],
)
def test_private_and_denied_addresses_are_not_called(start_federated: Any, start_peer: Any, settings: Any) -> None:
    hearth, peer = start_federated(settings={"federation": settings}), start_peer()
    assert "may not be connected to" in ask(hearth, peer).error
    for literal in (f"127.0.0.1:{peer.port}", f"[::ffff:127.0.0.1]:{peer.port}", f"[::ffff:7f00:1]:{peer.port}"):
        with pytest.raises(RemoteUnreachable, match="may not be connected to"):
            run_in_reactor(lambda name=literal: hearth.federation.client.get(ServerName(name), V1))
    assert peer.requests == []


def test_private_network_can_be_allowed(start_federated: Any, start_peer: Any) -> None:
    settings = {"allow_private_addresses": False, "allowed_networks": ["127.0.0.1"]}
    hearth, peer = start_federated(settings={"federation": settings}), start_peer()
    peer.answer("GET", V1, {"yes": 1})
    assert get(hearth, peer) == {"yes": 1}


def test_redirect_is_not_followed(start_federated: Any, start_peer: Any) -> None:
    hearth, peer, victim = start_federated(), start_peer(), start_peer()
    peer.answer("GET", V1, Answer({}, 307, {"Location": f"https://{victim.server_name}/"}))
    ask(hearth, peer)
    assert victim.requests == []


def test_lists_of_the_configuration_are_kept(start_federated: Any, start_peer: Any) -> None:
    peer, other = start_peer(), start_peer()
    denying = start_federated("denying", {"federation": {"domain_denylist": [str(peer.server_name)]}})
    listing = start_federated("listing", {"federation": {"domain_allowlist": [str(other.server_name)]}})
    for server in (denying, listing):
        error = ask(server, peer)
        assert isinstance(error, NotAllowed)
        assert (error.status, error.errcode) == (403, "M_FORBIDDEN")
    assert peer.requests == []


def test_server_does_not_call_itself(start_federated: Any) -> None:
    hearth = start_federated()
    assert "itself" in ask(hearth, hearth).error


# -- backing off ---------------------------------------------------------------------------------------------------------


def test_failing_peer_is_left_alone_over_restarts(
    start_federated: Any, start_peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.destinations.FIRST_INTERVAL_MS", 3_600_000)
    hearth, peer = start_federated(), start_peer()
    peer.stop()
    assert not isinstance(ask(hearth, peer), BackingOff)
    assert isinstance(ask(hearth, peer), BackingOff)
    hearth.restart()
    peer.start()
    error = ask(hearth, peer)
    assert isinstance(error, BackingOff)
    assert error.status == 503
    assert peer.requests == []


def test_patient_request_tries_nevertheless_and_ends_the_wait(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.stop()
    ask(hearth, peer)
    peer.start()
    peer.answer("GET", V1, {"yes": 1})
    assert get(hearth, peer, patient=True) == {"yes": 1}
    hearth.restart()
    assert get(hearth, peer) == {"yes": 1}


def test_peer_that_calls_is_there(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.stop()
    ask(hearth, peer)
    told: list[str] = []
    hearth.federation.destinations.on_alive(told.append)
    peer.start()
    run_in_reactor(lambda: hearth.federation.destinations.note_alive(peer.server_name))
    assert told == [peer.server_name]
    peer.answer("GET", V1, {"yes": 1})
    assert get(hearth, peer) == {"yes": 1}


def test_waits_double_up_to_their_maximum(start_federated: Any) -> None:
    clock = ManualClock()
    destinations: Any = None

    async def fail_often(database: Any) -> list[int]:
        nonlocal destinations
        destinations = Destinations(database, clock)
        intervals = []
        for _ in range(20):
            destinations.note_failure(ServerName("a.test"), "x")
            destinations.note_failure(ServerName("a.test"), "at the same time")
            intervals.append(destinations.get(ServerName("a.test")).interval_ms)
            clock.advance(intervals[-1] * 2)
        await destinations.stop()
        return intervals

    hearth = start_federated()
    intervals = run_in_reactor(lambda: fail_often(hearth.running.services.core.database))
    assert intervals[:4] == [5_000, 10_000, 20_000, 40_000]
    assert intervals[-1] == 12 * 3600 * 1000


# -- connections ---------------------------------------------------------------------------------------------------------


def test_connection_that_the_peer_closed_costs_no_request(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    client = hearth.federation.client
    for number in range(3):
        peer.answer("PUT", V1, {"number": number})
        answer = run_in_reactor(lambda: client.put(peer.server_name, V1 + "/x", {"a": 1}))
        assert answer == {"number": number}
        peer.stop()
        peer.start()
    assert [each.json for each in peer.requests] == [{"a": 1}] * 3


def test_one_peer_gets_so_many_requests_at_once_and_no_more(start_federated: Any, start_peer: Any) -> None:
    at_once, most = 0, 0
    lock = threading.Lock()

    def reply(_received: Any) -> Any:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        peer.stopping.wait(0.05)
        with lock:
            at_once -= 1
        return {}

    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, reply)
    client = hearth.federation.client
    run_in_reactor(lambda: gather(client.get(peer.server_name, V1 + "/x") for _ in range(40)))
    assert len(peer.requests) == 40
    assert 2 <= most <= MAX_IN_FLIGHT


def test_too_many_waiting_are_refused(start_federated: Any, start_peer: Any) -> None:
    async def outcome(number: int) -> str:
        try:
            await hearth.federation.client.get(peer.server_name, f"{V1}/{number}", timeout_ms=1_000, patient=True)
        except RemoteUnreachable as error:
            return error.why
        return ""

    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, Answer({}, delay_s=600))
    whys = run_in_reactor(lambda: gather(outcome(number) for number in range(MAX_IN_FLIGHT + MAX_WAITING + 5)))
    assert whys.count("too many requests wait for it") == 5
    assert whys.count("its turn did not come within 1000 ms") >= MAX_WAITING - MAX_IN_FLIGHT
    assert hearth.federation.client._slots == {}


# -- through a proxy -----------------------------------------------------------------------------------------------------


class ConnectProxy:
    """An HTTP proxy that knows CONNECT, or that answers something else."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.heads: list[bytes] = []
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            part = connection.recv(4096)
            if not part:
                connection.close()
                return
            head += part
        self.heads.append(head)
        connection.sendall(self._answer)
        if b" 200 " not in self._answer:
            connection.close()
            return
        host, _, port = head.split(b" ")[1].decode().rpartition(":")
        try:
            far = socket.create_connection((host, int(port)))
        except (OSError, UnicodeError):
            connection.close()
            return
        threading.Thread(target=_pump, args=(far, connection), daemon=True).start()
        _pump(connection, far)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.fixture
def start_proxy() -> Any:
    proxies: list[ConnectProxy] = []

    def start(*args: Any) -> ConnectProxy:
        proxies.append(ConnectProxy(*args))
        return proxies[-1]

    yield start
    for proxy in proxies:
        proxy.close()


def test_requests_go_through_the_proxy(start_federated: Any, start_peer: Any, start_proxy: Any) -> None:
    proxy, peer = start_proxy(), start_peer()
    url = f"http://me:s%40cret@127.0.0.1:{proxy.port}"
    hearth = start_federated(settings={"federation": {"proxy": url}})
    peer.answer("GET", V1, {"yes": 1})
    assert get(hearth, peer) == {"yes": 1}
    assert proxy.heads[0].startswith(f"CONNECT {peer.server_name} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic bWU6c0BjcmV0\r\n" in proxy.heads[0]


@pytest.mark.parametrize("answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"nonsense\r\n\r\n", b"x" * 20_000, b""])
def test_proxy_that_refuses_is_a_failure(
    start_federated: Any, start_peer: Any, start_proxy: Any, answer: bytes
) -> None:
    proxy, peer = start_proxy(answer), start_peer()
    hearth = start_federated(settings={"federation": {"proxy": f"http://127.0.0.1:{proxy.port}"}})
    assert "the proxy" in ask(hearth, peer).error
    assert peer.requests == []


def test_private_literal_is_refused_before_the_proxy_is_asked(start_federated: Any, start_proxy: Any) -> None:
    proxy = start_proxy()
    settings = {"proxy": f"http://127.0.0.1:{proxy.port}", "allow_private_addresses": False}
    hearth = start_federated(settings={"federation": settings})
    with pytest.raises(RemoteUnreachable, match="may not be connected to"):
        run_in_reactor(lambda: hearth.federation.client.get(ServerName("10.0.0.1:1"), V1))
    assert proxy.heads == []


def test_name_that_no_certificate_can_be_for_is_an_error_too(start_federated: Any, start_proxy: Any) -> None:
    proxy = start_proxy(b"HTTP/1.1 200 OK\r\n\r\n")
    hearth = start_federated(settings={"federation": {"proxy": f"http://127.0.0.1:{proxy.port}"}})
    for name in ("a" * 70 + ".test:1", "-.test:1", "x.:1"):
        with pytest.raises(RemoteUnreachable):
            run_in_reactor(lambda name=name: hearth.federation.client.get(ServerName(name), V1, timeout_ms=1_000))


# -- settings ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"proxy": "ftp://x"}, "proxy"),
        ({"proxy": "http://[::1"}, "proxy"),
        ({"denied_networks": ["nonsense"]}, "denied_networks"),
        ({"custom_ca_file": "/nowhere.pem"}, "custom_ca_file"),
        ({"trusted_key_servers": ["a b"]}, "trusted_key_servers"),
    ],
)
def test_wrong_setting_is_named_at_the_start(start_federated: Any, settings: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        start_federated(settings={"federation": settings})


def test_server_that_does_not_federate_serves_no_federation(start_federated: Any) -> None:
    hearth = start_federated(settings={"federation": {"enabled": False}})
    assert hearth.running.services.federation is None
    assert hearth.ask("GET", "/_matrix/key/v2/server").status_code == 404
