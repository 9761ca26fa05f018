"""Media: what users uploaded, what was fetched from other servers, and thumbnails of both.

The content itself is in files; `file_id` says which (media_repo/storage.py).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, Table, Text

from homeserver.store.tables.base import metadata

# Media of this server's users. Without a `file_id` it was announced only, and may be uploaded until `expires_ts_ms`.
local_media = Table(
    "local_media",
    metadata,
    Column("media_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("created_ts_ms", BigInteger, nullable=False),
    Column("expires_ts_ms", BigInteger),
    Column("file_id", Text),
    Column("size_bytes", BigInteger),
    Column("content_type", Text),
    Column("file_name", Text),
)
Index("local_media_user", local_media.c.user_id, local_media.c.expires_ts_ms)
Index("local_media_expiry", local_media.c.expires_ts_ms)

# Copies of other servers' media. `fetched_ts_ms` is when the copy was made.
remote_media = Table(
    "remote_media",
    metadata,
    Column("server", Text, primary_key=True),
    Column("media_id", Text, primary_key=True),
    Column("fetched_ts_ms", BigInteger, nullable=False),
    Column("file_id", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("content_type", Text, nullable=False),
    Column("file_name", Text),
)

# Thumbnails of the file `source_id`. Without a `file_id` the source itself is what is to be served, with this type.
media_thumbnails = Table(
    "media_thumbnails",
    metadata,
    Column("source_id", Text, primary_key=True),
    Column("width", Integer, primary_key=True),
    Column("height", Integer, primary_key=True),
    Column("method", Text, primary_key=True),
    Column("animated", Boolean, primary_key=True),
    Column("content_type", Text, nullable=False),
    Column("file_id", Text),
    Column("size_bytes", BigInteger, nullable=False),
)
