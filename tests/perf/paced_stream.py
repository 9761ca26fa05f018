"""Many servers that send events at their times, and a client that looks when each of them is there.

Each server has a connection of its own, made before the first event, and sends one transaction at a time, as the specification
asks for; another server's transaction waits for none of that.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode, urlsplit

from attrs import define, field, frozen

from homeserver.matrix.ids import EventId, RoomId, ServerName

TIMEOUT_S = 120


@frozen
class Sending:
    """A transaction with one event, as it goes to the wire."""

    origin: ServerName
    event_id: EventId
    path: str
    authorization: str
    body: bytes

    def build_request(self, host: str) -> bytes:
        head = (
            f"PUT {self.path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: {self.authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(self.body)}\r\n\r\n"
        )
        return head.encode() + self.body


@define(eq=False)
class _Origin:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    turn: asyncio.Lock = field(factory=asyncio.Lock)


@define(eq=False)
class PacedSender:
    """Sends each transaction at its time, whatever became of those before it."""

    host: str
    tls: ssl.SSLContext
    rate: float
    due: dict[EventId, float] = field(init=False, factory=dict)
    answered: dict[EventId, float] = field(init=False, factory=dict)
    _loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.new_event_loop)
    _origins: dict[ServerName, _Origin] = field(init=False, factory=dict)

    def connect(self, origins: Iterable[ServerName]) -> None:
        self._loop.run_until_complete(self._connect_all(dict.fromkeys(origins)))

    def run(self, sendings: Sequence[Sending]) -> None:
        self._loop.run_until_complete(self._run(sendings))

    def close(self) -> None:
        for origin in self._origins.values():
            origin.writer.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _connect_all(self, origins: Iterable[ServerName]) -> None:
        for name in origins:
            self._origins[name] = await self._connect()

    async def _run(self, sendings: Sequence[Sending]) -> None:
        began = time.monotonic()
        running = []
        for number, sending in enumerate(sendings):
            due = self.due[sending.event_id] = began + number / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            running.append(asyncio.create_task(self._send(sending)))
        await asyncio.gather(*running)

    async def _connect(self) -> _Origin:
        name, _, port = self.host.rpartition(":")
        return _Origin(*await asyncio.open_connection(name, int(port), ssl=self.tls))

    async def _send(self, sending: Sending) -> None:
        origin = self._origins[sending.origin]
        async with origin.turn:
            origin.writer.write(sending.build_request(self.host))
            answer = await asyncio.wait_for(_read_answer(origin.reader), TIMEOUT_S)
        self.answered[sending.event_id] = time.monotonic()
        errors = [each["error"] for each in answer["pdus"].values() if "error" in each]
        assert not errors, errors[0]


async def _read_answer(reader: asyncio.StreamReader) -> dict[str, dict[str, dict[str, str]]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length:")[2].partition("\r\n")[0])
    content = json.loads(await reader.readexactly(length))
    assert head.startswith("http/1.1 200"), content
    return content  # type: ignore[no-any-return]


@define(eq=False)
class Watcher:
    """A client whose /sync waits for the room's events, in a thread."""

    url: str
    token: str
    room_id: RoomId
    seen: dict[EventId, float] = field(init=False, factory=dict)
    syncs: int = field(init=False, default=0)
    _stopping: bool = field(init=False, default=False)
    _filter: str = field(init=False, default="")
    _connection: http.client.HTTPConnection = field(init=False)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)

    def start(self) -> Watcher:
        lean = {
            "presence": {"types": []},
            "room": {"rooms": [self.room_id], "timeline": {"limit": 1000}, "state": {"lazy_load_members": True}},
        }
        self._filter = json.dumps(lean)
        self._connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT_S)
        since = self._sync(None)
        threading.Thread(target=self._follow, args=(since,), daemon=True).start()
        return self

    def wait_for_all(self, event_ids: Sequence[EventId]) -> None:
        """Then it stops."""
        with self._changed:
            done = self._changed.wait_for(lambda: all(each in self.seen for each in event_ids), 600)
            assert done, f"{sum(each not in self.seen for each in event_ids)} of {len(event_ids)} events did not come"
            self._stopping = True

    def _follow(self, since: str) -> None:
        while not self._stopping:
            since = self._sync(since)

    def _sync(self, since: str | None) -> str:
        query = {"filter": self._filter, "timeout": "1000" if since else "0", **({"since": since} if since else {})}
        headers = {"Authorization": f"Bearer {self.token}"}
        self._connection.request("GET", f"/_matrix/client/v3/sync?{urlencode(query)}", headers=headers)
        answer = json.loads(self._connection.getresponse().read())
        now = time.monotonic()
        room = answer.get("rooms", {}).get("join", {}).get(self.room_id, {})
        with self._changed:
            self.syncs += 1
            self.seen.update({each["event_id"]: now for each in room.get("timeline", {}).get("events", ())})
            self._changed.notify_all()
        next_batch: str = answer["next_batch"]
        return next_batch


def report(due: Mapping[EventId, float], at: Mapping[EventId, float]) -> str:
    """The delays' percentiles."""
    delays = sorted((at[event_id] - due[event_id]) * 1000 for event_id in due)
    return f"p50 {delays[len(delays) // 2]:.0f} ms, p99 {delays[len(delays) * 99 // 100]:.0f} ms"
