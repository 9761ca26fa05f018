"""Who makes a request."""

from __future__ import annotations

from attrs import frozen

from homeserver.accounts.errors import UserSuspended
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import DeviceId, UserId


@frozen
class Requester:
    """An authenticated user with what the token and the account say about them."""

    user_id: UserId
    device_id: DeviceId | None = None
    is_guest: bool = False
    is_admin: bool = False
    is_locked: bool = False
    is_suspended: bool = False
    access_token_id: int | None = None
    appservice_id: str | None = None
    expires_ts_ms: int | None = None

    @property
    def rate_limit_key(self) -> str:
        return self.user_id

    def check_is(self, user_id: str) -> None:
        """Raises: Forbidden, unless the request is about the requester."""
        if user_id != self.user_id:
            raise Forbidden("You may only do this for yourself.")

    def check_not_suspended(self) -> None:
        """Raises: UserSuspended. For what suspended users may not do.

        Spec: client-server-api#account-suspension
        """
        if self.is_suspended:
            raise UserSuspended
