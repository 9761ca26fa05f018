"""What serving other servers needs of its neighbours."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Protocol

from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion


class EventChecks(Protocol):
    """federation/inbound/pdu_checks.py"""

    def check(self, raw: object, version: RoomVersion, /, *, room_id: RoomId | None = None) -> Awaitable[Pdu]:
        """Format, signatures, content hash: the event, redacted where its hash is wrong. Raises: MatrixError."""
        ...


class RoomIntake(Protocol):
    """homeserver/rooms/ingest.py"""

    def receive(self, pdu: Pdu, /) -> Awaitable[Any]:
        """An event whose prev events are all here. Raises: MissingEvents."""
        ...


class OutOfBand(Protocol):
    """Memberships in rooms that this server is not in (homeserver/rooms/ingest.py)."""

    def receive_invite(self, invite: Pdu, room_state: Sequence[dict[str, Any]], /) -> Awaitable[Any]:
        """An invite of a local user, and the room's stripped state."""
        ...


class Relay(Protocol):
    """federation/outbound/events.py"""

    def relay(self, room_id: RoomId, event_id: EventId, origin: ServerName, /) -> Awaitable[None]:
        """Have another server's event, which came in by us, passed on to the servers of the room but the origin."""
        ...


class Inviter(Protocol):
    """homeserver/rooms/ports.py RemoteServers"""

    def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any], /) -> Awaitable[EventId]:
        """Invite a user of another server."""
        ...

    def exchange_invite(
        self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any], /
    ) -> Awaitable[None]:
        """Have the sender's server invite a local user."""
        ...
