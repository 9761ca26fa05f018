"""The endpoints of before v1.11, which ask for no access token: frozen, so that they serve only what is older than a time.

Spec: client-server-api#content-repo-client-behaviour
"""

from __future__ import annotations

from typing import Final

from homeserver.matrix.errors import NotFound
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.request import Request
from homeserver.runtime.http.response import Response
from media_repo.api import TAG, MediaPath, NamedMediaPath, renamed
from media_repo.config import MediaConfig
from media_repo.library import Library
from media_repo.media import Media, MediaAddress
from media_repo.serving import Files

V3: Final = "/_matrix/media/v3"


def older(path: str) -> tuple[str, str]:
    """The same below the prefixes of before v3."""
    return f"/_matrix/media/r0{path}", f"/_matrix/media/v1{path}"


_CONFIG: Final = "/config"
_DOWNLOAD: Final = "/download/{serverName}/{mediaId}"
_NAMED: Final = "/download/{serverName}/{mediaId}/{fileName}"


class Frozen:
    """What may still be had without a token."""

    def __init__(self, library: Library, config: MediaConfig) -> None:
        self._library = library
        self._before_ts_ms = config.unauthenticated_before_ts_ms

    async def load(self, address: MediaAddress) -> Media:
        """Nothing is fetched: that would be newer. Raises: NotFound, NotYetUploaded."""
        if not self._before_ts_ms:
            raise NotFound("This server serves media to those with an access token only")
        media = await self._library.load_known(address)
        if media.added_ts_ms >= self._before_ts_ms:
            raise NotFound("This media is served to those with an access token only")
        return media


class OldDownloadEndpoints:
    def __init__(self, frozen: Frozen, files: Files, config: MediaConfig) -> None:
        self._frozen = frozen
        self._files = files
        self._config = config

    @endpoint(
        "GET",
        V3 + _CONFIG,
        aliases=older(_CONFIG),
        auth=Auth.USER,
        limit="media",
        resource="media",
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixmediav3config",
    )
    def get_config(self) -> JsonObject:
        """How large an upload may be, in bytes."""
        return {"m.upload.size": self._config.max_upload_bytes}

    @endpoint(
        "GET",
        V3 + _DOWNLOAD,
        aliases=older(_DOWNLOAD),
        auth=Auth.NONE,
        limit="media",
        resource="media",
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixmediav3downloadservernamemediaid",
    )
    async def get_download(self, request: Request, path: MediaPath) -> Response:
        """The content, if it is old enough."""
        media = await self._frozen.load(path.address)
        return await self._files.answer(request, media, public=True)

    @endpoint(
        "GET",
        V3 + _NAMED,
        aliases=older(_NAMED),
        auth=Auth.NONE,
        limit="media",
        resource="media",
        tag=TAG,
        deprecated=True,
        spec="client-server-api#get_matrixmediav3downloadservernamemediaidfilename",
    )
    async def get_named_download(self, request: Request, path: NamedMediaPath) -> Response:
        """The content under the name in the path, if it is old enough."""
        media = await self._frozen.load(path.address)
        return await self._files.answer(request, renamed(media, path.file_name), public=True)
