"""Events as clients get them.

Two forms of the same functions: dicts, for answers that are put together piece by piece, and bytes
(client_event_json), which are made once per event and shared by everyone who gets it; what differs by reader
goes into `unsigned` and is spliced in with splice_unsigned.

`redacts` of m.room.redaction is served both at the top level and in `content`, whichever of the two the room
version has, so that old and new clients both find it.

Spec: client-server-api#room-event-format
"""

from __future__ import annotations

from typing import Any

from homeserver.matrix.canonical import encode_json
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.sticky import STICKY, sticky_duration_ms


def client_event(pdu: Pdu, *, with_room_id: bool, unsigned: dict[str, Any] | None = None) -> dict[str, Any]:
    """The event in the client format; without room_id it is what /sync has. `unsigned` is put in if it is not
    empty.

    The dict is new; its `content` is the Pdu's own and must not be changed.

    Spec: client-server-api#room-event-format
    """
    event: dict[str, Any] = {
        "type": pdu.type,
        "content": pdu.content,
        "event_id": pdu.event_id,
        "sender": pdu.sender,
        "origin_server_ts": pdu.origin_server_ts,
    }
    if with_room_id:
        event["room_id"] = pdu.room_id
    if pdu.state_key is not None:
        event["state_key"] = pdu.state_key
    if pdu.redacts is not None:
        event["redacts"] = pdu.redacts
        event["content"] = {**pdu.content, "redacts": pdu.redacts}
    if sticky_duration_ms(pdu) is not None:
        # As it was sent: clients of all servers order events by it.
        event[STICKY] = pdu.json[STICKY]
    if unsigned:
        event["unsigned"] = unsigned
    return event


def client_event_json(pdu: Pdu, *, with_room_id: bool) -> bytes:
    """client_event without `unsigned`, encoded: an object that is never empty.

    Spec: client-server-api#room-event-format
    """
    return encode_json(client_event(pdu, with_room_id=with_room_id))


def splice_unsigned(event_json: bytes, unsigned_json: bytes) -> bytes:
    """The encoded event with `unsigned` added as its last key; event_json must have none and not be `{}`."""
    return b'%b,"unsigned":%b}' % (event_json[:-1], unsigned_json)


def federation_event(pdu: Pdu, *, unsigned: dict[str, Any] | None = None) -> dict[str, Any]:
    """The event as a filter with `event_format: federation` asks for it: as servers exchange it, plus its id.

    Clients cannot do without event_id and room_id, so both are there in every room version.

    Spec: client-server-api#filtering
    """
    event = pdu.json
    event["event_id"] = pdu.event_id
    event["room_id"] = pdu.room_id
    if unsigned:
        event["unsigned"] = unsigned
    return event


def stripped_state(pdu: Pdu) -> dict[str, Any]:
    """The state event as people who are not in the room see it. The dict's `content` is the Pdu's own.

    Spec: client-server-api#stripped-state
    """
    return {"type": pdu.type, "state_key": pdu.state_key, "sender": pdu.sender, "content": pdu.content}
