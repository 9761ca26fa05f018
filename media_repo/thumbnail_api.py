"""Thumbnails for users, for other servers, and at the old endpoint.

Spec: client-server-api#thumbnails
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.runtime.http.endpoint import Auth, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.response import Response
from media_repo.api import DEFAULT_WAIT_MS, TAG, V1, MediaPath
from media_repo.library import Library
from media_repo.media import parse_media_id
from media_repo.old_api import V3, Frozen, older
from media_repo.serverapi import TAG as SERVER_TAG
from media_repo.serverapi import V1 as SERVER_V1
from media_repo.serverapi import ServerMediaPath, multipart_answer
from media_repo.service import Uploads
from media_repo.serving import Files
from media_repo.thumbnail_sizes import Wanted
from media_repo.thumbnails import Thumbnails

Pixels = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
_THUMBNAIL: Final = "/thumbnail/{serverName}/{mediaId}"


class ThumbnailQuery(msgspec.Struct, frozen=True):
    width: Pixels
    height: Pixels
    method: Literal["crop", "scale"] = "scale"
    animated: bool = False
    timeout_ms: int = DEFAULT_WAIT_MS

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.width, self.height, self.method, self.animated)


class ThumbnailEndpoints:
    def __init__(self, library: Library, thumbnails: Thumbnails, files: Files) -> None:
        self._library = library
        self._thumbnails = thumbnails
        self._files = files

    @endpoint(
        "GET",
        V1 + _THUMBNAIL,
        auth=Auth.GUEST_OK,
        limit="media",
        resource="media",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1mediathumbnailservernamemediaid",
    )
    async def get_thumbnail(
        self, request: Request, requester: Requester, path: MediaPath, query: ThumbnailQuery
    ) -> Response:
        """A smaller image, or the image itself where it is small already."""
        media = await self._library.load(path.address, query.timeout_ms, requester.rate_limit_key)
        return await self._files.answer(request, await self._thumbnails.load(media, query.wanted))


class OldThumbnailEndpoint:
    def __init__(self, frozen: Frozen, thumbnails: Thumbnails, files: Files) -> None:
        self._frozen = frozen
        self._thumbnails = thumbnails
        self._files = files

    @endpoint(
        "GET",
        V3 + _THUMBNAIL,
        aliases=older(_THUMBNAIL),
        auth=Auth.NONE,
        limit="media",
        resource="media",
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixmediav3thumbnailservernamemediaid",
    )
    async def get_thumbnail(self, request: Request, path: MediaPath, query: ThumbnailQuery) -> Response:
        """A smaller image, if it is old enough."""
        media = await self._frozen.load(path.address)
        return await self._files.answer(request, await self._thumbnails.load(media, query.wanted), public=True)


class ServerThumbnailEndpoint:
    def __init__(self, uploads: Uploads, thumbnails: Thumbnails, files: Files) -> None:
        self._uploads = uploads
        self._thumbnails = thumbnails
        self._files = files

    @endpoint(
        "GET",
        f"{SERVER_V1}/thumbnail/{{mediaId}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=SERVER_TAG,
        spec="server-server-api#get_matrixfederationv1mediathumbnailmediaid",
    )
    async def get_thumbnail(self, path: ServerMediaPath, query: ThumbnailQuery) -> Response:
        """A smaller image of a local upload, as the second part of a multipart answer."""
        media = await self._uploads.load(parse_media_id(path.media_id), query.timeout_ms)
        return await multipart_answer(self._files, await self._thumbnails.load(media, query.wanted))
