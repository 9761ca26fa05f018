"""Finding users by id, or by the name that a room knows them by, as far as a searcher may know of them.

Each joined membership has words: the user's id and its display name, folded. So a search reads the memberships of the searcher's
rooms, and no events but those of whom it finds. A membership gets its words a little after it was written, whoever wrote it
(index_members): remote members come by the thousand when a room is joined.

Rejected: words of users in place of memberships, which would show to everybody a name that somebody has in one private room; an
index of the words by room, which costs 150 bytes for each member and made a search of 50,000 no faster.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from attrs import frozen
from sqlalchemy import BindParameter, Connection, and_, bindparam, select, text

from homeserver.matrix.canonical import decode_json
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.store.events import chunked
from homeserver.store.profiles import load_profiles
from homeserver.store.tables.accounts import users
from homeserver.store.tables.rooms import current_state as s
from homeserver.store.tables.rooms import events as e
from homeserver.store.tables.rooms import memberships as m
from homeserver.store.tables.rooms import rooms as r

BATCH: Final = 500
# What is behind that in a name is not looked at.
MAX_NAME_CHARS: Final = 200
MAX_WORDS: Final = 16


@frozen
class FoundUser:
    user_id: UserId
    display_name: str | None
    avatar_url: str | None


# -- what members are found by -------------------------------------------------------------------------------------------

# In the text of the statement, so that it is seen that an index of these only will do.
_JOIN: BindParameter[str] = bindparam("join", "join", literal_execute=True)
_WORDLESS = select(m.c.user_id, m.c.room_id, m.c.event_id).where(m.c.membership == _JOIN, m.c.words.is_(None))
# What is being written, by whomever, is passed over: who waits for nothing is part of no deadlock.
_NEXT = _WORDLESS.limit(BATCH).with_for_update(skip_locked=True)
_SAVE_WORDS = text(
    "UPDATE memberships SET words = :words WHERE user_id = :user_id AND room_id = :room_id AND event_id = :event_id"
)
_MEMBER_EVENTS = select(e.c.event_id, e.c.json, e.c.redacted_by).where(
    e.c.event_id.in_(bindparam("ids", expanding=True))
)


def has_wordless(conn: Connection) -> bool:
    """Some members are yet to get their words."""
    return conn.execute(_WORDLESS.limit(1)).first() is not None


def index_members(conn: Connection) -> int:
    """Give words to members who have none yet; how many did."""
    rows = conn.execute(_NEXT).all()
    if not rows:
        return 0
    contents = _load_contents(conn, [row.event_id for row in rows])
    conn.execute(
        _SAVE_WORDS,
        [{**row._asdict(), "words": _words(row.user_id, contents.get(row.event_id, {}))} for row in rows],
    )
    return len(rows)


def _words(user_id: str, content: dict[str, Any]) -> str:
    name = _text(content, "displayname") or ""
    return f"{user_id} {name[:MAX_NAME_CHARS]}".casefold().replace("\0", "")[: 255 + MAX_NAME_CHARS]


def _load_contents(conn: Connection, ids: Sequence[EventId]) -> dict[EventId, dict[str, Any]]:
    """Of member events; of redacted ones nothing that would be shown."""
    return {
        row[0]: decode_json(bytes(row[1]))["content"] if row[2] is None else {}
        for chunk in chunked(ids)
        for row in conn.execute(_MEMBER_EVENTS, {"ids": chunk})
    }


def _text(content: dict[str, Any], name: str) -> str | None:
    value = content.get(name)
    # Half a character, which JSON can hold and UTF-8 can't, becomes a question mark.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) and value else None


# -- the rooms whose members everybody may know of ----------------------------------------------------------------------

# What opens a room, by the type of the state event: a field of its content, and the value.
OPENING: Final = {
    "m.room.join_rules": ("join_rule", "public"),
    "m.room.history_visibility": ("history_visibility", "world_readable"),
}
_STATE = (
    select(r.c.room_id, e.c.type, e.c.json)
    .select_from(r.join(s, s.c.room_id == r.c.room_id))
    .join(e, and_(e.c.room_id == s.c.room_id, e.c.event_id == s.c.event_id))
    .where(s.c.type.in_(OPENING), s.c.state_key == "")
)
# Of a room that nobody of this server is in any more, it is not known who else is.
_OF_US = select(m.c.user_id).join(users, users.c.user_id == m.c.user_id).where(m.c.membership == "join")


def load_open_rooms(conn: Connection, among: Collection[RoomId] | None = None) -> set[RoomId]:
    """The rooms (all, or among some) with a local user in them that everybody may join or read.

    Spec: client-server-api#post_matrixclientv3user_directorysearch
    """
    statement = _STATE.where(_OF_US.where(m.c.room_id == r.c.room_id).exists())
    chunks = [None] if among is None else chunked(among)
    found = set()
    for chunk in chunks:
        for room_id, type_, encoded in conn.execute(
            statement if chunk is None else statement.where(r.c.room_id.in_(chunk))
        ):
            field, value = OPENING[type_]
            if decode_json(bytes(encoded))["content"].get(field) == value:
                found.add(room_id)
    return found


# -- searching -----------------------------------------------------------------------------------------------------------

# Whom a searcher may know of: who shares a room with them, and who is in a room that everybody may find, join or read.
_SEARCH = """
    WITH seen AS (
        SELECT room_id FROM memberships WHERE user_id = :searcher AND membership = 'join'
        UNION
        SELECT room_id FROM rooms WHERE is_public
        UNION
        SELECT {open}
    )
    , found AS (
        SELECT m.user_id, MIN(m.room_id) AS room_id, MIN({rank}) AS place
        FROM seen JOIN memberships m ON m.room_id = seen.room_id
        WHERE m.membership = 'join' AND m.words IS NOT NULL AND m.user_id <> :searcher {conditions}
        AND NOT EXISTS (SELECT 1 FROM users u WHERE u.user_id = m.user_id AND u.is_deactivated)
        GROUP BY m.user_id
        ORDER BY place, m.user_id
        LIMIT :limit
    )
    SELECT found.user_id, m.event_id
    FROM found JOIN memberships m ON m.user_id = found.user_id AND m.room_id = found.room_id
