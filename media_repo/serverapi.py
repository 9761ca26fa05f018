"""Media of this server's users, for other servers.

Spec: server-server-api#content-repository
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.response import Response
from media_repo.api import WaitQuery
from media_repo.headers import disposition_of
from media_repo.media import Media, parse_media_id
from media_repo.service import Uploads
from media_repo.serving import Files, Span

TAG: Final = "Federation: media"
V1: Final = "/_matrix/federation/v1/media"


class ServerMediaPath(msgspec.Struct, rename="camel", frozen=True):
    media_id: str


class ServerMediaEndpoints:
    def __init__(self, uploads: Uploads, files: Files) -> None:
        self._uploads = uploads
        self._files = files

    @endpoint(
        "GET",
        f"{V1}/download/{{mediaId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1mediadownloadmediaid",
    )
    async def get_download(self, path: ServerMediaPath, query: WaitQuery) -> Response:
        """The content of a local upload, as the second part of a multipart answer."""
        media = await self._uploads.load(parse_media_id(path.media_id), query.timeout_ms)
        return await multipart_answer(self._files, media)


async def multipart_answer(files: Files, media: Media) -> Response:
    """The file between what multipart puts around it. Raises: NotFound."""
    await files.check(media)
    boundary = secrets.token_hex(16)
    head = _head(media, boundary)
    tail = f"\r\n--{boundary}--\r\n".encode()
    headers = [
        ("Content-Type", f"multipart/mixed; boundary={boundary}"),
        ("Content-Length", str(len(head) + media.size_bytes + len(tail))),
    ]
    return Response(200, _around(files, media, head, tail), headers)


def _head(media: Media, boundary: str) -> bytes:
    return (
        f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{{}}\r\n"
        f"--{boundary}\r\nContent-Type: {media.about.content_type}\r\n"
        f"Content-Disposition: {disposition_of(media.about)}\r\n\r\n"
    ).encode()


async def _around(files: Files, media: Media, head: bytes, tail: bytes) -> AsyncIterator[bytes]:
    yield head
    async for data in files.read(media.file_id, Span(0, media.size_bytes)):
        yield data
    yield tail
