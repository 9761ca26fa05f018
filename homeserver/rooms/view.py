"""What a user may see of a room: the door that every reading endpoint goes through."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve, frozen

from homeserver.accounts.ignored_users import NOBODY, IgnoredUsers
from homeserver.folds.events import EventCache
from homeserver.folds.histories import Histories, UserHistory
from homeserver.folds.memberships import Memberships
from homeserver.folds.sticky_events import StickyEvents
from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.state import load_state_at

_NOT_IN_ROOM = "You are not in this room, or it does not exist"


def _nothing_is(_event_id: EventId) -> bool:
    return False


@frozen
class RoomView:
    """A room as one user may see it.

    until: None for those who see the room as it goes on; else the position of the event by which the user left, after
    which they see nothing (their state is that of the moment they left). is_sticky: of events that no history hides.
    """

    head: RoomHead
    history: UserHistory
    until: int | None
    ignored: frozenset[str] = NOBODY
    is_sticky: Callable[[EventId], bool] = _nothing_is

    @property
    def room_id(self) -> RoomId:
        return self.head.room_id


@define(eq=False)
class RoomViews:
    """Makes views, and reads state and single events through them."""

    database: Database
    heads: RoomHeads
    events: EventCache
    histories: Histories
    memberships: Memberships
    ignored: IgnoredUsers
    sticky: StickyEvents
    partial: PartialStates | None = None

    async def load_full(self, room_id: RoomId, user_id: UserId) -> RoomView:
        """As `load`, once all members of the room are known. Raises: Forbidden, StateNotFull."""
        view = await self.load(room_id, user_id)
        if self.partial is not None and await self.partial.wait_full(room_id):
            view = await self.load(room_id, user_id)
        return view

    async def load(self, room_id: RoomId, user_id: UserId) -> RoomView:
        """The view of a user who is or was joined, or of anybody where the room is world-readable.

        Raises: Forbidden, also for a room that is not there, so that nobody can probe for rooms.
        """
        try:
            head = self.heads.get(room_id) or await self.heads.load(room_id)
        except NotFound:
            raise Forbidden(_NOT_IN_ROOM) from None
        history = await self.load_history(room_id, user_id)
        ignored = await self.ignored.load(user_id)
        if head.is_joined(user_id):
            # Spec: MSC4354
            return RoomView(head, history, None, ignored, self.sticky.is_sticky)
        if head.history_visibility == "world_readable":
            return RoomView(head, history, None, ignored)
        left = await self._left_position(room_id, user_id, history)
        if left is None:
            raise Forbidden(_NOT_IN_ROOM)
        return RoomView(head, history, left, ignored)

    async def load_joined(self, room_id: RoomId, user_id: UserId) -> RoomHead:
        """The head, for somebody who is joined; or may be, where not all members are known. Raises: Forbidden."""
        try:
            head = self.heads.get(room_id) or await self.heads.load(room_id)
        except NotFound:
            raise Forbidden(_NOT_IN_ROOM) from None
        if not (head.is_joined(user_id) or (self.partial is not None and self.partial.may_be_joined(head, user_id))):
            raise Forbidden(_NOT_IN_ROOM)
        return head

    async def load_history(self, room_id: RoomId, user_id: UserId) -> UserHistory:
        return self.histories.get((room_id, user_id)) or await self.histories.load(room_id, user_id)

    async def load_event(self, view: RoomView, event_id: EventId) -> StoredEvent:
        """An event that the user may see. Raises: NotFound, also for those that are hidden."""
        event = await self.events.load(event_id, view.room_id, view.head.version)
        if event is None or not is_visible(view, event):
            raise NotFound("Event not found")
        return event

    async def load_target(self, view: RoomView, event_id: EventId) -> StoredEvent:
        """As `load_event`, and what users say whom the reader ignores: others' answers to it are not hidden. Not to be shown."""
        return await self.load_event(evolve(view, ignored=NOBODY), event_id)

    async def load_state(self, view: RoomView, at: int | None = None) -> dict[StateKey, EventId]:
        """The room's state as the user may see it, or as it was at an earlier position."""
        position = view.until if at is None else at if view.until is None else min(at, view.until)
        if position is None:
            return dict(view.head.state)
        return await self.database.read(load_state_at, view.room_id, position)

    async def load_events(self, view: RoomView, ids: list[EventId]) -> list[StoredEvent]:
        """Events of the room, in the order of `ids`, without asking whether the user may see them."""
        room_id = view.room_id
        found = await self.events.load_many(dict.fromkeys(ids, room_id), {room_id: view.head.version})
        return [found[event_id] for event_id in ids if event_id in found]

    async def _left_position(self, room_id: RoomId, user_id: UserId, history: UserHistory) -> int | None:
        """Where a user who was joined once, and has not forgotten the room, left it."""
        if not any(value == "join" for _, value in history.memberships):
            return None
        rooms = self.memberships.get(user_id) or await self.memberships.load(user_id)
        membership = rooms.get(room_id)
        if membership is None or membership.forgotten:
            return None
        last_join = max(at for at, value in history.memberships if value == "join")
        return next((at for at, _ in history.memberships if at > last_join), None)


def is_visible(view: RoomView, event: StoredEvent) -> bool:
    """The event is in the timeline, and the user may see it and does not ignore its sender.

    Spec: client-server-api#ignoring-users
    """
    if event.timeline_order is None or event.rejected is not None or event.soft_failed:
        return False
    if event.pdu.sender in view.ignored and event.pdu.state_key is None:
        return False
    if view.until is not None and event.order > view.until:
        return False
    sees_all = view.history.sees_all and event.sight is None
    return sees_all or view.history.can_see(event) or view.is_sticky(event.event_id)
