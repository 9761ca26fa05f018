"""What it costs to join a large room of other servers, and to receive what they send there.

    python tests/perf/bench_ingest.py [--members 10000] [--servers 500] [--events 5000] [--forks 40] [--database URL]

The room's servers are ports of this process, and all have the same key. A Hearth of its own
process joins the room with all of its members, then takes in:

- a *burst*: events of a DAG with forks, in transactions of 50. Each side of a fork has ten events, messages, joins, and a topic
  that both sides set;
- a *stream*: the same sort of events, a hundred each second, each sent at its time by the server of its sender in a transaction
  of its own. A client waits for them with /sync, and its delays are shown;
- *members*: joins only, for what a change of state takes on disk.

CPU is that of the Hearth's process. The database is a new one; on PostgreSQL it must be empty.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import ssl
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote

import requests
import sqlalchemy
from attrs import define, field

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from federation.xmatrix import build_header
from homeserver.matrix.build import build_pdu
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.signing import SigningKey, sign_json
from homeserver.matrix.versions import room_version
from homeserver.runtime.db import engine_url, make_engine
from tests.kit.certificates import TestCa
from tests.kit.client import Client
from tests.kit.federation import Received, ScriptedPeer, federated_settings
from tests.kit.processes import get_free_port
from tests.kit.servers import SubprocessServer, write_config
from tests.perf.paced_stream import PacedSender, Sending, Watcher, report

VERSION = room_version("11")
KEY = SigningKey("peer", bytes(range(32)))
V1 = "/_matrix/federation/v1"
MEMBER = "m.room.member"
IN_TRANSACTION = 50
SIDE = 10
NEW_MEMBERS = 500
# Tables that hold what the room's state is and was.
STATE_TABLES = ("current_state", "memberships", "state_deltas", "state_snapshots")


class Resident:
    """All servers of the room, at many ports."""

    def __init__(self, ca: TestCa, number: int) -> None:
        self.peer = ScriptedPeer(ca, key=KEY).start()
        listeners = [socket.create_server(("127.0.0.1", 0), backlog=16) for _ in range(number)]
        self.names = [ServerName(f"localhost:{listener.getsockname()[1]}") for listener in listeners]
        threading.Thread(target=self._accept, args=(listeners,), daemon=True).start()
        self.peer.answer("GET", "/_matrix/key/v2/server", self._keys)
        self.peer.answer("PUT", f"{V1}/send/", {"pdus": {}})

    def _accept(self, listeners: Sequence[socket.socket]) -> None:
        with selectors.DefaultSelector() as selector:
            for listener in listeners:
                selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    connection, address = cast(socket.socket, key.fileobj).accept()
                    self.peer._server.process_request(connection, address)

    def _keys(self, received: Received) -> Any:
        name = ServerName(received.headers["host"])
        document = {
            "server_name": name,
            "valid_until_ts": int(time.time() * 1000) + 24 * 3600 * 1000,
            "verify_keys": {KEY.key_id: {"key": KEY.verify_key.to_base64()}},
            "old_verify_keys": {},
        }
        return sign_json(document, name, KEY)


@define(eq=False)
class Room:
    """The room as its servers know it."""

    servers: Sequence[ServerName]
    room_id: RoomId
    state: dict[tuple[str, str], EventId] = field(factory=dict)
    events: dict[EventId, Pdu] = field(factory=dict)
    tips: tuple[EventId, ...] = ()
    depth: int = 0
    now_ms: int = field(factory=lambda: int(time.time() * 1000) - 3_600_000)
    _users: int = 0

    @classmethod
    def open(cls, servers: Sequence[ServerName], members: int) -> Room:
        room = cls(servers, RoomId(f"!large:{servers[0]}"))
        admin = room.new_user()
        room.add("m.room.create", admin, {"room_version": "11"}, "")
        room.join(admin)
        users = {admin: 100, **{room.user(n): 50 for n in range(1, 10)}}
        room.add("m.room.power_levels", admin, {"users": users}, "")
        room.add("m.room.join_rules", admin, {"join_rule": "public"}, "")
        room.add("m.room.history_visibility", admin, {"history_visibility": "shared"}, "")
        for _ in range(members - 1):
            room.join(room.new_user())
        return room

    def user(self, number: int) -> UserId:
        return UserId(f"@user{number}:{self.servers[number % len(self.servers)]}")

    def new_user(self) -> UserId:
        self._users += 1
        return self.user(self._users - 1)

    def speaker(self, number: int) -> UserId:
        """One of those that were there from the beginning."""
        return self.user(number % min(self._users, len(self.servers)))

    def add(
        self,
        type_: str,
        sender: UserId,
        content: dict[str, Any],
        state_key: str | None = None,
        after: tuple[EventId, ...] | None = None,
    ) -> Pdu:
        """A new event behind `after`; by default behind the tips, which it replaces."""
        prev_events = self.tips if after is None else after
        self.depth, self.now_ms = self.depth + 1, self.now_ms + 10
        wanted = [("m.room.create", ""), ("m.room.power_levels", ""), (MEMBER, sender)]
        if type_ == MEMBER:
            wanted.append(("m.room.join_rules", ""))
        pdu = build_pdu(
            VERSION,
            type=type_,
            sender=sender,
            room_id=self.room_id,
            content=content,
            state_key=state_key,
            prev_events=prev_events,
            auth_events=[self.state[key] for key in wanted if key in self.state],
            depth=self.depth,
            origin_server_ts=self.now_ms,
            signing_key=KEY,
            server_name=domain_of(sender),
        )
        self.events[pdu.event_id] = pdu
        if state_key is not None:
            self.state[type_, state_key] = pdu.event_id
        if after is None:
            self.tips = (pdu.event_id,)
        return pdu

    def join(self, user: UserId, after: tuple[EventId, ...] | None = None) -> Pdu:
        return self.add(MEMBER, user, {"membership": "join", "displayname": user[1:20]}, user, after)

    def _some_event(self, number: int, after: tuple[EventId, ...] | None = None) -> Pdu:
        """Of ten events one is a join, the others are messages."""
        if number % 10 == 5:
            return self.join(self.new_user(), after)
        content = {"msgtype": "m.text", "body": f"This is message number {number}, which says little"}
        return self.add("m.room.message", self.speaker(number * 7), content, None, after)

    def make_events(self, number: int, forks: int) -> list[Pdu]:
        """A DAG with its forks at even distances; each ends in an event that follows both sides."""
        made: list[Pdu] = []
        distance = number // forks if forks else number + 1
        while len(made) < number:
            if forks and len(made) % distance >= distance - 2 * SIDE - 1 and number - len(made) > 2 * SIDE:
                made += self._fork(len(made))
                made.append(self._some_event(len(made)))
                while len(made) % distance and len(made) < number:
                    made.append(self._some_event(len(made)))
            else:
                made.append(self._some_event(len(made)))
        return made

    def _fork(self, first: int) -> Iterator[Pdu]:
        sides = [self.tips, self.tips]
        for step in range(SIDE):
            for side in (0, 1):
                if step == 3:
                    pdu = self.add("m.room.topic", self.user(1 + side), {"topic": f"{first} {side}"}, "", sides[side])
                else:
                    pdu = self._some_event(2 * step + side, sides[side])
                sides[side] = (pdu.event_id,)
                yield pdu
        self.tips = (*sides[0], *sides[1])

    # -- what its servers answer ---------------------------------------------------------------------------------------

    def serve(self, peer: ScriptedPeer) -> None:
        raw_state = [self.events[event_id].json for event_id in self.state.values()]
        joined = {"state": raw_state, "auth_chain": [], "origin": self.servers[0], "members_omitted": False}
        content = json.dumps(joined).encode()

        def send_join(received: Received) -> bytes:
            pdu = parse_pdu(received.json, VERSION)
            self.events[pdu.event_id], self.tips, self.depth = pdu, (pdu.event_id,), pdu.depth
            self.state[pdu.key] = pdu.event_id
            return content

        peer.answer("GET", f"{V1}/make_join/", self._make_join)
        peer.answer("PUT", "/_matrix/federation/v2/send_join/", send_join)
        peer.answer("POST", f"{V1}/get_missing_events/", self._missing_events)

    def _missing_events(self, received: Received) -> Any:
        """What is before the latest ones, back to the earliest."""
        asked = received.json
        pending, known = list(asked["latest_events"]), {*asked["earliest_events"], *asked["latest_events"]}
        found: list[Pdu] = []
        while pending and len(found) < asked["limit"]:
            for event_id in self.events[pending.pop(0)].prev_events:
                if event_id not in known and self.events[event_id].depth >= asked["min_depth"]:
                    known.add(event_id)
                    pending.append(event_id)
                    found.append(self.events[event_id])
        return {"events": [pdu.json for pdu in reversed(found)]}

    def _make_join(self, received: Received) -> Any:
        user = unquote(received.path.rpartition("/")[2])
        keys = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.join_rules", "")]
        template = {
            "type": MEMBER,
            "sender": user,
            "state_key": user,
            "room_id": self.room_id,
            "content": {"membership": "join"},
            "prev_events": list(self.tips),
            "auth_events": [self.state[key] for key in keys],
            "depth": self.depth + 1,
            "origin_server_ts": self.now_ms,
        }
        return {"room_version": "11", "event": template}


class Hearth(SubprocessServer):
    def __init__(self, database_url: str, folder: Path, ca: TestCa) -> None:
        self._port, port = get_free_port(), get_free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.server_name = ServerName(f"localhost:{port}")
        self.federation_url = f"https://{self.server_name}"
        self.folder, self.log_file, self._process = folder, folder / "server.log", None
        settings = federated_settings(ca, port)
        settings["listeners"][0]["port"] = self._port
        self.config_file = write_config(folder, database_url, self._port, settings)
        self.start()

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1048576


class Sizes:
    """What the database takes, in bytes: all, and of the tables that hold states."""

    def __init__(self, url: sqlalchemy.URL) -> None:
        self._engine = make_engine(url)

    def read(self) -> dict[str, int]:
        if self._engine.dialect.name == "sqlite":
            statement = (
                "SELECT m.tbl_name, sum(s.pgsize) FROM dbstat s JOIN sqlite_master m ON m.name = s.name"
                " WHERE s.aggregate = TRUE GROUP BY m.tbl_name"
            )
        else:
            statement = "SELECT relname, pg_total_relation_size(relid) FROM pg_stat_user_tables"
        with self._engine.connect() as conn:
            return {name: int(size) for name, size in conn.exec_driver_sql(statement)}


@define(eq=False)
class Bench:
    hearth: Hearth
    peer: ScriptedPeer
    room: Room
    ca: TestCa
    sizes: Sizes
    alice: Client
    session: requests.Session = field(factory=requests.Session)
    _sent: int = 0

    def send(self, origin: ServerName, pdus: Sequence[Pdu]) -> None:
        self._sent += 1
        path = f"{V1}/send/{self._sent}"
        body = {"origin": origin, "origin_server_ts": int(time.time() * 1000), "pdus": [pdu.json for pdu in pdus]}
        header = build_header(KEY, "PUT", path, origin, self.hearth.server_name, body)
        answer = self.session.put(
            self.hearth.federation_url + path, json=body, headers={"Authorization": header}, verify=str(self.ca.file)
        )
        answer.raise_for_status()
        errors = [each["error"] for each in answer.json()["pdus"].values() if "error" in each]
        assert not errors, errors[0]

    def wait_for(self, pdu: Pdu) -> None:
        path = f"/_matrix/client/v3/rooms/{quote(self.room.room_id)}/event/{quote(pdu.event_id, safe='')}"
        deadline = time.monotonic() + 600
        while not self.alice.send_raw("GET", path).ok:
            assert time.monotonic() < deadline, "waited in vain"
            time.sleep(0.02)  # poll: the Hearth works on in its own time

    def burst(self, pdus: Sequence[Pdu]) -> None:
        for start in range(0, len(pdus), IN_TRANSACTION):
            self.send(self.room.servers[0], pdus[start : start + IN_TRANSACTION])
        self.wait_for(pdus[-1])

    def prepare(self, pdu: Pdu) -> Sending:
        """A transaction of the server of the event's sender."""
        self._sent += 1
        origin, path = domain_of(pdu.sender), f"{V1}/send/{self._sent}"
        body = {"origin": origin, "origin_server_ts": int(time.time() * 1000), "pdus": [pdu.json]}
        header = build_header(KEY, "PUT", path, origin, self.hearth.server_name, body)
        return Sending(origin, pdu.event_id, path, header, json.dumps(body).encode())

    def count_asked(self) -> int:
        return len(self.peer.received(f"{V1}/get_missing_events/"))

    def sender(self, rate: float) -> PacedSender:
        return PacedSender(self.hearth.server_name, ssl.create_default_context(cafile=str(self.ca.file)), rate)

    def stream(self, sender: PacedSender, sendings: Sequence[Sending]) -> None:
        """Each at its time; a client waits for all of them."""
        assert self.alice.token is not None
        watcher = Watcher(self.hearth.url, self.alice.token, self.room.room_id).start()
        own_cpu_s = time.process_time()
        sender.run(sendings)
        watcher.wait_for_all([each.event_id for each in sendings])
        own_cpu_s = time.process_time() - own_cpu_s
        print(
            f"  answered {report(sender.due, sender.answered)}; in a /sync {report(sender.due, watcher.seen)}"
            f" ({watcher.syncs} syncs); asked for missing ones {self.count_asked()} times;"
            f" CPU of this bench {own_cpu_s * 1000 / len(sendings):.1f} ms each"
        )

    def measure(self, name: str, number: int, act: Any) -> None:
        before, began, used = self.sizes.read(), time.monotonic(), self.hearth.cpu_s()
        act()
        took_s, used_s = time.monotonic() - began, self.hearth.cpu_s() - used
        after = self.sizes.read()
        grown = sum(after.values()) - sum(before.values())
        state = sum(after.get(table, 0) - before.get(table, 0) for table in STATE_TABLES)
        print(
            f"{name:28} {took_s:7.2f} s {number / took_s:8.0f}/s {used_s:6.2f} s CPU {used_s * 1000 / number:7.2f} ms CPU each"
            f" {grown / number:7.0f} B each {state / number:7.0f} B of state each {self.hearth.memory_mib():6.0f} MiB"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("members", 10_000), ("servers", 500), ("events", 5_000), ("forks", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=100, help="events of the stream in a second")
    parser.add_argument("--streamed", type=int, default=2000)
    parser.add_argument("--database", default="sqlite:///hearth.db")
    parser.add_argument("--pause", action="store_true", help="wait for Enter before each part (for a profiler)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        run(options, Path(name))


def run(options: argparse.Namespace, folder: Path) -> None:
    ca = TestCa(folder)
    resident = Resident(ca, options.servers)
    room = Room.open(resident.names, options.members)
    room.serve(resident.peer)
    with suppress(OSError):
        os.sched_setaffinity(0, {1})
    hearth = Hearth(options.database, folder, ca)
    with suppress(OSError):
        os.sched_setaffinity(0, {0})
    try:
        alice = hearth.register("alice")
        sizes = Sizes(engine_url(options.database, folder / "data"))
        bench = Bench(hearth, resident.peer, room, ca, sizes, alice)
        print(f"A room of {options.members} members on {options.servers} servers; process {hearth.pid}", flush=True)
        for label, number, act in _parts(bench, options):
            if options.pause:
                input(f"{label}?")
            bench.measure(label, number, act)
            sys.stdout.flush()
    finally:
        hearth.kill()
        log = hearth.log_file.read_text()
        if log:
            print(log[-2000:])


def _parts(bench: Bench, options: argparse.Namespace) -> Iterator[tuple[str, int, Any]]:
    room = bench.room
    path = f"/_matrix/client/v3/join/{quote(room.room_id)}?server_name={room.servers[0]}"
    yield "join, for each member", options.members, lambda: bench.alice.post(path, {})
    burst = room.make_events(options.events, options.forks)
    yield f"burst, {options.forks} forks", len(burst), lambda: bench.burst(burst)
    streamed = room.make_events(options.streamed, max(1, options.forks // 5))
    sendings = [bench.prepare(pdu) for pdu in streamed]
    origins = list(dict.fromkeys(each.origin for each in sendings))
    sender = bench.sender(options.rate)
    yield "connections", len(origins), lambda: sender.connect(origins)
    yield f"stream, {options.rate:g} a second", len(streamed), lambda: bench.stream(sender, sendings)
    sender.close()
    members = [room.join(room.new_user()) for _ in range(NEW_MEMBERS)]
    yield "members", len(members), lambda: bench.burst(members)


if __name__ == "__main__":
    main()
