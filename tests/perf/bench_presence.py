"""What presence costs with many users online: CPU of a server that has it on, less that of one that has it off.

    python tests/perf/bench_presence.py [--users 1000] [--room 50] [--seconds 45] [--lively 2]

Two servers on SQLite, each with the same users in rooms of that many, who all wait in long polls of 30 seconds, one
request after another. First nobody does anything (*quiet*: the users are online, and by then no longer active); then
`--lively` times a second some user sets a status message, of which all who share a room with the user hear (*lively*;
where presence is off such a request changes nothing).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import resource
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from attrs import define, field

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kit.servers import SubprocessServer

V3 = "/_matrix/client/v3"
ACTIVE_S = 65  # so long users count as active after they came
BEGIN_OVER_S = 15
POLL_MS = 30_000
SETTERS = 16


@define(eq=False)
class User:
    """A client with one connection for its polls; other requests take a connection of their own."""

    port: int
    name: str
    user_id: str = ""
    token: str = ""
    since: str = ""
    updates: int = 0
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
            answer = await self._exchange(self._streams, "GET", f"{V3}/sync{query}")
            self.since = answer["next_batch"]
            self.updates += len(answer.get("presence", {}).get("events", []))

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


@define(eq=False)
class Side:
    """A server with its users."""

    server: SubprocessServer
    users: list[User]
    polls: list[asyncio.Task[None]] = field(factory=list)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def updates(self) -> int:
        return sum(user.updates for user in self.users)

    async def set_up(self, per_room: int) -> None:
        """Register the users, and put them into rooms."""
        await each(self.users, register)
        rooms = [self.users[first : first + per_room] for first in range(0, len(self.users), per_room)]
        await each(rooms, fill_room)

    async def begin(self) -> None:
        for user in self.users:
            self.polls.append(asyncio.create_task(user.poll()))
            await asyncio.sleep(BEGIN_OVER_S / len(self.users))

    def check(self) -> None:
        for poll in self.polls:
            if poll.done():
                poll.result()


async def register(user: User) -> None:
    body = {"username": user.name, "password": "pass word 1", "auth": {"type": "m.login.dummy"}}
    answer = await user.request("POST", f"{V3}/register", body)
    user.user_id, user.token = answer["user_id"], answer["access_token"]


async def fill_room(members: Sequence[User]) -> None:
    room = await members[0].request("POST", f"{V3}/createRoom", {"preset": "public_chat"})
    for member in members[1:]:
        await member.request("POST", f"{V3}/join/{quote(room['room_id'])}", {})


async def each(things: Sequence[Any], act: Callable[[Any], Awaitable[None]]) -> None:
    """Do it with all of them, some at a time."""
    places = asyncio.Semaphore(SETTERS)

    async def one(thing: Any) -> None:
        async with places:
            await act(thing)

    await asyncio.gather(*map(one, things))


async def change(sides: Sequence[Side], rate: float, seconds: float) -> None:
    """Users who set a status message, the same on all servers."""
    chance = random.Random(1)
    for number in range(int(rate * seconds)):
        index = chance.randrange(len(sides[0].users))
        for user in (side.users[index] for side in sides):
            body = {"presence": "online", "status_msg": f"status {number}"}
            await user.request("PUT", f"{V3}/presence/{quote(user.user_id)}/status", body)
        await asyncio.sleep(1 / rate)


async def measure(title: str, sides: Sequence[Side], act: Awaitable[None], seconds: float) -> None:
    before, told = [side.cpu_s() for side in sides], [side.updates() for side in sides]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await act
    await asyncio.sleep(max(0, seconds - (loop.time() - began)))
    took_s = loop.time() - began
    shares = [100 * (side.cpu_s() - was) / took_s for side, was in zip(sides, before, strict=True)]
    heard = [(side.updates() - was) / took_s for side, was in zip(sides, told, strict=True)]
    for side in sides:
        side.check()
    print(
        f"{title}: presence off {shares[0]:.2f} % of a core, on {shares[1]:.2f} %, so presence {shares[1] - shares[0]:.2f} %;"
        f" {heard[1]:.0f} updates heard each second",
        flush=True,
    )


async def run(sides: Sequence[Side], options: argparse.Namespace) -> None:
    for side in sides:
        await side.set_up(options.room)
    print(f"{options.users} users in rooms of {options.room} on each server", flush=True)
    await asyncio.gather(*(side.begin() for side in sides))
    await measure("coming online, and no longer active", sides, asyncio.sleep(0), ACTIVE_S)
    await measure("quiet", sides, asyncio.sleep(0), options.seconds)
    await measure("lively", sides, change(sides, options.lively, options.seconds), options.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--room", type=int, default=50, help="users in each room")
    parser.add_argument("--seconds", type=int, default=45, help="for how long each state is measured")
    parser.add_argument("--lively", type=float, default=2, help="changes of presence each second")
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as folder:
        sides = []
        for is_on in (False, True):
            place = Path(folder) / ("on" if is_on else "off")
            place.mkdir()
            server = SubprocessServer(f"sqlite:///{place}/hearth.db", place, {"presence": {"enabled": is_on}})
            port = int(server.url.rpartition(":")[2])
            sides.append(Side(server, [User(port, f"user{n}") for n in range(options.users)]))
        try:
            asyncio.run(run(sides, options))
        finally:
            for side in sides:
                side.server.stop()


if __name__ == "__main__":
    main()
