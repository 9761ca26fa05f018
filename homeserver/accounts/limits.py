"""Bounds on what clients may name things, and the check for text that goes into the database."""

from __future__ import annotations

from homeserver.matrix.errors import InvalidParam

MAX_DEVICE_NAME_BYTES = 512
MAX_TYPE_BYTES = 255
MAX_TAG_BYTES = 255
MAX_PASSWORD_BYTES = 512


def check_text(field: str, value: str, max_bytes: int) -> None:
    """Raises: InvalidParam for text too long, or which PostgreSQL can't hold (NUL, lone surrogates)."""
    if "\0" in value:
        raise InvalidParam(field, "must not contain NUL")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidParam(field, "is not valid Unicode") from None
    if size > max_bytes:
        raise InvalidParam(field, f"must be at most {max_bytes} bytes")


def shorten(value: str, max_bytes: int) -> str:
    """Cut to at most max_bytes of UTF-8, between characters; NUL is dropped."""
    return value.replace("\0", "").encode(errors="ignore")[:max_bytes].decode(errors="ignore")
