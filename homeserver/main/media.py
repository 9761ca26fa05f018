"""The media repository: its services and endpoints."""

from __future__ import annotations

from attrs import frozen

from homeserver.main.core import Core
from homeserver.main.federation import FederationServices
from homeserver.runtime.config import ConfigError
from homeserver.runtime.http.body import Spooling
from homeserver.runtime.rate_limit import RateLimiter
from media_repo.api import DownloadEndpoints, UploadEndpoints
from media_repo.config import MediaConfig
from media_repo.library import Library
from media_repo.old_api import Frozen, OldDownloadEndpoints
from media_repo.redirects import Redirects
from media_repo.remote import RemoteMedia
from media_repo.serverapi import ServerMediaEndpoints
from media_repo.service import Uploads
from media_repo.serving import Files
from media_repo.storage import MediaStorage
from media_repo.thumbnail_api import OldThumbnailEndpoint, ServerThumbnailEndpoint, ThumbnailEndpoints
from media_repo.thumbnails import Thumbnails, parse_sizes
from media_repo.workers import Workers

DISK_THREADS = 4
MAX_WAITING_THUMBNAILS = 200


@frozen
class MediaServices:
    workers: tuple[Workers, ...]
    spooling: Spooling
    endpoints: list[object]

    def start(self) -> None:
        for workers in self.workers:
            workers.start()

    def stop(self) -> None:
        for workers in self.workers:
            workers.stop()


def build_media(core: Core, federation: FederationServices | None, limiter: RateLimiter) -> MediaServices:
    """Raises: ConfigError."""
    config = core.config.section(MediaConfig)
    storage = _open_storage(core, config)
    disk, makers = (
        Workers(core.reactor, "media", DISK_THREADS),
        Workers(core.reactor, "thumbnails", config.thumbnail_threads, MAX_WAITING_THUMBNAILS),
    )
    uploads = Uploads(core.database, core.clock, storage, disk, config)
    remote = None
    if federation is not None:
        redirects = Redirects(federation.http)
        remote = RemoteMedia(core.database, core.clock, storage, disk, config, federation.client, redirects, limiter)
    library, files = Library(core.server_name, uploads, remote), Files(storage, disk)
    thumbnails = Thumbnails(
        core.database, storage, disk, makers, parse_sizes(config.thumbnail_sizes), config.max_image_pixels
    )
    frozen_media = Frozen(library, config)
    endpoints: list[object] = [
        UploadEndpoints(core.server_name, uploads),
        DownloadEndpoints(library, files, config),
        OldDownloadEndpoints(frozen_media, files, config),
        ThumbnailEndpoints(library, thumbnails, files),
        OldThumbnailEndpoint(frozen_media, thumbnails, files),
    ]
    if federation is not None:
        endpoints += [ServerMediaEndpoints(uploads, files), ServerThumbnailEndpoint(uploads, thumbnails, files)]
    return MediaServices((makers, disk), Spooling(config.max_upload_bytes, storage.incoming), endpoints)


def _open_storage(core: Core, config: MediaConfig) -> MediaStorage:
    storage = MediaStorage(core.config.resolve(config.path))
    try:
        storage.prepare()
    except OSError as error:
        raise ConfigError(f"[media] path: can't write to {storage.folder}: {error.strerror}") from None
    return storage
