"""How long a client waits for the first answer of a sliding sync, beside Synapse: until the last byte is there, unread.

    python tests/perf/bench_sliding.py [--rooms 200] [--rounds 40]

Both servers run on SQLite, on core 1; an account is in so many rooms of each, as in the load generator's scenario. By turns
each is asked by new connections for its first 20 rooms, and for all of them. The load generator's figure holds what comes
behind that in the client, too: parsing the answer, and freeing the one before.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.kit.certificates import TestCa
from tests.kit.client import Client
from tests.kit.processes import find_synapse
from tests.kit.servers import SubprocessServer
from tests.kit.synapse import Synapse, SynapseClient

PATH = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?timeout=0"
PASSWORD = "password of the bench"
MESSAGES = 5
FIRST = 20
STATE = [
    *(("m.room.create", ""), ("m.room.name", ""), ("m.room.topic", ""), ("m.room.avatar", "")),
    *(("m.room.canonical_alias", ""), ("m.room.encryption", ""), ("m.room.join_rules", "")),
    *(("m.room.power_levels", ""), ("m.room.member", "$LAZY"), ("m.room.member", "$ME")),
]
EXTENSIONS = ("to_device", "e2ee", "account_data", "receipts", "typing")


class BenchClient(Client):
    """Its answers are not looked at."""

    def check_answer(self, method: str, path: str, status: int, answer: Any) -> None:
        """They are checked in the tests."""


def join_rooms(user: Client, other: Client, count: int) -> None:
    for number in range(count):
        about = {"preset": "public_chat", "name": f"room {number}", "topic": "a topic"}
        room_id = other.post("/createRoom", about)["room_id"]
        user.post("/join/{}", at=[room_id])
        for text in range(MESSAGES):
            path = "/rooms/{}/send/m.room.message/{}"
            other.put(path, {"msgtype": "m.text", "body": f"hello {text}"}, at=[room_id, f"{number}-{text}"])


def wait_for_answer(user: Client, conn_id: str, rooms: int) -> tuple[float, int]:
    """In milliseconds; and the bytes of it. The connection to the server is open before."""
    ask = {
        "conn_id": conn_id,
        "lists": {"all": {"ranges": [[0, rooms - 1]], "timeline_limit": 1, "required_state": STATE}},
        "extensions": {name: {"enabled": True} for name in EXTENSIONS},
    }
    body, headers = json.dumps(ask).encode(), {"Authorization": f"Bearer {user.token}"}
    connection = http.client.HTTPConnection(user.base_url.removeprefix("http://"))
    connection.request("GET", "/_matrix/client/versions")
    connection.getresponse().read()
    began = time.perf_counter()
    connection.request("POST", PATH, body, headers)
    response = connection.getresponse()
    content = response.read()
    taken_ms = (time.perf_counter() - began) * 1000
    connection.close()
    if response.status != 200 or len(json.loads(content)["rooms"]) != rooms:
        raise RuntimeError(content[:500])
    return taken_ms, len(content)


def measure(users: dict[str, Client], rooms: int, rounds: int) -> None:
    taken: dict[str, list[float]] = {name: [] for name in users}
    sizes: dict[str, int] = {}
    for number in range(-1, rounds):  # the first one warms up
        for name, user in users.items():
            taken_ms, sizes[name] = wait_for_answer(user, f"{rooms}-{number}", rooms)
            if number >= 0:
                taken[name].append(taken_ms)
    for name, times in taken.items():
        print(f"{rooms} rooms, {name}: {median(times):.2f} ms (p50), {sizes[name] / 1024:.0f} KiB", flush=True)
    ours, theirs = (median(times) for times in taken.values())
    print(f"{rooms} rooms: better by {theirs / ours:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    python = find_synapse()
    if python is None:
        parser.error("There is no Synapse in .venv-synapse: scripts/test makes it")
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")  # as in scripts/hearth
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        (folder / "synapse").mkdir()
        os.sched_setaffinity(0, {1})
        hearth = SubprocessServer(f"sqlite:///{folder}/hearth.db", folder)
        synapse = Synapse(python, folder / "synapse", TestCa(folder)).start()
        os.sched_setaffinity(0, {0})
        try:
            users: dict[str, Client] = {}
            for name, url, kind in (("Hearth", hearth.url, BenchClient), ("Synapse", synapse.url, SynapseClient)):
                users[name], other = kind(url), kind(url)
                users[name].register("alice", PASSWORD)
                other.register("bob", PASSWORD)
                join_rooms(users[name], other, options.rooms)
            for rooms in (min(FIRST, options.rooms), options.rooms):
                measure(users, rooms, options.rounds)
        finally:
            hearth.stop()
            synapse.close()


if __name__ == "__main__":
    main()
