"""What this server's users upload.

An upload is one file and one row. The row comes last: a file without one is never served, a row without a file would be
a broken promise. A media ID may also be asked for first and get its content later; whoever wants it meanwhile waits.

Spec: client-server-api#content-repository
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from homeserver.matrix.errors import Conflict, Forbidden, LimitExceeded, NotFound
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import Database
from homeserver.store.media import (
    LocalMediaRow,
    announce_local_media,
    complete_local_media,
    load_local_media,
    save_local_media,
)
from media_repo.config import MediaConfig
from media_repo.media import About, Media, NotYetUploaded, Upload, make_media_id
from media_repo.storage import MediaStorage
from media_repo.workers import Workers

MAX_WAIT_MS: Final = 60_000


def bounded_wait_ms(timeout_ms: int) -> int:
    """How long somebody who says so is kept waiting."""
    return min(max(timeout_ms, 0), MAX_WAIT_MS)


@define(eq=False)
class Uploads:
    """Takes uploads, and finds them again."""

    database: Database
    clock: Clock
    storage: MediaStorage
    disk: Workers
    config: MediaConfig
    _arrivals: dict[str, set[Deferred[None]]] = field(init=False, factory=dict)

    async def upload(self, user_id: UserId, upload: Upload) -> str:
        """The new media ID."""
        row = LocalMediaRow(make_media_id(), user_id, self.clock.time_ms(), None)
        stored = await self._store(row, upload)
        try:
            await self.database.run(save_local_media, stored)
        except BaseException:
            await self._drop(stored)
            raise
        return row.media_id

    async def announce(self, user_id: UserId) -> tuple[str, int]:
        """A media ID whose content comes later, and until when it may. Raises: LimitExceeded."""
        now_ms = self.clock.time_ms()
        expires_ts_ms = now_ms + self.config.pending_upload_lifetime_ms
        row = LocalMediaRow(make_media_id(), user_id, now_ms, expires_ts_ms)
        first_ts_ms = await self.database.run(announce_local_media, row, now_ms, self.config.max_pending_uploads)
        if first_ts_ms is not None:
            raise LimitExceeded(first_ts_ms - now_ms, "Too many uploads were announced and did not come")
        return row.media_id, expires_ts_ms

    async def check_announced(self, user_id: UserId, media_id: str) -> LocalMediaRow:
        """The user's announced media. Raises: NotFound, Forbidden, Conflict."""
        row = await self.database.read(load_local_media, media_id)
        if row is None or self._is_expired(row):
            raise NotFound("There is no such media ID, or it has expired")
        if row.user_id != user_id:
            raise Forbidden("Another user asked for this media ID")
        if row.file_id is not None:
            raise _uploaded_before()
        return row

    async def complete(self, user_id: UserId, media_id: str, upload: Upload) -> None:
        """Gives announced media its content. Raises: NotFound, Forbidden, Conflict."""
        stored = await self._store(await self.check_announced(user_id, media_id), upload)
        try:
            is_first = await self.database.run(complete_local_media, stored, self.clock.time_ms())
        except BaseException:
            await self._drop(stored)
            raise
        if not is_first:
            await self._drop(stored)
            raise _uploaded_before()
        for waiting in self._arrivals.pop(media_id, ()):
            waiting.callback(None)

    async def load(self, media_id: str, timeout_ms: int) -> Media:
        """Waits so long for content that was announced, a minute at most. Raises: NotFound, NotYetUploaded."""
        row = await self._load(media_id)
        if row.file_id is None:
            row = await self._load_arrived(media_id, bounded_wait_ms(timeout_ms))
        return _media_of(row)

    async def _load_arrived(self, media_id: str, timeout_ms: int) -> LocalMediaRow:
        with self._expect(media_id) as arrival:
            row = await self._load(media_id)  # it may have come before anybody told `arrival`
            if row.file_id is None:
                try:
                    await within(self.clock, timeout_ms, _until(arrival))
                except TimeoutError:
                    raise NotYetUploaded() from None
        return await self._load(media_id)

    @contextmanager
    def _expect(self, media_id: str) -> Iterator[Deferred[None]]:
        arrival: Deferred[None] = Deferred()
        self._arrivals.setdefault(media_id, set()).add(arrival)
        try:
            yield arrival
        finally:
            waiting = self._arrivals.get(media_id, set())
            waiting.discard(arrival)
            if not waiting:
                self._arrivals.pop(media_id, None)

    async def _load(self, media_id: str) -> LocalMediaRow:
        row = await self.database.read(load_local_media, media_id)
        if row is None or self._is_expired(row):
            raise NotFound("There is no such media")
        return row

    def _is_expired(self, row: LocalMediaRow) -> bool:
        return row.expires_ts_ms is not None and row.expires_ts_ms <= self.clock.time_ms()

    async def _store(self, row: LocalMediaRow, upload: Upload) -> LocalMediaRow:
        file_id = await self.disk.run(self.storage.save, upload.file, upload.size_bytes)
        about = upload.about
        return evolve(
            row,
            file_id=file_id,
            size_bytes=upload.size_bytes,
            content_type=about.content_type,
            file_name=about.file_name,
        )

    async def _drop(self, stored: LocalMediaRow) -> None:
        await self.disk.run(self.storage.remove, stored.file_id)


async def _until(arrival: Deferred[None]) -> None:
    await arrival


def _uploaded_before() -> Conflict:
    return Conflict("The content has been uploaded before", errcode="M_CANNOT_OVERWRITE_MEDIA")


def _media_of(row: LocalMediaRow) -> Media:
    assert row.file_id is not None and row.size_bytes is not None and row.content_type is not None
    return Media(row.file_id, row.size_bytes, About(row.content_type, row.file_name), row.created_ts_ms)
