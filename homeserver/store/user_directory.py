"""Finding users: local ones by name or id, others by id, as far as a searcher may know of them."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import frozen
from sqlalchemy import Connection, text

from homeserver.matrix.ids import UserId


@frozen
class FoundUser:
    user_id: UserId
    display_name: str | None
    avatar_url: str | None


# Whom a searcher may know of: who shares a room with them, and who is in a room that everybody may find.
_SEARCH = text(
    """
    WITH visible AS (
        SELECT m.user_id FROM memberships m
        JOIN memberships mine ON mine.room_id = m.room_id AND mine.user_id = :searcher AND mine.membership = 'join'
        WHERE m.membership = 'join'
        UNION
        SELECT m.user_id FROM rooms r JOIN memberships m ON m.room_id = r.room_id
        WHERE r.is_public AND m.membership = 'join'
    )
    SELECT v.user_id, name.value AS display_name, avatar.value AS avatar_url
    FROM visible v
    LEFT JOIN profiles name ON name.user_id = v.user_id AND name.field = 'displayname'
    LEFT JOIN profiles avatar ON avatar.user_id = v.user_id AND avatar.field = 'avatar_url'
    LEFT JOIN users u ON u.user_id = v.user_id
    WHERE v.user_id <> :searcher AND (u.user_id IS NULL OR NOT u.is_deactivated)
    ORDER BY v.user_id
    LIMIT :scanned
    """
)
MAX_SCANNED = 50_000


def load_matching_users(conn: Connection, searcher: UserId, words: list[str], limit: int) -> list[FoundUser]:
    """Users in whose id or name every word occurs, at most `limit` + 1; words are casefolded.

    Users whose name or localpart begins with the first word come first.
    """
    found = []
    for row in conn.execute(_SEARCH, {"searcher": searcher, "scanned": MAX_SCANNED}):
        user = FoundUser(row.user_id, _string(row.display_name), _string(row.avatar_url))
        names = f"{user.user_id} {user.display_name or ''}".casefold()
        if all(word in names for word in words):
            found.append(user)
    found.sort(key=lambda user: _rank(user, words))
    return found[: limit + 1]


def _rank(user: FoundUser, words: list[str]) -> tuple[bool, bool, str]:
    first = words[0] if words else ""
    begins = user.user_id[1:].casefold().startswith(first) or (user.display_name or "").casefold().startswith(first)
    return not begins, user.display_name is None, user.user_id


def _string(value: Any) -> str | None:
    decoded = orjson.loads(value) if value is not None else None
    return decoded if isinstance(decoded, str) else None
