"""Restricted joins: whom the members of other rooms may follow in, and who vouches for them.

Spec: client-server-api#restricted-rooms
"""

from __future__ import annotations

from collections.abc import Collection

from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.matrix.state_map import JOIN_RULES
from homeserver.rooms.errors import UnableToGrantJoin
from homeserver.rooms.head import RoomHead


def is_restricted(head: RoomHead) -> bool:
    """The room's join rule has conditions, and its version knows them."""
    rule, version = head.join_rule, head.version
    return (rule == "restricted" and version.restricted_join) or (
        rule == "knock_restricted" and version.knock_restricted
    )


def allowed_rooms(head: RoomHead) -> list[RoomId]:
    """The rooms whose members may join; in the order of the join rules, without what is no such condition."""
    event = head.pinned.get(JOIN_RULES)
    allow = event.pdu.content.get("allow") if event is not None else None
    if not is_restricted(head) or not isinstance(allow, list):
        return []
    conditions = [condition for condition in allow if isinstance(condition, dict)]
    rooms = [x.get("room_id") for x in conditions if x.get("type") == "m.room_membership"]
    return [RoomId(room_id) for room_id in dict.fromkeys(room for room in rooms if isinstance(room, str))]


def needs_authoriser(head: RoomHead, user_id: UserId) -> bool:
    """The user can join only if a member vouches for it: not invited, and not in the room already."""
    return is_restricted(head) and head.membership(user_id) not in ("invite", "join")


def choose_authoriser(head: RoomHead, user_id: UserId, joined_rooms: Collection[RoomId], server: ServerName) -> UserId:
    """The user of this server who vouches for the join.

    joined_rooms: the rooms that the user is in.
    Raises: Forbidden when no condition is met, UnableToGrantJoin when no local user has the power.
    """
    if head.membership(user_id) == "ban":
        raise Forbidden("You are banned from this room")
    if not any(room_id in joined_rooms for room_id in allowed_rooms(head)):
        raise Forbidden("You are not invited, and in none of the rooms whose members may join")
    found = find_authoriser(head, server)
    if found is None:
        raise UnableToGrantJoin("Nobody on this server has the power to let you in")
    return found


def find_authoriser(head: RoomHead, server: ServerName) -> UserId | None:
    """A member of this server with the power to invite: the same one for the same state."""
    levels = head.power_levels
    named = levels.users_with_power(levels.invite)
    able = (user for user in sorted(named, key=lambda user: (-named[user], user)) if domain_of(user) == server)
    chosen = next((UserId(user) for user in able if head.is_joined(UserId(user))), None)
    if chosen is not None or levels.users_default < levels.invite:
        return chosen
    local = (user_id for user_id in head.joined_users() if domain_of(user_id) == server)
    return min((user_id for user_id in local if levels.user(user_id) >= levels.invite), default=None)
