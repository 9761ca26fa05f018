"""Whose devices changed, and whose came to matter or ceased to, for each user who syncs.

A client that syncs regularly is answered from the rows kept here; one that was away, from the database.

Spec: client-server-api#tracking-the-device-list-for-a-user
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from attrs import define, field

from homeserver.e2ee.cross_signing import SIGNATURES
from homeserver.e2ee.uploads import DEVICE_LIST
from homeserver.folds.memberships import UserRooms
from homeserver.matrix.ids import RoomId, UserId
from homeserver.rooms.head import MEMBER, membership_of
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.shared_devices import ListChanges, load_list_changes
from homeserver.sync.view import Lookup, View

ENCRYPTION = ("m.room.encryption", "")
EVENT = "event"
MAX_ROWS = 20_000
_GONE = frozenset({"leave", "ban"})
_COUNTED = frozenset({"join", "invite"})  # clients encrypt to those who are invited, too
_NO_CHANGES = ListChanges(frozenset(), frozenset(), 0)


def is_list_change(row: LogRow) -> bool:
    """The row changed what others see of the devices or keys of the user it is keyed by."""
    if row.kind == DEVICE_LIST:
        return bool(row.data["device_ids"] or row.data.get("signing_keys"))
    return row.kind == "device" and bool(row.data.get("deleted") or row.data.get("renamed"))


@define(eq=False)
class DeviceLists:
    """Follows the log; keeps the rows that concern device lists, all those behind `_floor`."""

    database: Database
    _floor: int
    _rows: deque[LogRow] = field(factory=deque, init=False)

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            is_kept = row.membership is not None or row.is_state_alone or row.kind == SIGNATURES or is_list_change(row)
            if is_kept or _begins_encryption(row):
                self._rows.append(row)
        while len(self._rows) > MAX_ROWS:
            self._floor = self._rows.popleft().position

    async def load_changes(self, user_id: UserId, after: int, upto: int) -> ListChanges:
        """Between two positions; what happened behind `upto` may be among it."""
        if after >= upto:
            return _NO_CHANGES
        return await self.database.read(load_list_changes, user_id, after)

    def get_changes(self, view: View, rooms: UserRooms, after: int) -> ListChanges | None:
        """What happened in (after, now]; None where the view notes needs."""
        if after >= self._floor:
            if not self._rows or self._rows[-1].position <= after:
                return _NO_CHANGES
            return self._from_memory(view, rooms, after, _NO_CHANGES)
        user_id = view.user_id
        lookup = Lookup("device_lists", user_id, (after,), lambda: self.load_changes(user_id, after, view.now))
        loaded: ListChanges | None = view.get_value(lookup)
        if loaded is None or loaded.position < self._floor:
            return None
        return self._from_memory(view, rooms, loaded.position, loaded)

    def _from_memory(self, view: View, rooms: UserRooms, after: int, before: ListChanges) -> ListChanges | None:
        met: set[UserId] = set()  # who is in a room with the user now, and was not, or not in an encrypted one
        changed: set[UserId] = set()
        gone: set[UserId] = set()
        signed: set[UserId] = set()
        for row in self._rows_after(after):
            if _begins_encryption(row):
                _add_encrypted(view, rooms, row, met)
            if row.membership is not None:
                _add_membership(view, rooms, row, met, gone)
            elif row.is_state_alone:
                _add_members(view, rooms, row, met, gone)
            elif row.kind == EVENT:
                continue
            elif row.kind != SIGNATURES:
                changed.add(UserId(row.key))
            elif row.key == view.user_id:
                signed.update(row.data["user_ids"])
        sharing = met | self._sharing(view, rooms, (changed | gone | before.left) - met)
        if not view.is_complete:
            return None
        told = before.changed | met | (changed & sharing) | signed
        left = (gone | before.left) - sharing - {view.user_id}
        return ListChanges(frozenset(told - left), frozenset(left), view.now)

    def _rows_after(self, after: int) -> Iterable[LogRow]:
        for row in reversed(self._rows):
            if row.position <= after:
                return
            yield row

    def _sharing(self, view: View, rooms: UserRooms, users: set[UserId]) -> set[UserId]:
        """Those of the users who are in a room of the view's user, or invited to one; that user, too."""
        found = set()
        for user_id in users:
            if user_id == view.user_id:
                found.add(user_id)
                continue
            theirs = view.get_rooms_of(user_id)
            if theirs is not None and _share(rooms, theirs):
                found.add(user_id)
        return found


def _share(rooms: UserRooms, theirs: UserRooms) -> bool:
    return any(
        (own := rooms.get(room_id)) is not None
        and own.membership == "join"
        and (other := theirs.get(room_id)) is not None
        and other.membership in _COUNTED
        for room_id in min(rooms, theirs, key=len)
    )


def _add_membership(view: View, rooms: UserRooms, row: LogRow, met: set[UserId], gone: set[UserId]) -> None:
    change = row.membership
    assert change is not None
    room_id = RoomId(row.key)
    own = rooms.get(room_id)
    if own is None:
        return
    if change.user_id == view.user_id:
        if change.membership == "join" and own.membership == "join" and not _was_joined(view, row):
            users = _members(view, room_id)
            met.update(users if len(users) > 1 else ())  # with the user, whose other devices have to know, too
        elif change.membership in _GONE and own.membership != "join":
            gone.update(_members(view, room_id))
    elif own.membership == "join":
        if change.membership in _GONE:
            gone.add(change.user_id)
        elif change.membership in _COUNTED and not _was_joined(view, row) and _counts(view, room_id, change.user_id):
            met.add(change.user_id)


def _add_members(view: View, rooms: UserRooms, row: LogRow, met: set[UserId], gone: set[UserId]) -> None:
    """All that became known at once, with the state of a room."""
    room_id = RoomId(row.key)
    own, head = rooms.get(room_id), view.get_head(room_id)
    if own is None or own.membership != "join" or head is None:
        return
    users = {UserId(delta.key[1]) for delta in row.deltas if delta.key[0] == MEMBER} - {view.user_id}
    counted = {user_id for user_id in users if head.membership(user_id) in _COUNTED}
    gone.update(users - counted)
    met.update(counted)


def _begins_encryption(row: LogRow) -> bool:
    return any(delta.key == ENCRYPTION and delta.prev_event_id is None for delta in row.deltas)


def _add_encrypted(view: View, rooms: UserRooms, row: LogRow, met: set[UserId]) -> None:
    """Who is in a room that is encrypted from then on."""
    room_id = RoomId(row.key)
    own = rooms.get(room_id)
    if own is not None and own.membership == "join":
        met.update(user_id for user_id in _members(view, room_id) if user_id != view.user_id)


def _members(view: View, room_id: RoomId) -> Sequence[UserId]:
    head = view.get_head(room_id)
    return [user_id for user_id, was in head.members.items() if was in _COUNTED] if head is not None else ()


def _counts(view: View, room_id: RoomId, user_id: UserId) -> bool:
    head = view.get_head(room_id)
    return head is not None and head.membership(user_id) in _COUNTED


def _was_joined(view: View, row: LogRow) -> bool:
    """The user was joined before the row, as far as memory knows: a changed name makes nobody new."""
    change = row.membership
    assert change is not None
    for delta in row.deltas:
        if delta.key == (MEMBER, change.user_id) and delta.prev_event_id is not None:
            previous = view.sources.events.get(delta.prev_event_id)
            return previous is not None and membership_of(previous.pdu) == "join"
    return False
