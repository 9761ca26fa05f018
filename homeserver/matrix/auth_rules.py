"""The authorisation rules of room versions 1 to 12, as one set of rules with the versions' differences
named in place.

Numbers above the lines are those of version 12; "(v1: 4)" gives the number in version 1 where a rule is
gone since. What the versions change are flags of RoomVersion, never a comparison of version numbers. Rules
about membership are in auth_membership.

Two questions are asked apart. `check_auth_events` looks at the events that an event itself names; it gives
the same answer for ever. `check_auth` looks at a state (that of the named events, the one before the event,
the current one).

Spec: rooms/v12#authorisation-rules
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from homeserver.matrix.auth_membership import check_membership, membership_of
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import domain_of, is_user_id
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.power_levels import (
    DEFAULT_LEVELS,
    PowerLevels,
    creators_of,
    parse_level,
    power_levels,
)
from homeserver.matrix.state_map import CREATE, POWER_LEVELS, StateKey, member_key
from homeserver.matrix.versions import ROOM_VERSIONS, RoomVersion

_LEVEL_NAMES: Final = tuple(DEFAULT_LEVELS)


def check_auth(event: Pdu, auth_state: Mapping[StateKey, Pdu]) -> None:
    """Whether the event is allowed in a room that has this state.

    `auth_state` needs the entries of `auth_types_for` and, in every version, the create event; what it has
    beyond does no harm. The signature of the server of `join_authorised_via_users_server` (rule 5.2) is
    checked with all other signatures on receipt.

    Raises: AuthRejected, with a sentence that says which demand was not met.
    Spec: rooms/v12#authorisation-rules
    """
    # 1. The create event has rules of its own.
    if event.type == "m.room.create":
        _check_create(event)
        return
    create = auth_state.get(CREATE)
    if create is None:
        raise AuthRejected("The room has no create event")
    version = event.version
    # 2. (since v12) The room id must be the id of an accepted create event. The caller looked it up by the
    # id.
    if version.room_id_is_create_hash and event.room_id[1:] != create.event_id[1:]:
        raise AuthRejected("The room id does not name the create event")
    # 4. A room that does not federate takes events from the creator's server only.
    if create.content.get("m.federate") is False and domain_of(event.sender) != domain_of(create.sender):
        raise AuthRejected("The room does not federate")
    # (v1: 4, until v5) Aliases belong to servers, not to members.
    if version.aliases_auth_rule and event.type == "m.room.aliases":
        _check_aliases(event)
        return
    levels = power_levels(version, create, auth_state.get(POWER_LEVELS))
    # 5. Membership has rules of its own.
    if event.type == "m.room.member":
        check_membership(event, auth_state, create, levels)
        return
    # 6. Everybody else must be in the room.
    if membership_of(auth_state.get(member_key(event.sender))) != "join":
        raise AuthRejected(f"{event.sender} is not in the room")
    _check_as_member(event, auth_state, create, levels)


def _check_as_member(event: Pdu, auth_state: Mapping[StateKey, Pdu], create: Pdu, levels: PowerLevels) -> None:
    """Rules 7 to 11, for a sender who is in the room."""
    power = levels.user(event.sender)
    # 7. A third-party invitation needs the invite level, and nothing else.
    if event.type == "m.room.third_party_invite":
        if power < levels.invite:
            raise AuthRejected(f"{event.sender} may not invite: needs {levels.invite}, has {power}")
        return
    # 8. The type's required level.
    required = levels.event(event.type, event.is_state)
    if power < required:
        raise AuthRejected(f"{event.sender} may not send {event.type}: needs {required}, has {power}")
    # 9. State keys that look like a user belong to that user.
    if event.is_state and event.key[1].startswith("@") and event.key[1] != event.sender:
        raise AuthRejected(f"The state key {event.key[1]} belongs to another user")
    # 10. Power levels.
    if event.type == "m.room.power_levels":
        _check_power_levels(event, auth_state.get(POWER_LEVELS), create, power)
    # (v1: 11, until v2) Redactions.
    elif event.version.redaction_auth_rule and event.type == "m.room.redaction":
        _check_redaction(event, power, levels)
    # 11. Otherwise, allow.


def check_auth_events(event: Pdu, auth_events: Iterable[Pdu], rejected: Collection[str] = ()) -> None:
    """Whether the event names the right auth events: `auth_events` are those events, `rejected` the ids of
    the rejected ones.

    The caller has seen to it that none of them is missing.

    Raises: AuthRejected.
    Spec: rooms/v12#authorisation-rules
    """
    # 1. decides about create events before this rule is reached.
    if event.type == "m.room.create":
        return
    version = event.version
    expected = set(auth_types_for(version, event.type, event.sender, event.state_key, event.content))
    seen: set[StateKey] = set()
    for auth_event in auth_events:
        key = (auth_event.type, auth_event.state_key) if auth_event.state_key is not None else None
        # 3.1 No two entries for one type and state key.
        if key in seen:
            raise AuthRejected(f"auth_events has two entries for {key}")
        # 3.2 No entries but those that the selection algorithm picks; since v12 that excludes the create
        # event.
        if key is None or key not in expected:
            raise AuthRejected(f"auth_events has an entry that is not wanted there: {auth_event.type}")
        # 3.3 No rejected entries.
        if auth_event.event_id in rejected:
            raise AuthRejected(f"auth_events names the rejected event {auth_event.event_id}")
        # 3.5 (since MSC4307 in all versions) All entries are of this room.
        if auth_event.room_id != event.room_id:
            raise AuthRejected(f"auth_events names {auth_event.event_id}, which is of another room")
        seen.add(key)
    # (v1: 2.4, until v11) The create event must be there.
    if version.create_in_auth_events and CREATE not in seen:
        raise AuthRejected("auth_events does not name the create event")


def _check_create(event: Pdu) -> None:
    version = event.version
    # 1.1 It is the first event of the room.
    if event.prev_events:
        raise AuthRejected("A create event has no prev_events")
    if version.room_id_is_create_hash:
        # 1.2 (since v12) The room id follows from the event id, so it can't be inside.
        if "room_id" in event.json:
            raise AuthRejected("A create event has no room_id in this room version")
    # 1.2 (until v11) The room is made by the server whose name its id carries.
    elif domain_of(event.room_id) != domain_of(event.sender):
        raise AuthRejected("The room id is not of the sender's server")
    # 1.3 The version, if one is given, is one that we know.
    if "room_version" in event.content and not _is_known_version(event.content["room_version"]):
        raise AuthRejected("The room version is not known")
    # (v1: 1.4, until v10) It names the creator.
    if not version.creator_is_sender and "creator" not in event.content:
        raise AuthRejected("The create event names no creator")
    # 1.4 (since v12) Additional creators are a list of user ids.
    if version.additional_creators and "additional_creators" in event.content:
        _check_additional_creators(event.content["additional_creators"])
    # 1.5 Otherwise, allow.


def _is_known_version(value: object) -> bool:
    return isinstance(value, str) and value in ROOM_VERSIONS


def _check_additional_creators(value: object) -> None:
    if not isinstance(value, list):
        raise AuthRejected("additional_creators is not a list")
    for user_id in value:
        if not is_user_id(user_id):
            raise AuthRejected("additional_creators has an entry that is not a user id")


def _check_aliases(event: Pdu) -> None:
    # (v1: 4.1) It is a state event.
    if event.state_key is None:
        raise AuthRejected("An m.room.aliases event has a state key")
    # (v1: 4.2) Its state key is the sender's server.
    if domain_of(event.sender) != event.state_key:
        raise AuthRejected("The aliases are not of the sender's server")
    # (v1: 4.3) Otherwise, allow.


def _check_redaction(event: Pdu, power: int, levels: PowerLevels) -> None:
    # (v1: 11.1) Whoever has the redact level may redact anything.
    if power >= levels.redact:
        return
    # (v1: 11.2) Otherwise the event must come from the server that sends the redaction.
    domain = domain_of(event.event_id)
    if domain and event.redacts is not None and domain_of(event.redacts) == domain:
        return
    # (v1: 11.3)
    raise AuthRejected(f"{event.sender} may not redact: needs {levels.redact}, has {power}")


def _check_power_levels(event: Pdu, current: Pdu | None, create: Pdu, power: int) -> None:
    """Rule 10; `power` is the sender's level as it is now."""
    version, content = event.version, event.content
    _check_power_levels_format(content, version)
    # 10.4 (since v12) Creators have their power already.
    if version.creators_have_infinite_power and not creators_of(create).isdisjoint(content.get("users", ())):
        raise AuthRejected("The power levels give a level to a creator of the room")
    # 10.5 The first power levels of a room may be any.
    if current is None:
        return
    # 10.6 Levels on their own.
    _check_changes(version, current.content, content, _LEVEL_NAMES, power)
    # 10.7, 10.8 Levels by type of event and (since v6) of notification.
    for table in ("events", "notifications") if version.notifications_power_levels_checked else ("events",):
        old, new = _table(current.content, table), _table(content, table)
        _check_changes(version, old, new, old.keys() | new.keys(), power)
    # 10.9, 10.10 Levels of users.
    _check_user_changes(version, _table(current.content, "users"), _table(content, "users"), event.sender, power)
    # 10.11 Otherwise, allow.


