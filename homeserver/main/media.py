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
from media_repo.workers import Workers

DISK_THREADS = 4


@frozen
class MediaServices:
    disk: Workers
    spooling: Spooling
    endpoints: list[object]

    def start(self) -> None:
        self.disk.start()

    def stop(self) -> None:
        self.disk.stop()


def build_media(core: Core, federation: FederationServices | None, limiter: RateLimiter) -> MediaServices:
    """Raises: ConfigError."""
    config = core.config.section(MediaConfig)
    storage = _open_storage(core, config)
    disk = Workers(core.reactor, "media", DISK_THREADS)
    uploads = Uploads(core.database, core.clock, storage, disk, config)
    remote = None
    if federation is not None:
        redirects = Redirects(federation.http)
        remote = RemoteMedia(core.database, core.clock, storage, disk, config, federation.client, redirects, limiter)
    library, files = Library(core.server_name, uploads, remote), Files(storage, disk)
    endpoints: list[object] = [
        UploadEndpoints(core.server_name, uploads),
        DownloadEndpoints(library, files, config),
        OldDownloadEndpoints(Frozen(library, config), files, config),
    ]
    if federation is not None:
        endpoints.append(ServerMediaEndpoints(uploads, files))
    return MediaServices(disk, Spooling(config.max_upload_bytes, storage.incoming), endpoints)


def _open_storage(core: Core, config: MediaConfig) -> MediaStorage:
    storage = MediaStorage(core.config.resolve(config.path))
    try:
        storage.prepare()
    except OSError as error:
        raise ConfigError(f"[media] path: can't write to {storage.folder}: {error.strerror}") from None
    return storage
