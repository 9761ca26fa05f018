"""Account errors that a client may tell apart."""

from __future__ import annotations

from homeserver.matrix.errors import Forbidden, MatrixError


class UserInUse(MatrixError):
    errcode = "M_USER_IN_USE"

    def __init__(self) -> None:
        super().__init__("Desired user ID is already taken.")


class ExclusiveUsername(MatrixError):
    errcode = "M_EXCLUSIVE"

    def __init__(self) -> None:
        super().__init__("This user ID is reserved by an application service.")


class WeakPassword(MatrixError):
    errcode = "M_WEAK_PASSWORD"


class BadCredentials(Forbidden):
    """A login failed; the same text whether or not the user exists."""

    def __init__(self, error: str = "Invalid username or password") -> None:
        super().__init__(error)


class UserLocked(MatrixError):
    """Spec: client-server-api#account-locking"""

    status = 401
    errcode = "M_USER_LOCKED"

    def __init__(self) -> None:
        super().__init__("This account has been locked", soft_logout=True)


class UserSuspended(Forbidden):
    """Spec: client-server-api#account-suspension"""

    errcode = "M_USER_SUSPENDED"

    def __init__(self) -> None:
        super().__init__("You cannot perform this action while suspended.")


class ProfileTooLarge(MatrixError):
    errcode = "M_PROFILE_TOO_LARGE"

    def __init__(self) -> None:
        super().__init__("The profile would be larger than 64 KiB")


class KeyTooLarge(MatrixError):
    errcode = "M_KEY_TOO_LARGE"

    def __init__(self) -> None:
        super().__init__("Profile field names are at most 255 bytes")