def _check_power_levels_format(content: Mapping[str, Any], version: RoomVersion) -> None:
    if version.integer_power_levels:
        # 10.1 (since v10) Single levels are integers.
        for name in _LEVEL_NAMES:
            if name in content and type(content[name]) is not int:
                raise AuthRejected(f"The power level {name} is not an integer")
        # 10.2 (since v10) The tables are objects with integers.
        for table in ("events", "notifications"):
            if table in content:
                _check_table(content[table], table, version)
    # 10.3 The users are an object that maps user ids to levels.
    if "users" in content:
        _check_table(content["users"], "users", version)
        for user_id in content["users"]:
            if not is_user_id(user_id):
                raise AuthRejected(f"The power levels have a user that is none: {user_id!r}")


def _check_table(value: object, name: str, version: RoomVersion) -> None:
    if not isinstance(value, dict):
        raise AuthRejected(f"The power levels' {name} is not an object")
    for key, level in value.items():
        if parse_level(level, version) is None:
            raise AuthRejected(f"The power level of {key!r} in {name} is not an integer")


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """One of the objects in the content; before v10 it may be anything, and what is no object is empty."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def _check_changes(
    version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str], power: int
) -> None:
    """Rules 10.6 to 10.8: whoever alters a level has at least the old one and the new one."""
    for name in names:
        before, after = _altered(version, old, new, name)
        if before is None and after is None:
            continue
        # 10.6.1, 10.7.1 The current value is not above the sender.
        if before is not None and before > power:
            raise AuthRejected(f"May not alter the level of {name!r} from {before}: has {power}")
        # 10.6.2, 10.8.1 Nor is the new one.
        if after is not None and after > power:
            raise AuthRejected(f"May not alter the level of {name!r} to {after}: has {power}")


def _check_user_changes(
    version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], sender: str, power: int
) -> None:
    """Rules 10.9, 10.10: nobody is lifted above the sender, nobody at the sender's level is touched."""
    if old == new:
        return
    for user_id in old.keys() | new.keys():
        before, after = _altered(version, old, new, user_id)
        # 10.9.1 Equals can't demote each other; everyone may demote themselves.
        if before is not None and before >= power and user_id != sender:
            raise AuthRejected(f"May not alter the level of {user_id} from {before}: has {power}")
        # 10.10.1 Nobody gives more than they have.
        if after is not None and after > power:
            raise AuthRejected(f"May not alter the level of {user_id} to {after}: has {power}")


def _altered(
    version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], name: str
) -> tuple[int | None, int | None]:
    """The level before and after, None for "not there"; (None, None) if it is not altered.

    Before version 10 a level that can't be read may stand in a room's first power levels. To keep it is no
    alteration, to bring in one is refused.
    """
    old_value, new_value = old.get(name), new.get(name)
    before = parse_level(old_value, version)
    after = parse_level(new_value, version)
    if after is None and new_value is not None and new_value != old_value:
        raise AuthRejected(f"The power level of {name!r} is not a number")
    return (None, None) if before == after else (before, after)
