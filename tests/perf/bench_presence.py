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
import random
import resource
import sys
import tempfile
from collections.abc import Awaitable, Sequence
from pathlib import Path
from urllib.parse import quote

from attrs import define, field

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kit.servers import SubprocessServer
from tests.perf.many_users import V3, User, cpu_s, each, fill_room, register

ACTIVE_S = 65  # so long users count as active after they came
BEGIN_OVER_S = 15


@define(eq=False)
class Side:
    """A server with its users."""

    server: SubprocessServer
    users: list[User]
    polls: list[asyncio.Task[None]] = field(factory=list)

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
    before, told = [cpu_s(side.server.pid) for side in sides], [side.updates() for side in sides]
    loop = asyncio.get_running_loop()
    began = loop.time()
    await act
    await asyncio.sleep(max(0, seconds - (loop.time() - began)))
    took_s = loop.time() - began
    shares = [100 * (cpu_s(side.server.pid) - was) / took_s for side, was in zip(sides, before, strict=True)]
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
