"""Users' push rules, and what judging events by them needs of a room."""

from __future__ import annotations

from collections.abc import Collection

import orjson
from attrs import frozen
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.power_levels import PowerLevels, power_levels
from homeserver.matrix.push_rules import RuleSet
from homeserver.matrix.state_map import CREATE, POWER_LEVELS
from homeserver.matrix.versions import RoomVersion, room_version
from homeserver.store.events import EVENT_COLUMNS, StoredEvent, chunked, load_events, stored_events
from homeserver.store.tables.log import log
from homeserver.store.tables.push import push_rules as p
from homeserver.store.tables.rooms import current_state, rooms
from homeserver.store.tables.rooms import events as e
from homeserver.store.upsert import upsert

# How many rows of the log one read of notifications looks at.
LOG_PAGE = 2_000


@frozen
class RoomFacts:
    """What conditions ask about a room, as of now."""

    version: RoomVersion
    joined_members: int
    levels: PowerLevels


_OF_USERS = select(p.c.user_id, p.c.rules).where(p.c.user_id.in_(bindparam("users", expanding=True)))
_ROOMS = select(rooms.c.room_id, rooms.c.version, rooms.c.joined_members).where(
    rooms.c.room_id.in_(bindparam("ids", expanding=True))
)
_STATE = select(current_state.c.room_id, current_state.c.type, current_state.c.event_id).where(
    current_state.c.room_id.in_(bindparam("ids", expanding=True)),
    current_state.c.type.in_((CREATE[0], POWER_LEVELS[0])),
    current_state.c.state_key == "",
)
_UPSERT = upsert(p)


def load_rule_sets(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, RuleSet]:
    """Of those of the users who have changed something."""
    return {
        row[0]: RuleSet.from_stored(orjson.loads(row[1]))
        for chunk in chunked(user_ids)
        for row in conn.execute(_OF_USERS, {"users": list(chunk)})
    }


def save_rule_set(conn: Connection, user_id: UserId, rules: bytes) -> None:
    conn.execute(_UPSERT, {"user_id": user_id, "rules": rules})


def load_room_facts(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, RoomFacts]:
    known: dict[RoomId, tuple[RoomVersion, int]] = {}
    state: dict[RoomId, dict[str, EventId]] = {}
    for chunk in chunked(room_ids):
        known |= {row[0]: (room_version(row[1]), row[2]) for row in conn.execute(_ROOMS, {"ids": list(chunk)})}
        for room_id, type_, event_id in conn.execute(_STATE, {"ids": list(chunk)}):
            state.setdefault(room_id, {})[type_] = event_id
    wanted = [event_id for by_type in state.values() for event_id in by_type.values()]
    versions = {room_id: version for room_id, (version, _) in known.items()}
    events = {event.event_id: event.pdu for event in load_events(conn, wanted, versions)}
    found = {}
    for room_id, (version, joined) in known.items():
        create, levels = (events.get(state[room_id].get(key[0], EventId(""))) for key in (CREATE, POWER_LEVELS))
        if create is not None:
            found[room_id] = RoomFacts(version, joined, power_levels(version, create, levels))
    return found


def load_recent_events(
    conn: Connection, facts: dict[RoomId, RoomFacts], before: int, reader: UserId
) -> tuple[list[StoredEvent], int]:
    """Others' live events in the rooms among the LOG_PAGE rows of the log before a position, newest first.

    And the position before which to go on; 0 at the beginning of the log.
    """
    floor = max(0, before - LOG_PAGE)
    by_version: dict[RoomVersion, list[RoomId]] = {}
    for room_id, room in facts.items():
        by_version.setdefault(room.version, []).append(room_id)
    found: list[StoredEvent] = []
    for version, room_ids in by_version.items():
        for chunk in chunked(room_ids):
            statement = (
                select(*EVENT_COLUMNS)
                .select_from(log.join(e, (e.c.room_id == log.c.key) & (e.c.nid == log.c.position)))
                .where(log.c.position < before, log.c.position >= floor, log.c.kind == "event", log.c.key.in_(chunk))
                .where(e.c.timeline_order == log.c.position, e.c.rejected.is_(None), e.c.soft_failed.is_(False))
                .where(e.c.sender != reader, e.c.redacted_by.is_(None))
            )
            found += stored_events(conn.execute(statement), version)
    return sorted(found, key=lambda event: -event.order), floor
