"""Media: uploads, copies of other servers' media, thumbnails."""

from __future__ import annotations

from typing import Final

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from homeserver.store.tables.media import local_media, media_thumbnails, remote_media
from homeserver.store.upsert import insert_if_absent


@frozen
class LocalMediaRow:
    """An upload. Announced only where `file_id` is None; then `expires_ts_ms` says until when it may come."""

    media_id: str
    user_id: str
    created_ts_ms: int
    expires_ts_ms: int | None
    file_id: str | None = None
    size_bytes: int | None = None
    content_type: str | None = None
    file_name: str | None = None


@frozen
class RemoteMediaRow:
    server: str
    media_id: str
    fetched_ts_ms: int
    file_id: str
    size_bytes: int
    content_type: str
    file_name: str | None


@frozen
class ThumbnailKey:
    """Which thumbnail: of the file `source_id`, within this box."""

    source_id: str
    width: int
    height: int
    method: str
    animated: bool


@frozen
class ThumbnailRow:
    """`file_id` None: the source itself, which is no larger than the thumbnail would be."""

    content_type: str
    file_id: str | None
    size_bytes: int


_SAVE_REMOTE: Final = insert_if_absent(remote_media)
_SAVE_THUMBNAIL: Final = insert_if_absent(media_thumbnails)
_LOAD_LOCAL: Final = select(local_media).where(local_media.c.media_id == bindparam("media_id"))
_LOAD_REMOTE: Final = select(remote_media).where(
    remote_media.c.server == bindparam("server"), remote_media.c.media_id == bindparam("media_id")
)
_t = media_thumbnails.c
_LOAD_THUMBNAIL: Final = select(_t.content_type, _t.file_id, _t.size_bytes).where(
    _t.source_id == bindparam("source_id"),
    _t.width == bindparam("width"),
    _t.height == bindparam("height"),
    _t.method == bindparam("method"),
    _t.animated == bindparam("animated"),
)


def save_local_media(conn: Connection, row: LocalMediaRow) -> None:
    conn.execute(insert(local_media).values(**asdict(row)))


def announce_local_media(conn: Connection, row: LocalMediaRow, now_ms: int, most: int) -> int | None:
    """None once the ID is kept. Otherwise the user has `most` of them open already: when the first of these expires.

    Also forgets those of everybody that have expired.
    """
    conn.execute(delete(local_media).where(local_media.c.expires_ts_ms <= now_ms))
    is_open = (local_media.c.user_id == row.user_id, local_media.c.expires_ts_ms > now_ms)
    query = select(func.count(), func.min(local_media.c.expires_ts_ms)).where(*is_open)
    open_count, first_ts_ms = conn.execute(query).one()
    if open_count >= most:
        return int(first_ts_ms)
    save_local_media(conn, row)
    return None


def complete_local_media(conn: Connection, row: LocalMediaRow, now_ms: int) -> bool:
    """Gives announced media its content; False where that was done already, or it is too late."""
    changed = conn.execute(
        update(local_media)
        .where(local_media.c.media_id == row.media_id, local_media.c.expires_ts_ms > now_ms)
        .values(
            expires_ts_ms=None,
            file_id=row.file_id,
            size_bytes=row.size_bytes,
            content_type=row.content_type,
            file_name=row.file_name,
        )
    )
    return changed.rowcount == 1


def load_local_media(conn: Connection, media_id: str) -> LocalMediaRow | None:
    row = conn.execute(_LOAD_LOCAL, {"media_id": media_id}).one_or_none()
    return None if row is None else LocalMediaRow(*row)


def save_remote_media(conn: Connection, row: RemoteMediaRow) -> bool:
    """False where there is a copy already."""
    return conn.execute(_SAVE_REMOTE, asdict(row)).rowcount == 1


def load_remote_media(conn: Connection, server: str, media_id: str) -> RemoteMediaRow | None:
    row = conn.execute(_LOAD_REMOTE, {"server": server, "media_id": media_id}).one_or_none()
    return None if row is None else RemoteMediaRow(*row)


def save_thumbnail(conn: Connection, key: ThumbnailKey, row: ThumbnailRow) -> bool:
    """False where there is one already."""
    return conn.execute(_SAVE_THUMBNAIL, {**asdict(key), **asdict(row)}).rowcount == 1


def load_thumbnail(conn: Connection, key: ThumbnailKey) -> ThumbnailRow | None:
    row = conn.execute(_LOAD_THUMBNAIL, asdict(key)).one_or_none()
    return None if row is None else ThumbnailRow(*row)
