"""In room versions 1 and 2 servers choose the ids of their events, and may choose one twice."""

from __future__ import annotations

from typing import Any

from homeserver.matrix.ids import EventId
from tests.federation.peer_room import PeerRoom, message
from tests.federation.quiet import Log, log

__all__ = ["log"]


def test_event_id_of_another_room_is_taken_once(start_federated: Any, start_peer: Any, log: Log) -> None:
    hearth, peer = start_federated(), start_peer()
    first, second = PeerRoom.open(hearth, peer, "1"), PeerRoom.open(hearth, peer, "2")
    same: dict[str, Any] = {"event_id": EventId(f"$same:{peer.server_name}")}
    first.send(first.build("m.room.message", message("here"), **same))
    first.wait_for_event(same["event_id"])
    hearth.restart()
    second.alice.base_url = first.alice.base_url = hearth.url
    second.send(second.build("m.room.message", message("and there"), advance=False, **same))
    second.wait_until_idle()
    assert log.faults() == []
    assert first.wait_for_event(same["event_id"])["content"]["body"] == "here"
    after = second.build("m.room.message", message("after"))
    second.send(after)
    second.wait_for_event(after.event_id)
