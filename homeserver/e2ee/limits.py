"""Bounds of what clients may send, and the checks of shapes that several uploads share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import InvalidParam, TooLarge

MAX_DEVICE_KEYS_BYTES: Final = 65_536
MAX_KEY_BYTES: Final = 4_096
MAX_KEYS_PER_UPLOAD: Final = 1_000
MAX_ONE_TIME_KEYS: Final = 10_000  # of one device, unclaimed
MAX_NAME_BYTES: Final = 255
MAX_QUERIED_USERS: Final = 10_000
MAX_QUERIED_DEVICES: Final = 50_000  # by name, of all users together
MAX_CLAIMS: Final = 10_000
MAX_SIGNATURES: Final = 5_000
MAX_RECIPIENTS: Final = 100_000
MAX_MESSAGE_BYTES: Final = 65_536
MAX_AUTH_DATA_BYTES: Final = 65_536
MAX_SESSION_DATA_BYTES: Final = 65_536


def check_object(value: object, field: str) -> dict[str, Any]:
    """Raises: InvalidParam."""
    if not isinstance(value, dict):
        raise InvalidParam(field, "must be an object")
    return value


def check_string(value: object, field: str, max_bytes: int = MAX_NAME_BYTES) -> str:
    """Raises: InvalidParam."""
    if not isinstance(value, str) or "\0" in value or not _fits(value, max_bytes):
        raise InvalidParam(field, f"must be a string of at most {max_bytes} bytes, without NUL")
    return value


def _fits(text: str, max_bytes: int) -> bool:
    """Of a short one it is known without encoding it."""
    return len(text) * 4 <= max_bytes or len(text.encode("utf-8", "surrogatepass")) <= max_bytes


def encode_bounded(value: object, field: str, max_bytes: int) -> bytes:
    """The value as JSON. Raises: TooLarge."""
    encoded = encode_json(value)
    check_size(encoded, field, max_bytes)
    return encoded


def check_size(encoded: bytes, field: str, max_bytes: int) -> None:
    """Raises: TooLarge."""
    if len(encoded) > max_bytes:
        raise TooLarge(f"{field}: {len(encoded)} bytes, of at most {max_bytes}")


def check_count(count: int, field: str, at_most: int) -> None:
    """Raises: TooLarge."""
    if count > at_most:
        raise TooLarge(f"{field}: {count} entries, of at most {at_most}")


def check_entries(by_user: Mapping[str, object], field: str, at_most: int) -> None:
    """Of users with devices, keys or messages each, which all count, before any is looked at; a user without, as one.

    Raises: TooLarge.
    """
    counts = (len(entries) if isinstance(entries, dict | list) else 1 for entries in by_user.values())
    check_count(sum(count or 1 for count in counts), field, at_most)
