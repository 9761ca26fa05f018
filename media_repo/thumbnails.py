"""Thumbnails: in a few sizes, each made once and kept.

A request gets the smallest of the configured sizes that is large enough, so that nobody can make this server compute and
store one for each width there is. What is larger than all of them gets the picture in its full size.

Spec: client-server-api#thumbnails
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from io import BytesIO
from typing import Final

from attrs import define, evolve, field

from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.runtime.coroutine import SingleFlight
from homeserver.runtime.db import Database
from homeserver.store.media import ThumbnailKey, ThumbnailRow, load_thumbnail, save_thumbnail
from media_repo.config import SIZE
from media_repo.media import About, Media
from media_repo.storage import MediaStorage
from media_repo.thumbnail_sizes import CannotThumbnail, ImageTooLarge, Made, Size, Wanted
from media_repo.workers import Workers

FULL_SIZE: Final = (2**31 - 1, 2**31 - 1)
MAX_FAILURES: Final = 10_000


class NoThumbnail(MatrixError):
    """There is none of this content."""

    def __init__(self) -> None:
        super().__init__("There are no thumbnails of this content")


class TooLargeForThumbnail(MatrixError):
    errcode = "M_TOO_LARGE"

    def __init__(self, *, is_remote: bool) -> None:
        super().__init__("The image is too large for a thumbnail", status=502 if is_remote else 413)


def parse_sizes(texts: Iterable[str]) -> tuple[Size, ...]:
    """Raises: ValueError, naming what is no size."""
    return tuple(_parse_size(text) for text in texts)


def _parse_size(text: str) -> Size:
    found = SIZE.fullmatch(text)
    if found is None:
        raise ValueError(text)
    return int(found[1]), int(found[2])


def choose_size(sizes: Iterable[Size], wanted: Wanted) -> Size:
    """The smallest that is no smaller; for "crop" one of the same aspect if there is any."""

    def rank(size: Size) -> tuple[bool, int]:
        other_aspect = size[0] * wanted.height != size[1] * wanted.width
        return wanted.method == "crop" and other_aspect, size[0] * size[1]

    enough = [size for size in sizes if size[0] >= wanted.width and size[1] >= wanted.height]
    return min(enough, key=rank, default=FULL_SIZE)


@define(eq=False)
class Thumbnails:
    """`makers` are the threads that compute, `disk` those that wait for the disk."""

    database: Database
    storage: MediaStorage
    disk: Workers
    makers: Workers
    sizes: tuple[Size, ...]
    max_pixels: int
    _making: SingleFlight[ThumbnailRow] = field(init=False, factory=SingleFlight)
    # By file: what can't be done is not tried at every request.
    _failures: OrderedDict[str, bool] = field(init=False, factory=OrderedDict)

    async def load(self, media: Media, wanted: Wanted) -> Media:
        """The thumbnail as a file, which may be the image itself. Raises: NoThumbnail, TooLargeForThumbnail, NotFound."""
        width, height = choose_size(self.sizes, wanted)
        wanted = evolve(wanted, width=width, height=height)
        key = ThumbnailKey(media.file_id, width, height, wanted.method, wanted.animated)
        row = await self.database.read(load_thumbnail, key)
        if row is None:
            row = await self._make(media, key, wanted)
        name = f"thumbnail.{row.content_type.removeprefix('image/')}"
        about = About(row.content_type, name)
        return evolve(media, file_id=row.file_id or media.file_id, size_bytes=row.size_bytes, about=about)

    async def _make(self, media: Media, key: ThumbnailKey, wanted: Wanted) -> ThumbnailRow:
        if media.file_id in self._failures:
            raise self._failure(media)
        try:
            return await self._making.do(key, lambda: self._make_once(media, key, wanted))
        except (CannotThumbnail, ImageTooLarge) as error:
            self._note_failure(media.file_id, is_too_large=isinstance(error, ImageTooLarge))
            raise self._failure(media) from error
        except FileNotFoundError:
            raise NotFound("The content is gone") from None

    async def _make_once(self, media: Media, key: ThumbnailKey, wanted: Wanted) -> ThumbnailRow:
        made = await self.makers.run(self._compute, media.file_id, wanted)
        if made.content is None:
            row = ThumbnailRow(made.content_type, None, media.size_bytes)
        else:
            size_bytes = len(made.content)
            file_id = await self.disk.run(self.storage.save, BytesIO(made.content), size_bytes)
            row = ThumbnailRow(made.content_type, file_id, size_bytes)
        if await self.database.run(save_thumbnail, key, row):
            return row
        if row.file_id is not None:  # another process was faster
            await self.disk.run(self.storage.remove, row.file_id)
        saved = await self.database.read(load_thumbnail, key)
        assert saved is not None, "thumbnails are not removed"
        return saved

    def _compute(self, file_id: str, wanted: Wanted) -> Made:
        from media_repo.images import (
            make_thumbnail,  # PERF(2 MiB of idle memory): the decoders come when there are images
        )

        with self.storage.open(file_id) as file:
            return make_thumbnail(file, wanted, self.max_pixels)

    def _note_failure(self, file_id: str, *, is_too_large: bool) -> None:
        self._failures[file_id] = is_too_large
        if len(self._failures) > MAX_FAILURES:
            self._failures.popitem(last=False)

    def _failure(self, media: Media) -> MatrixError:
        if self._failures[media.file_id]:
            return TooLargeForThumbnail(is_remote=media.is_remote)
        return NoThumbnail()
