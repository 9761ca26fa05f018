"""Servers that federate over real TLS on loopback, and peers that do what a test tells them.

A server's name is `localhost:<port>`, so that nothing needs DNS; certificates are of the run's own authority.

    a, b = start_federated("a"), start_federated("b")       # Hearths; a.server_name, a.register("alice")
    peer = start_peer()                                     # a ScriptedPeer
    peer.answer("GET", "/_matrix/federation/v1/event/", {"pdus": []})
    peer.put(a, "/_matrix/federation/v1/send/1", {...}).json()
    peer.requests[-1].path
"""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from attrs import define, field, frozen

from federation.xmatrix import build_header
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import SigningKey, sign_json
from homeserver.runtime.clock import Clock
from tests.kit.certificates import CertificateFiles, TestCa
from tests.kit.processes import get_free_port
from tests.kit.servers import LocalServer, Settings, _merged

TIMEOUT_S = 120
KEY_PATH = "/_matrix/key/v2/server"


# -- Hearths -------------------------------------------------------------------------------------------------------------


def federated_settings(ca: TestCa, port: int, settings: Settings | None = None) -> dict[str, Any]:
    """Settings of a server `localhost:<port>` which trusts the tests' authority and may call loopback."""
    files = ca.for_loopback()
    listeners = [
        {"bind": ["127.0.0.1"], "port": 0},
        {
            "bind": ["127.0.0.1"],
            "port": port,
            "tls_certificate_file": str(files.certificate),
            "tls_private_key_file": str(files.private_key),
        },
    ]
    values = {
        "server_name": f"localhost:{port}",
        "listeners": listeners,
        "federation": {
            "custom_ca_file": str(ca.file),
            "allow_private_addresses": True,
            "trusted_key_servers": [],
            "request_timeout_ms": 60_000,
        },
    }
    return _merged(values, settings or {})


class FederatedServer(LocalServer):
    """A Hearth in this process, `url` for its clients, `federation_url` for other servers."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        ca: TestCa,
        settings: Settings | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.ca = ca
        self.port = get_free_port()
        self.server_name = ServerName(f"localhost:{self.port}")
        self.federation_url = f"https://{self.server_name}"
        super().__init__(database_url, folder, federated_settings(ca, self.port, settings), clock)

    @property
    def federation(self) -> Any:
        """The FederationServices; only touch them in `run_in_reactor`."""
        services = self.running.services.federation
        assert services is not None
        return services

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Any:
        """A request of nobody in particular; requests' Response."""
        content = {} if body is None else {"data": body} if isinstance(body, bytes) else {"json": body}
        return requests.request(
            method,
            self.federation_url + path,
            headers=dict(headers or {}),
            verify=str(self.ca.file),
            timeout=TIMEOUT_S,
            **content,
        )


# -- peers ---------------------------------------------------------------------------------------------------------------


