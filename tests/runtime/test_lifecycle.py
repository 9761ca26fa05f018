"""A process of its own: it serves, stops as it should, and says what is wrong when it can't start."""

from __future__ import annotations

import datetime
import http.client
import re
import select
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.runtime.conftest import TIMEOUT_S

ROOT = Path(__file__).parents[2]

PROGRAM = """
import asyncio, sys
from pathlib import Path
import uvloop
loop = uvloop.new_event_loop()
asyncio.set_event_loop(loop)
from twisted.internet import asyncioreactor
asyncioreactor.install(loop)
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.config import ConfigError, load_config
from homeserver.runtime.config_sections import ALL_SECTIONS
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App
from homeserver.runtime.lifecycle import HealthEndpoint, Lifecycle
from homeserver.runtime.listeners import Listeners
from homeserver.runtime.loop_lag import LoopLag
from homeserver.runtime.metrics import Metrics


class Waiting:
    def __init__(self): self.waiters = []
    @endpoint("GET", "/wait", auth=Auth.NONE)
    async def get_wait(self):
        print("waiting", flush=True)
        deferred = Deferred()
        self.waiters.append(deferred)
        return {"answer": await deferred}
    @endpoint("GET", "/stuck", auth=Auth.NONE)
    async def get_stuck(self):
        print("waiting", flush=True)
        await Deferred()
    def answer_all(self):
        for waiter in self.waiters: waiter.callback("draining")


def start():
    router, waiting = Router(), Waiting()
    listeners = Listeners(App(reactor, router, None), load_config(Path(sys.argv[1]), ALL_SECTIONS))
    lifecycle = Lifecycle(reactor, SystemClock(reactor), listeners, bound_ms=int(sys.argv[2]))
    for endpoints in (waiting, HealthEndpoint(lifecycle.draining), Metrics(router, LoopLag(SystemClock(reactor)))):
        router.add(endpoints)
    lifecycle.draining.subscribe(waiting.answer_all)
    async def first(): print("stopped first", flush=True)
    async def failing(): raise RuntimeError("stop failed")
    async def last(): print("stopped last", flush=True)
    lifecycle.on_stop("last", last)
    lifecycle.on_stop("failing", failing)
    lifecycle.on_stop("first", first)
    lifecycle.on_reload(lambda: print("reloaded", flush=True))
    try:
        listeners.start()
    except ConfigError as error:
        sys.exit(str(error))
    lifecycle.install_signal_handlers()
    print("ports", *listeners.ports, flush=True)

start()
reactor.run(installSignalHandlers=False)
"""


