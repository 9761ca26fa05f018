"""The rooms of each user, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import immutables
from attrs import evolve
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import RoomId, UserId
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.memberships import MembershipRow, load_memberships

FORGOTTEN = "forgotten"
MEMBER = "m.room.member"

# An immutable map: whoever took it keeps a consistent view while the log goes on.
UserRooms = immutables.Map[RoomId, MembershipRow]


class Memberships:
    """Fold: user -> room -> newest membership.

    Log rows: those with a membership, and "forgotten" (key: the user, data {"room_id"}). Where a room's state changed in more
    than that (a room was entered, or came to be known in full), the users whom it concerns are loaded anew.
    """

    def __init__(self, database: Database, max_users: int) -> None:
        self._fold: Fold[UserId, UserRooms] = Fold(
            database, load=_load, keys_of=_users_of, apply=_apply, max_entries=max_users
        )
        self.on_rows = self._fold.on_rows
        self.get = self._fold.get
        self.load = self._fold.load
        self.load_many = self._fold.load_many

    def drop_room(self, room_id: RoomId) -> None:
        """Nobody has a membership of it any more."""
        self._fold.drop_where(lambda user_id: room_id in (self._fold.peek(user_id) or ()))


def _load(conn: Connection, users: Sequence[UserId]) -> dict[UserId, UserRooms]:
    return {user_id: immutables.Map(found) for user_id, found in load_memberships(conn, users).items()}


def _users_of(row: LogRow) -> Iterable[UserId]:
    if row.kind == FORGOTTEN:
        return (UserId(row.key),)
    users = () if row.membership is None else (row.membership.user_id,)
    if len(row.deltas) <= len(users):
        return users
    return {*users, *(UserId(delta.key[1]) for delta in row.deltas if delta.key[0] == MEMBER)}


def _apply(user_id: UserId, known: UserRooms, row: LogRow) -> UserRooms | None:
    if row.kind == FORGOTTEN:
        room_id = row.data["room_id"]
        was = known.get(room_id)
        return known.set(room_id, evolve(was, forgotten=True)) if was is not None else known
    change = row.membership
    if change is None or change.user_id != user_id:
        return None
    room_id = RoomId(row.key)
    before = known.get(room_id)
    forgotten = before is not None and before.forgotten and change.membership in ("leave", "ban")
    return known.set(
        room_id,
        MembershipRow(user_id, room_id, change.membership, change.event_id, change.sender, row.position, forgotten),
    )
