"""What is asked of every member event that another server hands over by itself, before anything else is looked at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from federation.resident.ports import EventChecks
from homeserver.matrix.errors import BadJson, BadSignature, InvalidParam
from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.head import MEMBER


def parse_member_event(
    raw: Mapping[str, Any], version: RoomVersion, room_id: RoomId, event_id: EventId, membership: str
) -> Pdu:
    """Raises: BadJson, InvalidParam, TooLarge.

    Spec: rooms/v6#canonical-json
    """
    try:
        pdu = parse_pdu(dict(raw), version)
    except BadJson as error:
        raise BadJson(f"event: {error.error}") from None
    if pdu.room_id != room_id:
        raise InvalidParam("room_id", "is not that of the path")
    if pdu.event_id != event_id:
        raise InvalidParam("eventId", "is not the id of the event")
    if pdu.type != MEMBER or pdu.state_key is None:
        raise InvalidParam("type", f"must be {MEMBER}, with a state key")
    if pdu.content.get("membership") != membership:
        raise InvalidParam("content.membership", f"must be {membership}")
    return pdu


async def check_signed(checks: EventChecks, pdu: Pdu) -> Pdu:
    """The event, with valid signatures and the content that was hashed. Raises: InvalidParam.

    Spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    try:
        checked = await checks.check(pdu.json, pdu.version, room_id=pdu.room_id)
    except (BadJson, BadSignature) as error:
        raise InvalidParam("event", error.error) from None
    if checked.json_bytes != pdu.json_bytes:
        raise InvalidParam("event", "its content hash is wrong")
    return checked
