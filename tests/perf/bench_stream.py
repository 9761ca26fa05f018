"""What clients that follow one room cost by WebSocket and by long polls of /sync: CPU for a delivery, memory for a client.

    python tests/perf/bench_stream.py [--clients 1000] [--users 1000] [--messages 20] [--every 1.0]

One server on SQLite. For each of the two ways it is started anew, one client comes by WebSocket and goes (the first one loads
autobahn), all clients come, each with the token it had before the start, and then messages are sent into the room. CPU and
memory are those of the server's process; all clients are in one other process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kit.servers import SubprocessServer
from tests.perf.many_users import V3, User, cpu_s, each, fill_room, register, resident_kib

STREAM = "/_matrix/client/unstable/im.hearth/stream"
CONNECT_S = 10  # over so long the clients come
SETTLE_S = 5
LONGEST_S = 60
TEXT, CLOSE, PING = 1, 8, 9
PONG = bytes((0x8A, 0x80, 0, 0, 0, 0))

Act = Callable[[User], Coroutine[None, None, None]]


@frozen
class Measured:
    cpu_ms: float
    resident_kib: float


async def follow(user: User) -> None:
    """Until it is cancelled: the responses of a stream. RFC 6455, section 5.2."""
    reader, writer = await asyncio.open_connection("127.0.0.1", user.port)
    head = (
        f"GET {STREAM}?since={quote(user.since)} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {user.token}\r\n"
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: m.json\r\n\r\n"
    )
    writer.write(head.encode())
    try:
        answered = await reader.readuntil(b"\r\n\r\n")
        if b" 101 " not in answered:
            raise RuntimeError(answered)
        while True:
            first, length = await reader.readexactly(2)
            if length > 125:
                (length,) = struct.unpack(
                    "!H" if length == 126 else "!Q", await reader.readexactly(2 if length == 126 else 8)
                )
            payload = await reader.readexactly(length)
            match first & 0x0F:
                case code if code == TEXT:
                    user.take(json.loads(payload))
                case code if code == PING:
                    writer.write(PONG)
                case code if code == CLOSE:
                    raise RuntimeError(payload)
    finally:
        writer.close()


async def until(done: Callable[[], bool], tasks: Sequence[asyncio.Task[None]]) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not done():
        for task in tasks:
            if task.done():
                task.result()
        if loop.time() - began > LONGEST_S:
            raise RuntimeError("Not all clients were told all messages")
        await asyncio.sleep(0.02)


async def say(user: User, room_id: str, text: str) -> None:
    path = f"{V3}/rooms/{quote(room_id)}/send/m.room.message/{quote(text)}"
    await user.request("PUT", path, {"msgtype": "m.text", "body": text})


async def measure(server: SubprocessServer, users: Sequence[User], act: Act, options: argparse.Namespace) -> Measured:
    clients = [User(user.port, user.name, user.user_id, user.token, user.since) for user in users]
    loads_autobahn = asyncio.create_task(follow(users[0]))
    await asyncio.sleep(SETTLE_S)
    loads_autobahn.cancel()
    before = resident_kib(server.pid)
    tasks: list[asyncio.Task[None]] = []
    for client in clients:
        tasks.append(asyncio.create_task(act(client)))
        await asyncio.sleep(CONNECT_S / len(clients))
    await asyncio.sleep(SETTLE_S)
    each_kib = (resident_kib(server.pid) - before) / len(clients)
    was = 0.0
    for number in range(options.messages + 1):
        if number == 1:  # with the first message, what is unread is counted for each
            was = cpu_s(server.pid)
        await say(users[0], options.room_id, f"{act.__name__} {number}")
        await until(lambda: all(client.messages > number for client in clients), tasks)  # noqa: B023
        await asyncio.sleep(options.every)
    taken = cpu_s(server.pid) - was
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return Measured(1000 * taken / options.messages / len(clients), each_kib)


async def run(server: SubprocessServer, options: argparse.Namespace) -> None:
    port = int(server.url.rpartition(":")[2])
    members = [User(port, f"user{number}") for number in range(options.users)]
    await each(members, register)
    options.room_id = await fill_room(members)
    ways: dict[str, Act] = {"long polls": User.poll, "WebSocket": follow}
    for name, act in ways.items():
        for member in members:
            answer = await member.request("GET", f"{V3}/sync")
            member.since = answer["next_batch"]
        server.stop()
        server.start()
        users = [members[number % len(members)] for number in range(options.clients)]
        found = await measure(server, users, act, options)
        print(f"{name}: {found.cpu_ms:.3f} ms CPU per delivery, {found.resident_kib:.1f} KiB per client", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--users", type=int, default=1000, help="whose clients they are")
    parser.add_argument("--messages", type=int, default=20)
    parser.add_argument(
        "--every", type=float, default=1.0, help="seconds between a message's last delivery and the next"
    )
    options = parser.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # as in scripts/hearth
    with tempfile.TemporaryDirectory() as folder:
        server = SubprocessServer(f"sqlite:///{folder}/hearth.db", Path(folder))
        try:
            asyncio.run(run(server, options))
        finally:
            server.stop()


if __name__ == "__main__":
    main()
