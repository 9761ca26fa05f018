"""What rooms need from packages above or beside them, and what stands there while a server does not federate."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from enum import Enum
from typing import Any, Protocol

from attrs import frozen

from homeserver.matrix.errors import Forbidden, NotFound
from homeserver.matrix.ids import EventId, RoomAlias, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.store.history_gaps import HistoryGap


@frozen
class ResolvedAlias:
    """The room of an alias, and servers through which it can be joined."""

    room_id: RoomId
    servers: Sequence[ServerName]


@frozen
class RemoteRoom:
    """A room that nobody here is in, as another server describes it.

    entry: its summary; join_rule, world_readable and allowed_room_ids say who may see it. children: the stripped
    m.space.child events of a space, with origin_server_ts.
    """

    entry: dict[str, Any]
    children: Sequence[dict[str, Any]] = ()


class ProfileReader(Protocol):
    """Implemented by accounts."""

    def load_profile(self, user_id: UserId, /) -> Awaitable[Mapping[str, Any]]:
        """The profile; displayname and avatar_url are strings where they are there. Raises: NotFound."""
        ...


class EventReviewer(Protocol):
    """Implemented by federation: what has a say in which events are sent, where the room wants it (its policy server)."""

    def review(self, pdu: Pdu, /) -> Awaitable[Pdu]:
        """The event with the signatures that it needs beside ours. Raises: MatrixError, if it is not to be sent; never for a
        user who leaves and says nothing else (member_content.BARE_LEAVE)."""
        ...


class Filled(Enum):
    """What came of filling a gap in the history."""

    NEW = "new"  # there are new events before it now
    NOTHING = "nothing"  # nobody who was asked has any, or may tell us
    UNREACHED = "unreached"  # nobody could be asked: later there may be more


class OlderHistory(Protocol):
    """Implemented by federation: history that this server lacks, from others that have it. It raises nothing."""

    def fill(self, gap: HistoryGap, limit: int, /) -> Awaitable[Filled]:
        """Get events from before a place where some are missing. Takes some seconds at most."""
        ...

    def fetch_nearest(
        self, room_id: RoomId, ts_ms: int, known: tuple[EventId, int] | None, /, *, forwards: bool
    ) -> Awaitable[None]:
        """Fill in history as far as to the event nearest to a time; known: the nearest one here, and its time."""
        ...

    def fetch_event(self, room_id: RoomId, event_id: EventId, /) -> Awaitable[None]:
        """Fill in history as far as to an event that is not here, if others have it. Takes some seconds at most."""
        ...


class NoOlderHistory:
    """OlderHistory where nobody can be asked."""

    async def fill(self, gap: HistoryGap, limit: int, /) -> Filled:
        return Filled.NOTHING

    async def fetch_nearest(
        self, room_id: RoomId, ts_ms: int, known: tuple[EventId, int] | None, /, *, forwards: bool
    ) -> None:
        return None

    async def fetch_event(self, room_id: RoomId, event_id: EventId, /) -> None:
        return None


class RemoteServers(Protocol):
    """Implemented by federation: what takes another server's help.

    The membership methods return when the resulting event is stored here and known to all followers of the log.
    """

    def check_allowed(self, server: ServerName, /) -> None:
        """Raises: Forbidden, when this server does not talk to that one."""
        ...

    def fetch_alias(self, alias: RoomAlias, /) -> Awaitable[ResolvedAlias]:
        """Raises: NotFound."""
        ...

    def fetch_public_rooms(self, server: ServerName, query: Mapping[str, Any], /) -> Awaitable[dict[str, Any]]:
        """One page of another server's published rooms; `query` is the body of POST /publicRooms."""
        ...

    def fetch_room(self, room_id: RoomId, via: Sequence[ServerName], /) -> Awaitable[RemoteRoom]:
        """What a room is in which no local user is; who may see it, the caller asks. Raises: NotFound."""
        ...

    def join(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> Awaitable[EventId]:
        """Join through a resident server; `content` is the member event's. Raises: NotFound, Forbidden."""
        ...

    def knock(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> Awaitable[EventId]: ...

    def leave(self, room_id: RoomId, user_id: UserId, content: dict[str, Any], /) -> Awaitable[EventId]:
        """Refuse an invite, or take back a knock, where this server is not in the room. Raises: NotFound."""
        ...

    def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any], /) -> Awaitable[EventId]:
        """Invite a user of another server, which signs the event before it enters the room."""
        ...

    def exchange_invite(
        self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any], /
    ) -> Awaitable[None]:
        """Have the server of `sender`, who invited an address, invite the local user who proves with `signed` to have it.

        Raises: Forbidden, NotFound.
        """
        ...


class NoFederation:
    """RemoteServers of a server that talks to no other."""

    def check_allowed(self, server: ServerName, /) -> None:
        raise Forbidden(f"This server does not federate, so {server} is out of reach")

    async def fetch_alias(self, alias: RoomAlias, /) -> ResolvedAlias:
        raise NotFound(f"Room alias {alias} not found: this server does not federate")

    async def fetch_public_rooms(self, server: ServerName, query: Mapping[str, Any], /) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {server} is out of reach")

    async def fetch_room(self, room_id: RoomId, via: Sequence[ServerName], /) -> RemoteRoom:
        raise NotFound("Room not found")

    async def join(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        raise NotFound("This server does not know that room, and does not federate")

    async def knock(
        self, room_id: RoomId, user_id: UserId, content: dict[str, Any], via: Sequence[ServerName], /
    ) -> EventId:
        raise NotFound("This server does not know that room, and does not federate")

    async def leave(self, room_id: RoomId, user_id: UserId, content: dict[str, Any], /) -> EventId:
        raise NotFound("This server does not know that room")

    async def invite(self, room_id: RoomId, sender: UserId, target: UserId, content: dict[str, Any], /) -> EventId:
        raise Forbidden(f"This server does not federate, so {target} is out of reach")

    async def exchange_invite(
        self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any], /
    ) -> None:
        raise Forbidden(f"This server does not federate, so {sender} is out of reach")