"""
_OPEN = {
    "sqlite": "value FROM json_each(:open)",
    "postgresql": "json_array_elements_text(CAST(:open AS json))",
}
_BEGINS = "CASE WHEN m.words LIKE :id ESCAPE '\\' OR m.words LIKE :name ESCAPE '\\' THEN 0 ELSE 1 END"


def load_matching_users(
    conn: Connection, searcher: UserId, words: list[str], limit: int, open_rooms: str = "[]"
) -> list[FoundUser]:
    """Users in whose id or name every word occurs, at most `limit` + 1; words are casefolded. open_rooms: a JSON list.

    Users whose name or localpart begins with the first word come first.
    """
    words = [word for word in words if "\0" not in word][:MAX_WORDS]
    like = {f"w{n}": f"%{_escaped(word)}%" for n, word in enumerate(words)}
    conditions = "".join(f" AND m.words LIKE :{name} ESCAPE '\\'" for name in like)
    first = _escaped(words[0]) if words else ""
    statement = text(_SEARCH.format(rank=_BEGINS, conditions=conditions, open=_OPEN[conn.dialect.name]))
    # One whose name was redacted since is found, and left out then.
    values = {"searcher": searcher, "id": f"@{first}%", "name": f"% {first}%", "limit": 2 * limit + 10, **like}
    rows = conn.execute(statement, {**values, "open": open_rooms}).all()
    found = [user for user in _load_found(conn, [(row[0], row[1]) for row in rows]) if _matches(user, words)]
    found.sort(key=lambda user: _rank(user, words))
    return found[: limit + 1]


def _load_found(conn: Connection, rows: Sequence[tuple[UserId, EventId]]) -> list[FoundUser]:
    """Local users with their profile, others as a room knows them that the searcher knows, too."""
    local = conn.scalars(select(users.c.user_id).where(users.c.user_id.in_([user_id for user_id, _ in rows]))).all()
    profiles = load_profiles(conn, local)
    contents = _load_contents(conn, [event_id for user_id, event_id in rows if user_id not in local])
    found = []
    for user_id, event_id in rows:
        shown = profiles.get(user_id, {}) if user_id in local else contents.get(event_id, {})
        found.append(FoundUser(user_id, _text(shown, "displayname"), _text(shown, "avatar_url")))
    return found


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _matches(user: FoundUser, words: Sequence[str]) -> bool:
    names = f"{user.user_id} {user.display_name or ''}".casefold()
    return all(word in names for word in words)


def _rank(user: FoundUser, words: Sequence[str]) -> tuple[bool, bool, str]:
    first = words[0] if words else ""
    begins = user.user_id[1:].casefold().startswith(first) or (user.display_name or "").casefold().startswith(first)
    return not begins, user.display_name is None, user.user_id
