"""What sync needs from others; homeserver.main plugs it together."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from attrs import define, field

from homeserver.folds.memberships import UserRooms
from homeserver.matrix.filters import Filter
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.unread import Counts
from homeserver.store.events import StoredEvent
from homeserver.sync.request import SyncRequest

if TYPE_CHECKING:
    from homeserver.sync.view import View


class UnreadCounts(Protocol):
    """Implemented by rooms/unread.py. Kept true by the log: after the rows of a position, the counts are of
    that.
    """

    def get_counts(self, user_id: UserId, room_id: RoomId, /) -> Counts | None:
        """The counts if memory has them."""
        ...

    def load_counts(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Awaitable[Mapping[RoomId, Counts]]: ...


class TypingSource(Protocol):
    """Implemented by rooms/typing.py."""

    @property
    def serial(self) -> int:
        """Of the newest change of ephemeral data (typing, presence). Grows over restarts, too."""
        ...

    def typing(self, room_id: RoomId, /) -> tuple[int, Collection[UserId]]:
        """The serial of the room's newest change, and who types now."""
        ...

    def rooms_changed_since(self, serial: int, /) -> Collection[RoomId]: ...


class PushRulesSource(Protocol):
    """Implemented by push."""

    def get_content(self, user_id: UserId, /) -> bytes | None:
        """As load_content, if memory has it."""
        ...

    def load_content(self, user_id: UserId, /) -> Awaitable[bytes]:
        """The content of m.push_rules as JSON, with the predefined rules, after the newest log row of the
        user.
        """
        ...


class BundleSource(Protocol):
    """Implemented by rooms/relations.py."""

    def load_bundles(
        self,
        events: Collection[StoredEvent],
        versions: Mapping[RoomId, RoomVersion],
        reader: UserId,
        now_ms: int,
        /,
    ) -> Awaitable[Mapping[EventId, bytes]]:
        """For each of the events that has any, the JSON of what is bundled with it."""
        ...


class FilterSource(Protocol):
    """Implemented by accounts/filters.py."""

    def get(self, user_id: UserId, filter_id: str, /) -> Filter | None:
        """The stored filter if memory has it."""
        ...

    def load(self, user_id: UserId, filter_id: str, /) -> Awaitable[Filter]:
        """Raises: NotFound."""
        ...


@define
class Parts:
    """Top-level members of a response, each as `"key":value`. `quiet` ones go along, but are no reason to answer.

    to_device: how far messages to the device are told, where that is not yet all of them.
    """

    news: list[bytes] = field(factory=list)
    quiet: list[bytes] = field(factory=list)
    to_device: int | None = None


# Of an extension that has nothing to tell. Nobody adds to it.
NO_PARTS: Final = Parts()


class SyncExtension(Protocol):
    """Adds top-level members to responses: presence, messages to devices, device lists."""

    def acknowledge(self, request: SyncRequest, /) -> Awaitable[None] | None:
        """The client has everything up to the request's token. None when nothing is to be done about that."""
        ...

    def get_parts(self, view: View, request: SyncRequest, rooms: UserRooms, /) -> Parts | None:
        """What is new behind the request's token, at the view's moment; None where the view notes needs."""
        ...

    def get_quiet(self, request: SyncRequest, /) -> Sequence[bytes] | None:
        """What goes along also with a response that says nothing; None where it is not in memory."""
        ...
