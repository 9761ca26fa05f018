"""Media of other servers: fetched once, kept as a copy.

    1  a copy is here: that one
    2  the other server's federation endpoint, signed; its answer is multipart
    3  where it does not know that endpoint: its old one, which asks for no signature
    4  a `Location` in the answer to 2 is followed
    5  the content becomes a file of ours, and then a row

Those who want the same at once wait for one fetch. Everything is written to disk as it comes and bounded in size and time;
what another server says of its content is cleaned before it is kept.

Spec: server-server-api#content-repository
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO, Any, Final, Protocol
from urllib.parse import quote

from attrs import define, field, frozen

from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import ServerName
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import SingleFlight
from homeserver.runtime.db import Database
from homeserver.runtime.http_client import HttpAnswer
from homeserver.runtime.rate_limit import RateLimiter
from homeserver.store.media import RemoteMediaRow, load_remote_media, save_remote_media
from media_repo.config import MediaConfig
from media_repo.headers import read_about
from media_repo.media import About, Media, MediaAddress, NotYetUploaded
from media_repo.multipart import MAX_HEAD_BYTES, MediaPart, NotMultipart, parse_media
from media_repo.redirects import BadRemoteMedia, Redirects, RemoteMediaTooLarge
from media_repo.storage import MediaStorage
from media_repo.workers import Workers

FEDERATION_PATH: Final = "/_matrix/federation/v1/media/download/"
OLD_PATH: Final = "/_matrix/media/v3/download/"
# What multipart adds to the content.
MULTIPART_BYTES: Final = 3 * MAX_HEAD_BYTES


class Peers(Protocol):
    """Other servers, as far as media goes: federation.client.FederationClient."""

    async def download(
        self,
        server: ServerName,
        path: str,
        query: Mapping[str, str | int | Sequence[str | int]],
        into: IO[bytes],
        *,
        timeout_ms: int,
        max_bytes: int,
        signed: bool = True,
    ) -> HttpAnswer:
        """The head of a success, whose body is written to the file. Raises: MatrixError."""
        ...


@frozen
class Fetched:
    """Content within a temporary file."""

    file: IO[bytes]
    start: int
    size_bytes: int
    about: About


@define(eq=False)
class RemoteMedia:
    """Fetches and keeps media of other servers."""

    database: Database
    clock: Clock
    storage: MediaStorage
    disk: Workers
    config: MediaConfig
    peers: Peers
    redirects: Redirects
    limiter: RateLimiter
    _fetching: SingleFlight[Media] = field(init=False, factory=SingleFlight)

    async def load(self, address: MediaAddress, timeout_ms: int, wanted_by: str) -> Media:
        """Raises: NotFound, NotYetUploaded, LimitExceeded, BadRemoteMedia and other MatrixErrors of 502 to 504."""
        return await self.load_copy(address) or await self._fetch(address, timeout_ms, wanted_by)

    async def load_copy(self, address: MediaAddress) -> Media | None:
        """Step 1."""
        row = await self.database.read(load_remote_media, address.server, address.media_id)
        return None if row is None else _media_of(row)

    async def _fetch(self, address: MediaAddress, timeout_ms: int, wanted_by: str) -> Media:
        if not self._fetching.is_running(address):
            self.limiter.check("remote_media", wanted_by)
        try:
            return await self._fetching.do(address, lambda: self._fetch_once(address, timeout_ms))
        except MatrixError as error:
            raise _to_client(address.server, error) from error

    async def _fetch_once(self, address: MediaAddress, timeout_ms: int) -> Media:
        copy = await self.load_copy(address)  # a fetch may have ended just now
        if copy is not None:
            return copy
        with tempfile.TemporaryFile(dir=self.storage.incoming) as file:
            fetched = await self._download(address, timeout_ms, file)
            return await self._keep(address, fetched)

    async def _download(self, address: MediaAddress, timeout_ms: int, file: IO[bytes]) -> Fetched:
        try:
            answer = await self._ask(address, timeout_ms, file)
        except MatrixError as error:
            if error.status != 404 or error.errcode == "M_NOT_FOUND":
                raise
            return await self._download_old(address, timeout_ms, file)
        part = await self._parse(address, answer, file)
        if part.location is not None:
            return await self._download_elsewhere(part.location, file)
        about = read_about(part.content_type, part.disposition)
        return Fetched(file, part.start, part.size_bytes, about)

    async def _ask(self, address: MediaAddress, timeout_ms: int, file: IO[bytes]) -> HttpAnswer:
        """Step 2."""
        return await self.peers.download(
            address.server,
            FEDERATION_PATH + quote(address.media_id, safe=""),
            {"timeout_ms": timeout_ms},
            file,
            timeout_ms=self.config.remote_timeout_ms,
            max_bytes=self.config.max_remote_bytes + MULTIPART_BYTES,
        )

    async def _parse(self, address: MediaAddress, answer: HttpAnswer, file: IO[bytes]) -> MediaPart:
        content_type = answer.headers.get("content-type", "")
        file.flush()
        try:
            return await self.disk.run(parse_media, file, _size_of(file), content_type)
        except NotMultipart as error:
            raise BadRemoteMedia(f"{address.server} answers wrongly: {error}") from None

    async def _download_old(self, address: MediaAddress, timeout_ms: int, file: IO[bytes]) -> Fetched:
        """Step 3."""
        answer = await self.peers.download(
            address.server,
            f"{OLD_PATH}{quote(address.server, safe='')}/{quote(address.media_id, safe='')}",
            {"allow_remote": "false", "timeout_ms": timeout_ms},
            file,
            timeout_ms=self.config.remote_timeout_ms,
            max_bytes=self.config.max_remote_bytes,
            signed=False,
        )
        return _whole(answer, file)

    async def _download_elsewhere(self, location: str, file: IO[bytes]) -> Fetched:
        """Step 4."""
        file.seek(0)
        file.truncate()
        answer = await self.redirects.follow(
            location, file, timeout_ms=self.config.remote_timeout_ms, max_bytes=self.config.max_remote_bytes
        )
        return _whole(answer, file)

    async def _keep(self, address: MediaAddress, fetched: Fetched) -> Media:
        """Step 5."""
        if fetched.size_bytes > self.config.max_remote_bytes:
            raise RemoteMediaTooLarge()
        fetched.file.seek(fetched.start)
        file_id = await self.disk.run(self.storage.save, fetched.file, fetched.size_bytes)
        about = fetched.about
        row = RemoteMediaRow(
            address.server,
            address.media_id,
            self.clock.time_ms(),
            file_id,
            fetched.size_bytes,
            about.content_type,
            about.file_name,
        )
        try:
            is_first = await self.database.run(save_remote_media, row)
        except BaseException:
            await self.disk.run(self.storage.remove, file_id)
            raise
        if is_first:
            return _media_of(row)
        await self.disk.run(self.storage.remove, file_id)  # another process was faster
        copy = await self.load_copy(address)
        assert copy is not None, "copies are not removed"
        return copy


def _whole(answer: HttpAnswer, file: IO[bytes]) -> Fetched:
    headers: Mapping[str, Any] = answer.headers
    about = read_about(headers.get("content-type"), headers.get("content-disposition"))
    file.flush()
    return Fetched(file, 0, _size_of(file), about)


def _size_of(file: IO[bytes]) -> int:
    return os.fstat(file.fileno()).st_size


def _media_of(row: RemoteMediaRow) -> Media:
    about = About(row.content_type, row.file_name)
    return Media(row.file_id, row.size_bytes, about, row.fetched_ts_ms, is_remote=True)


def _to_client(server: ServerName, error: MatrixError) -> MatrixError:
    """What a client is told: never another server's 401, which would look like one of ours."""
    if isinstance(error, BadRemoteMedia):
        return error
    match error.errcode:
        case "M_NOT_YET_UPLOADED":
            return NotYetUploaded()
        case "M_TOO_LARGE":
            return RemoteMediaTooLarge()
        case "M_NOT_FOUND":
            return NotFound("The other server has no such media")
    if error.status in (502, 503, 504):
        return error
    return BadRemoteMedia(f"{server} does not give the content: {error.error}")
