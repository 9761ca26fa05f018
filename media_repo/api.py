"""Uploads, and downloads for users.

Spec: client-server-api#content-repository
"""

from __future__ import annotations

from typing import Final

import msgspec
from attrs import evolve

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import ServerName
from homeserver.runtime.http.body import SpooledBody
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.response import Response
from media_repo.config import MediaConfig
from media_repo.headers import clean_file_name, clean_type
from media_repo.library import Library
from media_repo.media import About, Media, MediaAddress, Upload, parse_address, parse_media_id
from media_repo.service import Uploads
from media_repo.serving import Files

TAG: Final = "Media"
UPLOAD: Final = "/_matrix/media/v3/upload"
V1: Final = "/_matrix/client/v1/media"
DEFAULT_WAIT_MS: Final = 20_000


class MediaPath(msgspec.Struct, rename="camel", frozen=True):
    server_name: str
    media_id: str

    @property
    def address(self) -> MediaAddress:
        """Raises: InvalidParam."""
        return parse_address(self.server_name, self.media_id)


class NamedMediaPath(MediaPath, rename="camel", frozen=True):
    file_name: str


class UploadQuery(msgspec.Struct, frozen=True):
    filename: str | None = None


class WaitQuery(msgspec.Struct, frozen=True):
    timeout_ms: int = DEFAULT_WAIT_MS


class UploadEndpoints:
    def __init__(self, server_name: ServerName, uploads: Uploads) -> None:
        self._server_name = server_name
        self._uploads = uploads

    @endpoint(
        "POST",
        UPLOAD,
        aliases=("/_matrix/media/r0/upload", "/_matrix/media/v1/upload"),
        auth=Auth.USER,
        limit="upload",
        resource="media",
        tag=TAG,
        spec="client-server-api#post_matrixmediav3upload",
    )
    async def post_upload(
        self, request: Request, requester: Requester, query: UploadQuery, body: SpooledBody
    ) -> JsonObject:
        """Keep a file. What it is said to be is kept as said, and never believed."""
        with body.file:
            requester.check_not_suspended()
            media_id = await self._uploads.upload(requester.user_id, _upload(request, query, body))
        return {"content_uri": self._uri(media_id)}

    @endpoint(
        "POST",
        "/_matrix/media/v1/create",
        auth=Auth.USER,
        limit="upload",
        resource="media",
        tag=TAG,
        spec="client-server-api#post_matrixmediav1create",
    )
    async def post_create(self, requester: Requester) -> JsonObject:
        """A URI whose content is uploaded later."""
        requester.check_not_suspended()
        media_id, expires_ts_ms = await self._uploads.announce(requester.user_id)
        return {"content_uri": self._uri(media_id), "unused_expires_at": expires_ts_ms}

    @endpoint(
        "PUT",
        f"{UPLOAD}/{{serverName}}/{{mediaId}}",
        auth=Auth.USER,
        limit="upload",
        resource="media",
        tag=TAG,
        spec="client-server-api#put_matrixmediav3uploadservernamemediaid",
    )
    async def put_upload(
        self, request: Request, requester: Requester, path: MediaPath, query: UploadQuery, body: SpooledBody
    ) -> JsonObject:
        """The content of a URI that was made before."""
        with body.file:
            requester.check_not_suspended()
            if path.server_name != self._server_name:
                raise NotFound("That is no media of this server")
            media_id = parse_media_id(path.media_id)
            await self._uploads.complete(requester.user_id, media_id, _upload(request, query, body))
        return {}

    def _uri(self, media_id: str) -> str:
        return str(MediaAddress(self._server_name, media_id))


class DownloadEndpoints:
    def __init__(self, library: Library, files: Files, config: MediaConfig) -> None:
        self._library = library
        self._files = files
        self._config = config

    @endpoint(
        "GET",
        f"{V1}/config",
        auth=Auth.USER,
        limit="media",
        resource="media",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1mediaconfig",
    )
    def get_config(self) -> JsonObject:
        """How large an upload may be, in bytes."""
        return {"m.upload.size": self._config.max_upload_bytes}

    @endpoint(
        "GET",
        f"{V1}/download/{{serverName}}/{{mediaId}}",
        auth=Auth.GUEST_OK,
        limit="media",
        resource="media",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1mediadownloadservernamemediaid",
    )
    async def get_download(self, request: Request, requester: Requester, path: MediaPath, query: WaitQuery) -> Response:
        """The content, under the name that it was uploaded with."""
        media = await self._library.load(path.address, query.timeout_ms, requester.rate_limit_key)
        return await self._files.answer(request, media)

    @endpoint(
        "GET",
        f"{V1}/download/{{serverName}}/{{mediaId}}/{{fileName}}",
        auth=Auth.GUEST_OK,
        limit="media",
        resource="media",
        tag=TAG,
        spec="client-server-api#get_matrixclientv1mediadownloadservernamemediaidfilename",
    )
    async def get_named_download(
        self, request: Request, requester: Requester, path: NamedMediaPath, query: WaitQuery
    ) -> Response:
        """The content, under the name in the path."""
        media = await self._library.load(path.address, query.timeout_ms, requester.rate_limit_key)
        return await self._files.answer(request, renamed(media, path.file_name))


def renamed(media: Media, file_name: str) -> Media:
    """The same content under another name."""
    return evolve(media, about=About(media.about.content_type, clean_file_name(file_name)))


def _upload(request: Request, query: UploadQuery, body: SpooledBody) -> Upload:
    about = About(clean_type(request.header("content-type")), clean_file_name(query.filename))
    return Upload(body.file, body.size_bytes, about)
