"""How long it takes to resolve two forks of a room of 10,000 members with 500 events in conflict.

    python -m tests.perf.bench_state_res [--members 10000] [--conflicts 500]

Both sides change the same keys: bans and other state in turn, and now and then the power levels. So the auth
difference is not empty, and the members in no conflict must be asked too. Prints CPU time, one line per room version.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Collection

from homeserver.matrix.auth_graph import AuthGraph
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.state_res import resolve
from homeserver.matrix.versions import ROOM_VERSIONS, RoomVersion
from tests.matrix.event_factory import ALICE, Room

State = dict[StateKey, EventId]


def build_forks(version: RoomVersion, members: int, conflicts: int) -> tuple[Room, State, State]:
    room = Room(version).opened()
    # The factory copies the state at each event; here that would be 10,000 copies of a growing map.
    joined: State = {}
    for number in range(members):
        user_id = f"@user{number}:s{number % 300}.org"
        event = room.member(user_id, user_id, "join", f"join-{number}", state=room.state)
        joined[event.key] = event.event_id
    trunk = {**room.state, **joined}
    return room, fork(room, trunk, "left", conflicts), fork(room, trunk, "right", conflicts)


def fork(room: Room, trunk: State, side: str, conflicts: int) -> State:
    room.state = trunk
    changes: State = {}
    for number in range(conflicts // 2):
        if number % 50 == 0:
            room.levels(f"levels-{side}-{number}", ALICE, {ALICE: 100, f"@{side}{number}:x.org": 1})
        user_id = f"@user{number}:s{number % 300}.org"
        if number % 2:
            event = room.member(ALICE, user_id, "ban", f"ban-{side}-{number}", state=room.state)
        else:
            event = room.send(f"s-{side}-{number}", "org.thing", ALICE, {}, str(number), state=room.state)
        changes[event.key] = event.event_id
    return {**room.state, **changes}


def measure(version: RoomVersion, members: int, conflicts: int) -> str:
    room, left, right = build_forks(version, members, conflicts)
    asked = 0

    def load(event_ids: Collection[EventId]) -> dict[EventId, Pdu]:
        nonlocal asked
        asked += len(event_ids)
        return room.load(event_ids)

    graph = AuthGraph(lambda ids: {event_id: room.events[event_id].auth_events for event_id in ids})
    timings = []
    for kept in (None, graph, graph):
        asked = 0
        start = time.process_time()
        resolve(version, [left, right], load, room_id=room.room_id, graph=kept)
        timings.append(f"{(time.process_time() - start) * 1000:7.1f} ms, {asked:6} events loaded")
    names = ("cold", "edges from elsewhere", "edges in memory")
    return "  ".join(f"{name}: {timing};" for name, timing in zip(names, timings, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--conflicts", type=int, default=500)
    options = parser.parse_args()
    for version in ROOM_VERSIONS.values():
        print(f"room version {version.identifier:>2}  {measure(version, options.members, options.conflicts)}")


if __name__ == "__main__":
    main()
