"""A room's summary: what clients make its name from when it has none.

Spec: client-server-api#get_matrixclientv3sync_response-200_roomsummary
"""

from __future__ import annotations

from heapq import nsmallest

import orjson

from homeserver.matrix.ids import UserId
from homeserver.rooms.head import RoomHead

MAX_HEROES = 5
_NAMES = (("m.room.name", ""), ("m.room.canonical_alias", ""))


def get_heroes(head: RoomHead, user_id: UserId) -> list[UserId] | None:
    """The members to name the room by; None if the room has a name or an alias.

    SPEC: in the order of their ids, not of their arrival: which needs no events to be read.
    """
    if any(key in head.state for key in _NAMES):
        return None
    here = [user for user, membership in head.members.items() if membership in ("join", "invite") and user != user_id]
    if not here:
        here = [user for user, membership in head.members.items() if membership in ("leave", "ban") and user != user_id]
    return nsmallest(MAX_HEROES, here)


def encode_summary(head: RoomHead, heroes: list[UserId] | None) -> bytes:
    """As the member that follows others in a room's object."""
    counts = b'"m.invited_member_count":%d,"m.joined_member_count":%d' % (head.invited, head.joined)
    if heroes is not None:
        counts = b'%b,"m.heroes":%b' % (counts, orjson.dumps(heroes))
    return b',"summary":{%b}' % counts