@frozen
class Received:
    """A request that a peer got. `json` is None where the body is none."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@frozen
class Answer:
    """What a peer sends back; bytes as they are, anything else as JSON. After `delay_s`, where a test is about that."""

    body: Any = field(factory=dict)
    status: int = 200
    headers: Mapping[str, str] = field(factory=dict)
    delay_s: float = 0


Raw = Callable[[Any], None]
"""Writes to the connection what it likes: gets the request handler, with `wfile`."""
Reply = Answer | Callable[[Received], Any]


@define(eq=False)
class ScriptedPeer:
    """A small server with a signing key, which answers as it is told."""

    ca: TestCa
    certificate: CertificateFiles | None = None
    key: SigningKey = field(factory=lambda: SigningKey("peer", bytes(range(32))))
    requests: list[Received] = field(init=False, factory=list)
    valid_for_ms: int = field(init=False, default=24 * 3600 * 1000)
    old_keys: dict[str, Any] = field(init=False, factory=dict)
    _rules: list[tuple[str, str, Any]] = field(init=False, factory=list)
    _server: Any = field(init=False, default=None)
    _thread: threading.Thread | None = field(init=False, default=None)
    port: int = field(init=False, factory=get_free_port)
    # For replies that wait: they end with the peer.
    stopping: threading.Event = field(init=False, factory=threading.Event)

    # -- being there ---------------------------------------------------------------------------------------------------

    def start(self) -> ScriptedPeer:
        """At the port it had before, if it was there already."""
        self.stopping.clear()
        files = self.certificate or self.ca.for_loopback()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(files.certificate, files.private_key)
        self._server = _TlsServer(("127.0.0.1", self.port), _handler_of(self), context)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Nobody listens any more, and connections are closed."""
        if self._server is None:
            return
        self.stopping.set()
        self._server.shutdown()
        self._server.close_all()
        self._server = None

    @property
    def server_name(self) -> ServerName:
        return ServerName(f"localhost:{self.port}")

    # -- what it answers -----------------------------------------------------------------------------------------------

    def answer(self, method: str, path_prefix: str, reply: Any = None, status: int = 200) -> None:
        """What requests get whose path begins so; the rule made last wins.

        `reply` is JSON, bytes, an Answer, or a function of the Received that gives one of these.
        """
        self._rules.insert(0, (method, path_prefix, reply if status == 200 else Answer(reply, status)))

    def answer_raw(self, method: str, path_prefix: str, write: Raw) -> None:
        """As `answer`, but the function writes to the connection itself; it is closed then."""
        self._rules.insert(0, (method, path_prefix, _RawReply(write)))

    def key_document(self, **changes: Any) -> dict[str, Any]:
        """What is answered to those who ask for its keys, signed."""
        document = {
            "server_name": self.server_name,
            "valid_until_ts": int(time.time() * 1000) + self.valid_for_ms,
            "verify_keys": {self.key.key_id: {"key": self.key.verify_key.to_base64()}},
            "old_verify_keys": self.old_keys,
            **changes,
        }
        return sign_json(document, self.server_name, self.key)

    def received(self, path_prefix: str, method: str | None = None) -> list[Received]:
        """The requests whose path begins so."""
        return [each for each in self.requests if each.path.startswith(path_prefix) and method in (None, each.method)]

    def reply_to(self, received: Received) -> Any:
        for method, prefix, reply in self._rules:
            if method == received.method and received.path.startswith(prefix):
                return reply(received) if callable(reply) and not isinstance(reply, _RawReply) else reply
        if received.path == KEY_PATH:
            return self.key_document()
        return Answer({"errcode": "M_UNRECOGNIZED", "error": "The test said nothing of this"}, 404)

    # -- what it sends -------------------------------------------------------------------------------------------------

    def send(
        self,
        method: str,
        to: Any,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """A signed request to a FederatedServer. `path` is percent-encoded; `headers` replace what would be sent."""
        signature = build_header(self.key, method, path, self.server_name, to.server_name, body)
        sent = {"Authorization": signature, **(headers or {})}
        response: requests.Response = to.ask(method, path, body, sent)
        return response

    def get(self, to: Any, path: str, **about: Any) -> requests.Response:
        return self.send("GET", to, path, **about)

    def put(self, to: Any, path: str, body: Any, **about: Any) -> requests.Response:
        return self.send("PUT", to, path, body, **about)

    def post(self, to: Any, path: str, body: Any, **about: Any) -> requests.Response:
        return self.send("POST", to, path, body, **about)


@frozen
class _RawReply:
    write: Raw


class _TlsServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread for each connection; the handshake is made there, so that a slow client holds up nobody."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: Any, context: ssl.SSLContext) -> None:
        self._context = context
        self._open: set[Any] = set()
        self._is_closed = False
        super().__init__(address, handler)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def finish_request(self, request: Any, client_address: Any) -> None:
        secured = self._context.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
        self._open.add(secured)
        try:
            secured.do_handshake()
            if not self._is_closed:
                super().finish_request(secured, client_address)
        except (OSError, ValueError):
            pass
        finally:
            self._open.discard(secured)
            secured.close()

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a test breaks off are no news."""

    def close_all(self) -> None:
        """Each connection ends at once, also for the thread that reads from it: that closes it. To close it here would leave it
        open until the thread has read another request, or let the thread read from what gets its number next.
        """
        self._is_closed = True
        self.server_close()
        for connection in list(self._open):
            with suppress(OSError):  # it is closed by now
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def _handler_of(peer: ScriptedPeer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = TIMEOUT_S

        def handle_any(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            received = Received(self.command, parts.path, parts.query, headers, body)
            peer.requests.append(received)
            reply = peer.reply_to(received)
            if isinstance(reply, _RawReply):
                self.close_connection = True
                reply.write(self)
                return
            self._write(reply if isinstance(reply, Answer) else Answer(reply))

        def _write(self, answer: Answer) -> None:
            if answer.delay_s:
                peer.stopping.wait(answer.delay_s)
            content = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
            self.send_response(answer.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content)), **answer.headers}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: tests ask `requests`."""

        do_GET = do_PUT = do_POST = do_DELETE = handle_any

    return Handler
