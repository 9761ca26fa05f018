"""What accounts need from packages above them."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol

from homeserver.matrix.ids import UserId


class ProfilePropagation(Protocol):
    """Implemented by rooms: brings a new display name or avatar into the user's member events."""

    def propagate(self, user_id: UserId, field: str, value: Any, /) -> Awaitable[None]:
        """`value` is None when the field was removed."""
        ...


class RoomDeparture(Protocol):
    """Implemented by rooms: takes a deactivated user out of everything."""

    def leave_all_rooms(self, user_id: UserId, /) -> Awaitable[None]:
        """Leave every room, refuse every invite, take back every knock. Doing it again does no harm."""
        ...


class RemoteProfiles(Protocol):
    """Implemented by federation: profiles of users of other servers."""

    def fetch_profile(self, user_id: UserId, /) -> Awaitable[dict[str, Any]]: ...


class ExclusiveNamespaces(Protocol):
    """Implemented by appservices: user ids that nobody else may register."""

    def is_exclusive(self, user_id: UserId, /) -> bool: ...


class Limiter(Protocol):
    """The rate limiter, as far as passwords need it."""

    def check(self, kind: str, key: str, cost: float = 1.0, /) -> None:
        """Raises: LimitExceeded. A negative cost gives back."""
        ...
