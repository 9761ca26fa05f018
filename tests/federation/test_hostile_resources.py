"""What a stranger or a peer can make this server use up: memory, log, connections."""

from __future__ import annotations

import os
import re
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from federation.errors import RemoteUnreachable
from federation.inbound.fetching import MAX_IDS_BYTES
from federation.keys.key_ring import MAX_FETCHES
from homeserver.matrix.pdu import parse_pdu
from homeserver.runtime.logging_setup import tamed
from tests.federation.peer_room import V1, PeerRoom, message, to_json
from tests.federation.quiet import Log, log
from tests.kit.reactor import run_in_reactor

__all__ = ["log"]

MANY = 2_000_000


@pytest.fixture
def room(start_federated: Any, start_peer: Any) -> PeerRoom:
    return PeerRoom.open(start_federated(), start_peer())


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_mib(work: Any) -> float:
    """How much more memory this process holds at most while the work is done."""
    done, seen, before = threading.Event(), [0], resident_bytes()

    def watch() -> None:
        while not done.wait(0.005):
            seen.append(resident_bytes())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return (max(seen) - before) / 2**20


BOMBS = {
    "lists": b"[" + b"[]," * MANY + b"[]]",
    "objects": b"[" + b"{}," * MANY + b"{}]",
    "keys": b'{"pdus":[' + b'{"":0},' * (MANY // 2) + b"{}]}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_body_of_a_stranger_does_not_unfold(start_federated: Any, log: Log, bomb: str) -> None:
    hearth = start_federated()
    header = {"Authorization": 'X-Matrix origin="localhost:1",key="ed25519:x",sig="AAAA"'}

    def send() -> None:
        assert hearth.ask("PUT", f"{V1}/send/1", BOMBS[bomb], header).status_code in (400, 401)

    assert peak_mib(send) < 100
    assert log.faults() == []


def test_events_of_strange_rooms_do_not_fill_the_log(room: PeerRoom, log: Log) -> None:
    pdu = to_json(room.build("m.room.message", message("x"), advance=False))
    strange = ["!" + "x" * 1_000_000 + ":x", "!a\nERROR forged line:x", "!\x1b[2J:x", "no room at all"]
    for room_id in strange:
        log.clear()
        assert room.send({**pdu, "room_id": room_id}).status_code == 200
        assert room.send(edus=[{"edu_type": "m.typing", "content": {"room_id": room_id}}]).status_code == 200
        assert room.send(edus=[{"edu_type": room_id, "content": 5}]).status_code == 200
        assert log.lines()
        written = [tamed(line) for line in log.lines()]
        assert all(len(line) < 1_000 and not re.search(r"\x1b|\n[^ ]", line) for line in written)
    assert log.faults() == []


def test_events_of_silent_servers_hold_up_nobody_who_calls(room: PeerRoom, start_peer: Any) -> None:
    """Their keys can't be had, and that takes long: servers that are new here are let in nevertheless."""
    silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 * MAX_FETCHES)]
    pdu = to_json(room.build("m.room.message", message("x"), advance=False))
    names = [f"localhost:{each.getsockname()[1]}" for each in silent]
    forged = [{**pdu, "sender": f"@x:{name}", "signatures": {name: {"ed25519:x": "AAAA"}}} for name in names]
    sending = threading.Thread(target=room.send, args=forged)
    ring = room.hearth.federation.ring
    try:
        sending.start()
        room.wait_until(lambda: run_in_reactor(lambda: ring._fetching.is_running(names[-1])))
        assert start_peer().get(room.hearth, f"{V1}/publicRooms").status_code == 200
        assert run_in_reactor(lambda: ring._fetching.is_running(names[-1]))
    finally:
        for each in silent:
            each.close()
        sending.join()


def test_rejected_events_are_not_walked_over_without_end(room: PeerRoom, monkeypatch: Any) -> None:
    old = room.build("m.room.message", message("old"))
    strangers = [room.build("m.room.message", message("no"), sender=f"@eve:{room.peer.server_name}") for _ in range(6)]
    newest = room.build("m.room.message", message("new"))
    room.send(old, *strangers, newest)
    room.wait_for_event(newest.event_id)
    assert old.event_id in read_back(room, newest.event_id)
    monkeypatch.setattr("federation.resident.graph.MAX_PASSED_OVER", 3)
    assert read_back(room, newest.event_id) == {newest.event_id}


def read_back(room: PeerRoom, event_id: str) -> set[str]:
    """What the peer gets of the history before an event, whichever way it asks."""
    path = f"{V1}/backfill/{room.room_id}?v={event_id}&limit=10"
    events = room.peer.get(room.hearth, path).json()["pdus"]
    body = {"earliest_events": [], "latest_events": [event_id], "limit": 10}
    between = room.peer.post(room.hearth, f"{V1}/get_missing_events/{room.room_id}", body).json()["events"]
    found = {parse_pdu(json, room.version).event_id for json in events}
    assert found - {event_id} == {parse_pdu(json, room.version).event_id for json in between}
    return found


@pytest.mark.parametrize("part", [b"[],", b"{},", b'"$a",', b'{"":0},'])
def test_answer_does_not_unfold(start_federated: Any, start_peer: Any, part: bytes) -> None:
    """Answers that may be large, such as states."""
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", "/state", b'{"pdu_ids":[' + part * (20_000_000 // len(part)) + b"0]}")
    client = hearth.federation.client

    def ask() -> None:
        with pytest.raises(RemoteUnreachable):
            run_in_reactor(lambda: client.get(peer.server_name, "/state", max_bytes=MAX_IDS_BYTES))

    assert peak_mib(ask) < 120


def test_state_of_many_events_is_no_bomb(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    answer = {"pdu_ids": [f"${number:043}" for number in range(250_000)]}
    peer.answer("GET", "/state", answer)
    client = hearth.federation.client
    got = run_in_reactor(lambda: client.get(peer.server_name, "/state", max_bytes=MAX_IDS_BYTES))
    assert got == answer
