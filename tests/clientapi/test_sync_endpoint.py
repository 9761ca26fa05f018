"""GET /sync over HTTP, where its parameters pass through authentication."""

from __future__ import annotations

from typing import Any


def test_the_first_sync_after_a_restart_goes_on_from_its_token(hearth: Any) -> None:
    """The token is not in memory then, so the request waits for the database before its query is read."""
    bob = hearth.register("bob")
    room = bob.create_room()
    since = bob.sync()["next_batch"]
    bob.send(room, "while away")
    hearth.restart()
    bob.base_url = hearth.url
    answer = bob.sync(since=since)
    assert [event["content"] for event in answer["rooms"]["join"][room]["timeline"]["events"]] == [
        {"msgtype": "m.text", "body": "while away"}
    ]
    hearth.restart()
    bob.base_url = hearth.url
    error = bob.get("/sync", query={"since": "garbage"}, expect=400)
    assert error["errcode"] == "M_INVALID_PARAM"
