"""Events in memory are what the log made of them."""

from __future__ import annotations

from typing import Any

from homeserver.matrix.ids import EventId, RoomId
from homeserver.store.events import StoredEvent, load_events
from tests.kit.reactor import run_in_reactor


def test_event_that_was_read_before_its_redaction_is_kept_redacted(hearth: Any) -> None:
    alice = hearth.register("alice")
    room_id = RoomId(alice.create_room())
    event_id = EventId(alice.send(room_id, "taken back"))
    core = hearth.running.services.core

    async def read() -> StoredEvent:
        head = await core.heads.load(room_id)
        (event,) = await core.database.read(load_events, [event_id], {room_id: head.version})
        return event

    event = run_in_reactor(read)
    run_in_reactor(core.events.drop, [event_id])
    alice.put("/rooms/{}/redact/{}/1", {}, at=(room_id, event_id))
    assert event.pdu.content["body"] == "taken back"
    run_in_reactor(core.events.put, event)
    assert alice.get("/rooms/{}/event/{}", at=(room_id, event_id))["content"] == {}