class Process:
    """The program above, running."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.ports: list[int] = []

    def line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        return self._process.wait(TIMEOUT_S)

    def connect(self, index: int = 0) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.ports[index], timeout=TIMEOUT_S)


@contextmanager
def running(tmp_path: Path, listeners: str, bound_ms: int = 15_000) -> Iterator[Process]:
    config = tmp_path / "hearth.toml"
    config.write_text('server_name = "x"\ndata_dir = "."\n' + textwrap.dedent(listeners))
    command = [sys.executable, "-c", PROGRAM, str(config), str(bound_ms)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as popen:
        process = Process(popen)
        try:
            words = process.line().split()
            process.ports = [int(word) for word in words[1:]]
            yield process
        finally:
            popen.kill()


ONE = "[[listeners]]\nport = 0\n"


def test_signal_answers_who_waits_and_exits_cleanly(tmp_path: Path) -> None:
    with running(tmp_path, ONE) as process:
        idle, waiting = process.connect(), process.connect()
        idle.request("GET", "/health")
        assert idle.getresponse().read() == b"ok"
        waiting.request("GET", "/wait")
        assert process.line() == "waiting"
        process.signal(signal.SIGTERM)
        answer = waiting.getresponse()
        assert (answer.read(), answer.headers["Connection"]) == (b'{"answer":"draining"}', "close")
        assert [process.line(), process.line()] == ["stopped first", "stopped last"]
        assert process.wait() == 0
        with pytest.raises(ConnectionRefusedError):
            process.connect().connect()


def test_interrupt_is_as_good_a_signal(tmp_path: Path) -> None:
    with running(tmp_path, ONE) as process:
        process.signal(signal.SIGINT)
        assert process.wait() == 0


def test_request_that_does_not_end_is_dropped_after_the_bound(tmp_path: Path) -> None:
    with running(tmp_path, ONE, bound_ms=200) as process:
        stuck = process.connect()
        stuck.request("GET", "/stuck")
        assert process.line() == "waiting"
        process.signal(signal.SIGTERM)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
            stuck.getresponse()
        assert process.wait() == 0


def test_second_signal_drops_requests_at_once(tmp_path: Path) -> None:
    with running(tmp_path, ONE, bound_ms=60_000) as process:
        stuck = process.connect()
        stuck.request("GET", "/stuck")
        assert process.line() == "waiting"
        process.signal(signal.SIGTERM)
        while not _is_refused(process.connect()):
            pass
        process.signal(signal.SIGTERM)
        assert process.wait() == 0


def _is_refused(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        return False
    connection.close()
    return False


def test_hangup_reloads_and_goes_on_serving(tmp_path: Path) -> None:
    with running(tmp_path, ONE) as process:
        process.signal(signal.SIGHUP)
        assert process.line() == "reloaded"
        connection = process.connect()
        connection.request("GET", "/health")
        assert connection.getresponse().status == 200


def test_metrics_count_requests_by_template(tmp_path: Path) -> None:
    with running(tmp_path, ONE + 'resources = ["metrics", "health"]\n') as process:
        connection = process.connect()
        for path in ("/health", "/health", "/nowhere", "/metrics"):
            connection.request("GET", path)
            text = connection.getresponse().read().decode()
        assert 'hearth_http_requests_total{method="GET",path="/health",status="200"} 2.0' in text
        assert re.search(r'hearth_http_requests_total\{method="\*",path="unmatched",status="404"\} 1\.0', text)
        assert "process_resident_memory_bytes" in text


def test_busy_port_is_one_clear_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = failure(tmp_path, f"[[listeners]]\nport = {port}\n")
    assert f"127.0.0.1 port {port}" in line
    assert "in use" in line


def test_missing_certificate_is_one_clear_line(tmp_path: Path) -> None:
    line = failure(tmp_path, ONE + 'tls_certificate_file = "no.pem"\ntls_private_key_file = "no.key"\n')
    assert "tls_certificate_file" in line
    assert "No such file" in line


def failure(tmp_path: Path, listeners: str) -> str:
    config = tmp_path / "hearth.toml"
    config.write_text('server_name = "x"\ndata_dir = "."\n' + listeners)
    command = [sys.executable, "-c", PROGRAM, str(config), "1000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


TLS = ONE + 'tls_certificate_file = "cert.pem"\ntls_private_key_file = "key.pem"\n'


def test_tls_listener_speaks_https_and_takes_a_new_certificate(tmp_path: Path) -> None:
    write_certificate(tmp_path, "first.example")
    with running(tmp_path, TLS) as process:
        assert common_name(process.ports[0]) == "first.example"
        context = unverified()
        connection = http.client.HTTPSConnection("127.0.0.1", process.ports[0], context=context, timeout=TIMEOUT_S)
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b"ok"
        write_certificate(tmp_path, "second.example")
        process.signal(signal.SIGHUP)
        assert process.line() == "reloaded"
        assert common_name(process.ports[0]) == "second.example"
        (tmp_path / "cert.pem").write_text("rubbish")
        process.signal(signal.SIGHUP)
        assert process.line() == "reloaded"
        assert common_name(process.ports[0]) == "second.example"


def test_old_tls_is_refused(tmp_path: Path) -> None:
    write_certificate(tmp_path, "x.example")
    with running(tmp_path, TLS) as process:
        context = unverified()
        context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            http.client.HTTPSConnection("127.0.0.1", process.ports[0], context=context, timeout=TIMEOUT_S).connect()


def test_too_large_body_over_tls_is_answered(tmp_path: Path) -> None:
    write_certificate(tmp_path, "x.example")
    with running(tmp_path, TLS) as process:
        raw = socket.create_connection(("127.0.0.1", process.ports[0]), 20)
        with unverified().wrap_socket(raw) as sock:
            sock.sendall(b"PUT /x HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n" + b" " * 100_000)
            select.select([sock], [], [], 20)
            assert sock.recv(65536).startswith(b"HTTP/1.1 413 ")


def unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def common_name(port: int) -> str:
    raw = socket.create_connection(("127.0.0.1", port), 20)
    with unverified().wrap_socket(raw) as sock:
        encoded = sock.getpeercert(binary_form=True)
    assert encoded is not None
    certificate = x509.load_der_x509_certificate(encoded)
    value = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    return value if isinstance(value, str) else value.decode()


def write_certificate(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
