"""What joining needs of its neighbours: the checks of federation/inbound, and the rooms' ingest."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence
from typing import Any, Protocol

from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion


class EventChecks(Protocol):
    """federation/inbound/pdu_checks.py"""

    def check(self, raw: object, version: RoomVersion, /, *, room_id: RoomId | None = None) -> Awaitable[Pdu]:
        """Format, signatures, content hash. Raises: MatrixError."""
        ...

    def check_many(
        self, raws: Iterable[object], version: RoomVersion, /, *, room_id: RoomId | None = None, source: str = ...
    ) -> Awaitable[list[Pdu]]:
        """The valid ones, in order. Raises nothing."""
        ...


class RoomIntake(Protocol):
    """homeserver/rooms/ingest.py"""

    def start_room(
        self,
        version: RoomVersion,
        event: Pdu,
        state: Sequence[Pdu],
        auth_chain: Sequence[Pdu],
        /,
        *,
        partial_from: Sequence[ServerName] = (),
    ) -> Awaitable[Any]:
        """This server's entry into a room: the state before `event`, and the event as the first of the timeline."""
        ...

    def receive(self, pdu: Pdu, /) -> Awaitable[Any]:
        """An event whose prev_events are all here."""
        ...


class GapFiller(Protocol):
    """federation/inbound/receive_pdu.py"""

    def receive_after_gap(self, pdu: Pdu, origin: ServerName, /) -> Awaitable[Any]:
        """An event, and what is missing before it."""
        ...


class OutsideRooms(Protocol):
    """homeserver/rooms/outside_rooms.py: invites and knocks of local users in rooms that this server is not in."""

    def store(
        self, event: Pdu, room_state: Sequence[dict[str, Any]], servers: Sequence[ServerName], /
    ) -> Awaitable[Any]:
        """The user's newest membership of the room."""
        ...

    def load_servers(self, user_id: UserId, room_id: RoomId, /) -> Awaitable[Sequence[ServerName]]:
        """Servers that are likely in the room."""
        ...

    def load_event(self, user_id: UserId, room_id: RoomId, /) -> Awaitable[Pdu]:
        """The user's newest member event. Raises: NotFound."""
        ...
