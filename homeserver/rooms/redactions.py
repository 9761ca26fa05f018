"""Which redactions take effect.

Spec: rooms/v3#handling-redactions
"""

from __future__ import annotations

from homeserver.matrix.ids import EventId, domain_of
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.head import RoomHead
from homeserver.store.events import StoredEvent


def redacted_target(head: RoomHead, redaction: Pdu, target: StoredEvent | None) -> EventId | None:
    """The event that the redaction redacts, or None if it has not the power to (or there is no such event here).

    From room version 3 on the auth rules let every redaction pass, and this decides.
    """
    if target is None or target.pdu.room_id != redaction.room_id or target.rejected is not None:
        return None
    if head.version.redaction_auth_rule or may_redact(head, redaction.sender, target.pdu):
        return target.event_id
    return None


def may_redact(head: RoomHead, sender: str, target: Pdu) -> bool:
    """The sender has the redact power, or is of the server that sent the event."""
    return head.power_levels.user(sender) >= head.power_levels.redact or domain_of(sender) == domain_of(target.sender)
