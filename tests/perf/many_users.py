"""Many users of one server, with as little work for each in the process of the bench as will do."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define, field

V3 = "/_matrix/client/v3"
POLL_MS = 30_000
SETTERS = 16


def cpu_s(pid: int) -> float:
    """What the process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


@define(eq=False)
class User:
    """A client with one connection for its polls; other requests take a connection of their own."""

    port: int
    name: str
    user_id: str = ""
    token: str = ""
    since: str = ""
    # Events of presence, and of messages.
    updates: int = 0
    messages: int = 0
    _streams: Any = field(default=None, init=False)

    async def request(self, method: str, path: str, body: object = None) -> Any:
        streams = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            return await self._exchange(streams, method, path, body)
        finally:
            streams[1].close()

    async def poll(self) -> None:
        """Until it is cancelled: one long poll after another."""
        self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        while True:
            query = f"?timeout={POLL_MS}&since={quote(self.since)}" if self.since else "?timeout=0"
            self.take(await self._exchange(self._streams, "GET", f"{V3}/sync{query}"))

    def take(self, response: Any) -> None:
        """A response of /sync."""
        self.since = response["next_batch"]
        self.updates += len(response.get("presence", {}).get("events", []))
        for room in response.get("rooms", {}).get("join", {}).values():
            self.messages += sum(event["type"] == "m.room.message" for event in room["timeline"]["events"])

    async def _exchange(self, streams: Any, method: str, path: str, body: object = None) -> Any:
        reader, writer = streams
        content = b"" if body is None else json.dumps(body).encode()
        token = f"Authorization: Bearer {self.token}\r\n" if self.token else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{token}Content-Length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        answered = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = next(int(line[15:]) for line in answered.splitlines() if line.lower().startswith("content-length:"))
        found = json.loads(await reader.readexactly(length))
        if " 200 " not in answered.splitlines()[0]:
            raise RuntimeError(f"{method} {path}: {found}")
        return found


async def register(user: User) -> None:
    body = {"username": user.name, "password": "pass word 1", "auth": {"type": "m.login.dummy"}}
    answer = await user.request("POST", f"{V3}/register", body)
    user.user_id, user.token = answer["user_id"], answer["access_token"]


async def fill_room(members: Sequence[User]) -> str:
    """A room of the first with all the others: its id."""
    room = await members[0].request("POST", f"{V3}/createRoom", {"preset": "public_chat"})
    for member in members[1:]:
        await member.request("POST", f"{V3}/join/{quote(room['room_id'])}", {})
    return str(room["room_id"])


async def each(things: Sequence[Any], act: Callable[[Any], Awaitable[object]]) -> None:
    """Do it with all of them, some at a time."""
    places = asyncio.Semaphore(SETTERS)

    async def one(thing: Any) -> None:
        async with places:
            await act(thing)

    await asyncio.gather(*map(one, things))
