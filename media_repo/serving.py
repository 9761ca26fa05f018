"""From a file to an answer: headers that keep browsers from running it, caching for ever, one range.

The content of an mxc:// URI never changes, so that its file's ID is its ETag.

Spec: client-server-api#content-repository
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Final

from attrs import define, frozen

from homeserver.matrix.errors import NotFound
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.response import Response
from media_repo.headers import SAFETY_HEADERS, disposition_of
from media_repo.media import Media
from media_repo.storage import CHUNK_BYTES, MediaStorage
from media_repo.workers import Workers

_FOREVER: Final = "max-age=31536000, immutable"
_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")


@frozen
class Span:
    """Bytes of a file: the first, and how many."""

    start: int
    size_bytes: int


@define(eq=False)
class Files:
    """Answers with files."""

    storage: MediaStorage
    disk: Workers

    async def answer(self, request: Request, media: Media, *, public: bool = False) -> Response:
        """`public`: caches between us and the client may keep it, too. Raises: NotFound."""
        headers = [
            ("ETag", f'"{media.file_id}"'),
            ("Cache-Control", f"{'public' if public else 'private'}, {_FOREVER}"),
            *SAFETY_HEADERS,
        ]
        if _is_known(request.header("if-none-match"), media.file_id):
            return Response(304, None, headers)
        headers += [
            ("Content-Type", media.about.content_type),
            ("Content-Disposition", disposition_of(media.about)),
            ("Accept-Ranges", "bytes"),
        ]
        await self.check(media)
        return self._partial(request, media, headers)

    def _partial(self, request: Request, media: Media, headers: list[tuple[str, str]]) -> Response:
        wanted = request.header("range")
        if wanted is None or request.header("if-range") not in (None, f'"{media.file_id}"'):
            return self._content(200, media, Span(0, media.size_bytes), headers)
        span = parse_range(wanted, media.size_bytes)
        if span is None:
            return self._content(200, media, Span(0, media.size_bytes), headers)
        if not span.size_bytes:
            return Response(416, b"", [*headers, ("Content-Range", f"bytes */{media.size_bytes}")])
        last = span.start + span.size_bytes - 1
        headers = [*headers, ("Content-Range", f"bytes {span.start}-{last}/{media.size_bytes}")]
        return self._content(206, media, span, headers)

    def _content(self, status: int, media: Media, span: Span, headers: list[tuple[str, str]]) -> Response:
        headers = [*headers, ("Content-Length", str(span.size_bytes))]
        return Response(status, self.read(media.file_id, span), headers)

    async def check(self, media: Media) -> None:
        """Whether the file is there still: an admin may have removed it. Raises: NotFound."""
        if not await self.disk.run(self.storage.has, media.file_id):
            raise NotFound("The content is gone")

    async def read(self, file_id: str, span: Span) -> AsyncIterator[bytes]:
        """The bytes of the span, piece by piece. Raises: FileNotFoundError, EOFError."""
        file = await self.disk.run(self.storage.open, file_id)
        try:
            file.seek(span.start)
            left = span.size_bytes
            while left:
                data = await self.disk.run(file.read, min(left, CHUNK_BYTES))
                if not data:
                    raise EOFError(f"media file {file_id} is shorter than it was")
                left -= len(data)
                yield data
        finally:
            file.close()


def parse_range(header: str, size_bytes: int) -> Span | None:
    """The one span that is asked for, of no bytes if there are none there; None for what is to be ignored.

    Several spans are answered with the whole file, as RFC 9110 section 14.2 allows.
    """
    found = _RANGE.fullmatch(header.strip())
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        size = min(int(found[2]), size_bytes)
        return Span(size_bytes - size, size)
    first = int(found[1])
    last = min(int(found[2]), size_bytes - 1) if found[2] else size_bytes - 1
    if found[2] and int(found[2]) < first:
        return None
    return Span(first, max(0, last - first + 1))


def _is_known(header: str | None, file_id: str) -> bool:
    """Whether If-None-Match names the file."""
    tags = [tag.strip().removeprefix("W/") for tag in (header or "").split(",")]
    return f'"{file_id}"' in tags or tags == ["*"]
