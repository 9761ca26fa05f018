"""A room's summary: what clients make its name from when it has none.

A room has no name where it never got one, and where it has one no longer: the state event is still there then, but holds
nothing. So the event has to be looked at; the state that a response tells has it mostly, so it is in memory already.

Spec: client-server-api#get_matrixclientv3sync_response-200_roomsummary
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Final

import orjson

from homeserver.matrix.ids import UserId
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import RoomHead
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.sync.view import View

MAX_HEROES = 5
NAME: Final[StateKey] = ("m.room.name", "")
ALIAS: Final[StateKey] = ("m.room.canonical_alias", "")
AVATAR: Final[StateKey] = ("m.room.avatar", "")
# Where in its content each has what it is for.
_PARTS: Final[Mapping[StateKey, str]] = {NAME: "name", ALIAS: "alias", AVATAR: "url"}


def get_text(view: View, head: RoomHead, key: StateKey) -> str | None:
    """The room's name, alias or avatar; None where it has none (any more), or the view notes an event that is missing.

    Spec: client-server-api#mroomname
    """
    event_id = head.state.get(key)
    event = view.get_event(event_id, head) if event_id is not None else None
    return text_of(event) if event is not None else None


def text_of(event: StoredEvent) -> str | None:
    """What a name, an alias or an avatar holds."""
    value = event.pdu.content.get(_PARTS[event.pdu.key])
    return value if isinstance(value, str) and value else None


def get_heroes(view: View, head: RoomHead, user_id: UserId) -> list[UserId] | None:
    """The members to name the room by; None if the room has a name or an alias, or the view notes a missing event."""
    missing = view.missing_events
    is_named = any(get_text(view, head, key) is not None for key in (NAME, ALIAS))
    return None if is_named or view.missing_events != missing else pick_heroes(head, user_id)


def pick_heroes(head: RoomHead, user_id: UserId) -> list[UserId]:
    """Of those who are there or invited, else of those who went.

    SPEC: in the order of their ids, not of their arrival: which needs no events to be read.
    """
    here = [user for user, membership in head.members.items() if membership in ("join", "invite") and user != user_id]
    if not here:
        here = [user for user, membership in head.members.items() if membership in ("leave", "ban") and user != user_id]
    return nsmallest(MAX_HEROES, here)


def redacted_keys(rows: Sequence[LogRow], after: int, head: RoomHead) -> set[StateKey]:
    """Of name, alias and avatar those whose event was redacted behind `after`: they are gone without a change of the state."""
    redactions = [row.event.pdu for row in rows if row.position > after and row.event is not None]
    targets = {pdu.redacts for pdu in redactions if pdu.type == "m.room.redaction" and pdu.redacts is not None}
    return {key for key in _PARTS if head.state.get(key) in targets} if targets else set()


def encode_summary(head: RoomHead, heroes: list[UserId] | None) -> bytes:
    """As the member that follows others in a room's object."""
    counts = b'"m.invited_member_count":%d,"m.joined_member_count":%d' % (head.invited, head.joined)
    if heroes is not None:
        counts = b'%b,"m.heroes":%b' % (counts, orjson.dumps(heroes))
    return b',"summary":{%b}' % counts
