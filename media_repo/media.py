"""What the parts of the media repository tell each other.

Spec: client-server-api#matrix-content-mxc-uris
"""

from __future__ import annotations

import re
import secrets
from typing import IO, Final

from attrs import frozen

from homeserver.matrix.errors import InvalidParam, MatrixError
from homeserver.matrix.ids import ServerName, parse_server_name

# The least a server must take: what the specification allows in a path segment, and no longer than any sane ID.
_MEDIA_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_MEDIA_ID_BYTES: Final = 18


class NotYetUploaded(MatrixError):
    """The media ID was given out, but its content has not come."""

    status = 504
    errcode = "M_NOT_YET_UPLOADED"

    def __init__(self) -> None:
        super().__init__("The content has not been uploaded yet")


@frozen
class MediaAddress:
    """What an mxc:// URI names."""

    server: ServerName
    media_id: str

    def __str__(self) -> str:
        return f"mxc://{self.server}/{self.media_id}"


@frozen
class About:
    """What is said of a file by whoever gives it to us; clean (headers.py)."""

    content_type: str
    file_name: str | None


@frozen
class Upload:
    """The content is what `file` holds from where it stands."""

    file: IO[bytes]
    size_bytes: int
    about: About


@frozen
class Media:
    """A file that can be served. `added_ts_ms` is when it was uploaded or fetched."""

    file_id: str
    size_bytes: int
    about: About
    added_ts_ms: int
    is_remote: bool = False


def parse_address(server: str, media_id: str) -> MediaAddress:
    """Raises: InvalidParam."""
    return MediaAddress(parse_server_name(server), parse_media_id(media_id))


def parse_media_id(media_id: str) -> str:
    """Raises: InvalidParam."""
    if _MEDIA_ID.fullmatch(media_id) is None:
        raise InvalidParam("mediaId", "only letters, digits, _ and - are allowed, 255 at most")
    return media_id


def make_media_id() -> str:
    """Nobody guesses it."""
    return secrets.token_urlsafe(_MEDIA_ID_BYTES)
