"""Errors that are the peer's fault, one class per reason that a caller may tell apart.

    MatrixError                     errcode, HTTP status, text safe to show
      NotJson, BadJson              the body is not JSON / not of the right shape
      MissingParam, InvalidParam    a named field is absent / has a wrong value
      Unrecognized, NotFound, TooLarge, Conflict…
      Forbidden
        AuthRejected                an event fails the room version's authorisation rules
        BadSignature                a signature that has to be there is missing or wrong
      MissingToken, UnknownToken    401
      LimitExceeded                 429

Everything that is not a MatrixError is our own bug and is answered 500 M_UNKNOWN.

What is told of an error quotes the request, which may be long: the text is shortened where the error is made, so that neither
answers nor logs carry the request back.

Spec: client-server-api#standard-error-response
"""

from __future__ import annotations

from typing import Any, Final

MAX_TEXT_LENGTH: Final = 300
_SHOWN_OF_END: Final = 100


def shorten(text: str) -> str:
    """The text, without its middle if it is long: what is wrong is told at the end, after what is quoted."""
    if len(text) <= MAX_TEXT_LENGTH:
        return text
    return f"{text[: MAX_TEXT_LENGTH - _SHOWN_OF_END - 1]}…{text[-_SHOWN_OF_END:]}"


class MatrixError(Exception):
    """An error that may be shown to the peer as it is. Its text is shortened."""

    status = 400
    errcode = "M_UNKNOWN"

    def __init__(self, error: str, *, errcode: str | None = None, status: int | None = None, **extra: Any) -> None:
        self.error = shorten(error)
        super().__init__(self.error)
        self.extra = extra
        if errcode is not None:
            self.errcode = errcode
        if status is not None:
            self.status = status

    def to_json(self) -> dict[str, Any]:
        return {"errcode": self.errcode, "error": self.error, **self.extra}


class NotJson(MatrixError):
    errcode = "M_NOT_JSON"


class BadJson(MatrixError):
    errcode = "M_BAD_JSON"


class MissingParam(MatrixError):
    """A required field is absent."""

    errcode = "M_MISSING_PARAM"

    def __init__(self, field: str, error: str | None = None) -> None:
        super().__init__(error or f"Missing parameter: {field}")
        self.field = field


class InvalidParam(MatrixError):
    """A field has a value that is not allowed."""

    errcode = "M_INVALID_PARAM"

    def __init__(self, field: str, error: str | None = None) -> None:
        super().__init__(f"{field}: {error}" if error else f"Invalid parameter: {field}")
        self.field = field


class Unrecognized(MatrixError):
    status = 404
    errcode = "M_UNRECOGNIZED"


class NotFound(MatrixError):
    status = 404
    errcode = "M_NOT_FOUND"


class TooLarge(MatrixError):
    status = 413
    errcode = "M_TOO_LARGE"


class Conflict(MatrixError):
    """Something of that name exists already (the errcode is given by the caller)."""

    status = 409


class Forbidden(MatrixError):
    status = 403
    errcode = "M_FORBIDDEN"


class AuthRejected(Forbidden):
    """An event fails the authorisation rules of its room version."""


class BadSignature(Forbidden):
    """A signature that has to be there is missing or wrong."""


class MissingToken(MatrixError):
    status = 401
    errcode = "M_MISSING_TOKEN"

    def __init__(self, error: str = "Missing access token") -> None:
        super().__init__(error)


class UnknownToken(MatrixError):
    status = 401
    errcode = "M_UNKNOWN_TOKEN"

    def __init__(self, error: str = "Unrecognised access token", *, soft_logout: bool = False) -> None:
        super().__init__(error, soft_logout=soft_logout)


class LimitExceeded(MatrixError):
    """Too many requests; the answer also carries Retry-After in whole seconds."""

    status = 429
    errcode = "M_LIMIT_EXCEEDED"

    def __init__(self, retry_after_ms: int, error: str = "Too many requests") -> None:
        super().__init__(error, retry_after_ms=retry_after_ms)
        self.retry_after_ms = retry_after_ms


class UnsupportedRoomVersion(MatrixError):
    errcode = "M_UNSUPPORTED_ROOM_VERSION"
