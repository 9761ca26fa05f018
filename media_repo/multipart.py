"""Another server's answer with media in it: multipart/mixed, of exactly two parts.

It is read where it was downloaded to, through a memory map: only the heads of the parts are ever copied. These functions
block: call them in a thread.

Spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
"""

from __future__ import annotations

import mmap
from email.message import Message
from email.parser import BytesParser
from typing import IO, Final

from attrs import frozen

MAX_HEAD_BYTES: Final = 64 * 1024
_LINE: Final = b"\r\n"
_HEAD_END: Final = b"\r\n\r\n"


class NotMultipart(Exception):
    """The answer is not what the specification says; the text says how."""


@frozen
class MediaPart:
    """The second part: its headers, and where its content lies in the file."""

    content_type: str | None
    disposition: str | None
    location: str | None
    start: int
    size_bytes: int


def parse_media(file: IO[bytes], size_bytes: int, content_type: str) -> MediaPart:
    """Raises: NotMultipart."""
    delimiter = b"--" + _boundary(content_type)
    if not size_bytes:
        raise NotMultipart("it is empty")
    with mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_READ) as data:
        return _media_part(data, delimiter)


def _media_part(data: mmap.mmap, delimiter: bytes) -> MediaPart:
    line = _LINE + delimiter
    first = len(delimiter) if data[: len(delimiter)] == delimiter else _find(data, line, 0, MAX_HEAD_BYTES) + len(line)
    head = _find(data, line, first, first + MAX_HEAD_BYTES) + len(line)
    content = _find(data, _HEAD_END, head, head + MAX_HEAD_BYTES) + len(_HEAD_END)
    # The line break before a delimiter is the delimiter's; a part without content has it from the end of its head.
    end = _find(data, line, content - len(_LINE), len(data))
    after = end + len(line)
    if data[after : after + 2] != b"--":
        raise NotMultipart("it has more than two parts")
    headers = BytesParser().parsebytes(data[head:content].lstrip(), headersonly=True)
    return MediaPart(
        _value(headers, "Content-Type"),
        _value(headers, "Content-Disposition"),
        _value(headers, "Location"),
        content,
        max(0, end - content),
    )


def _find(data: mmap.mmap, wanted: bytes, start: int, end: int) -> int:
    found = data.find(wanted, start, min(end, len(data)))
    if found < 0:
        raise NotMultipart("its parts are not delimited as it says")
    return found


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type[:1024]
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/mixed" or not boundary or len(boundary) > 70:
        raise NotMultipart("it is not multipart/mixed")
    return boundary.encode("latin-1", "replace")


def _value(headers: Message, name: str) -> str | None:
    value = headers.get(name)
    return None if value is None else str(value)
