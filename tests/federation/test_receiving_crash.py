"""kill -9 while events of another server wait: what that server was told to be accepted is there afterwards."""

from __future__ import annotations

from typing import Any

from tests.federation.peer_room import V1, PeerRoom, message
from tests.kit.federation import Answer, FederatedServer
from tests.kit.servers import SubprocessServer


class SameServer(SubprocessServer):
    """A stopped FederatedServer's data and federation port, in a process of its own."""

    def __init__(self, stopped: FederatedServer) -> None:
        self._port = stopped.port
        self.config_file = stopped._config_file
        self.folder = self.config_file.parent
        self.log_file = self.folder / "server.log"
        self._process = None
        self.start()


def test_accepted_events_survive_a_crash(start_federated: Any, start_peer: Any) -> None:
    room = PeerRoom.open(start_federated(), start_peer())
    room.peer.answer("POST", f"{V1}/get_missing_events/", Answer({}, delay_s=60))
    room.build("m.room.message", message("lost"))
    pdus = [room.build("m.room.message", message(str(number))) for number in range(5)]
    forged = room.build("m.room.message", message("forged"), advance=False)
    bad = forged.json
    bad["signatures"] = {room.peer.server_name: {room.peer.key.key_id: "A" * 86}}
    room.hearth.stop()
    process = SameServer(room.hearth)
    answer = room.send(bad, *pdus).json()["pdus"]
    assert answer.keys() == {forged.event_id, *(pdu.event_id for pdu in pdus)}
    assert [answer[pdu.event_id] for pdu in pdus] == [{}] * 5
    process.kill()
    room.peer.answer("POST", f"{V1}/get_missing_events/", {"events": []})
    room.serve_state(list(room.state.values()))
    room.hearth.start()
    room.alice.base_url = room.hearth.url
    for pdu in pdus:
        room.wait_for_event(pdu.event_id)
    assert room.send(*pdus).json() == {"pdus": {pdu.event_id: {} for pdu in pdus}}
    room.wait_until_idle()
    seen = [each["event_id"] for each in room.alice.messages(room.room_id, limit=100)["chunk"]]
    assert sorted(seen.count(pdu.event_id) for pdu in pdus) == [1] * 5
    assert forged.event_id not in seen
