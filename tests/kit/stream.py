"""A WebSocket client for tests: a real one (autobahn's), with calls that wait."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlencode, urlsplit

from autobahn.exception import Disconnected

from tests.kit.reactor import get_reactor, run_in_reactor

PATH = "/_matrix/client/unstable/im.hearth/stream"
WAIT_S = 120


class Closed(AssertionError):
    """The server closed the stream; code is None when the connection was dropped."""

    def __init__(self, code: int | None, reason: str | None) -> None:
        super().__init__(f"closed: {code} {reason}")
        self.code = code
        self.reason = reason or ""


class StreamClient:
    """One open stream. `updates` has what came and was not asked for yet."""

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        protocols: Sequence[str] = ("m.json",),
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> None:
        self._came: SimpleQueue[Any] = SimpleQueue()
        self._ids = count(1)
        self.updates: list[dict[str, Any]] = []
        self.next_batch: str | None = None
        self.protocol: Any = None
        self.agreed: str | None = None
        headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **(headers or {})}
        address = urlsplit(url)
        target = f"ws://{address.netloc}{PATH}" + (f"?{urlencode(query)}" if query else "")
        run_in_reactor(self._connect, address, target, list(protocols), headers)
        kind, *said = self._came.get(timeout=WAIT_S)
        if kind != "open":
            raise Closed(*said)

    def _connect(self, address: Any, target: str, protocols: list[str], headers: dict[str, str]) -> None:
        from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol

        came, client = self._came, self

        class Protocol(WebSocketClientProtocol):  # type: ignore[misc]
            def onConnect(self, response: Any) -> None:
                client.agreed = response.protocol

            def onOpen(self) -> None:
                client.protocol = self
                came.put(("open",))

            def onMessage(self, payload: bytes, isBinary: bool) -> None:
                came.put(("text", json.loads(payload)))

            def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
                came.put(("close", code, reason))

        make: Callable[..., Any] = WebSocketClientFactory
        factory = make(target, protocols=protocols, headers=headers, reactor=get_reactor())
        factory.protocol = Protocol
        factory.setProtocolOptions(openHandshakeTimeout=WAIT_S)
        get_reactor().connectTCP(address.hostname, address.port, factory)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Any]:
        """The next update. Raises: Closed."""
        if self.updates:
            return self.updates.pop(0)
        while True:
            message = self._next(WAIT_S)
            if "next_batch" in message:
                return message

    def update_with(self, wanted: Callable[[dict[str, Any]], Any]) -> Any:
        """What `wanted` finds in the first update in which it finds anything."""
        while not (found := wanted(self.update())):
            pass
        return found

    def is_quiet(self) -> bool:
        """Nothing comes for a moment; the pong of a ping shows that nothing was on its way."""
        self.call("ping")
        return not self.updates

    def closed(self) -> Closed:
        """How the server closes the stream; updates that come first are passed over."""
        while True:
            try:
                self._next(WAIT_S)
            except Closed as closed:
                return closed

    def _next(self, timeout_s: float) -> dict[str, Any]:
        try:
            kind, *said = self._came.get(timeout=timeout_s)
        except Empty:
            raise AssertionError("nothing came over the stream") from None
        if kind == "close":
            raise Closed(*said)
        message: dict[str, Any] = said[0]
        self.next_batch = message.get("next_batch", self.next_batch)
        return message

    # -- what is said --------------------------------------------------------------------------------------------------

    def call(self, method: str, *, expect: str | None = None, **params: Any) -> Any:
        """The result of a request; with `expect`, the error, which must have that errcode."""
        id_ = str(next(self._ids))
        self.send({"id": id_, "method": method, "params": params})
        answer = self.answer(id_)
        if expect is not None:
            assert answer["error"]["errcode"] == expect, answer
            return answer["error"]
        assert "result" in answer, answer
        return answer["result"]

    def answer(self, id_: str) -> dict[str, Any]:
        while True:
            message = self._next(WAIT_S)
            if message.get("id") == id_:
                return message
            self.updates.append(message)

    def send(self, message: Any) -> None:
        self.send_text(json.dumps(message).encode())

    def send_text(self, text: bytes, binary: bool = False) -> None:
        with suppress(Disconnected):  # what comes next tells how it was closed
            run_in_reactor(self.protocol.sendMessage, text, binary)

    def stop_reading(self) -> None:
        run_in_reactor(self.protocol.transport.pauseProducing)

    def resume_reading(self) -> None:
        run_in_reactor(self.protocol.transport.resumeProducing)

    def close(self) -> None:
        """Drop the connection, as a client does that loses its network."""
        run_in_reactor(self.protocol.transport.abortConnection)
