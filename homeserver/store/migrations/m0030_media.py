"""Media: uploads, copies of other servers' media, thumbnails."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE local_media (
    media_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    created_ts_ms BIGINT NOT NULL,
    expires_ts_ms BIGINT,
    file_id TEXT,
    size_bytes BIGINT,
    content_type TEXT,
    file_name TEXT,
    PRIMARY KEY (media_id)
)
""",
    """CREATE INDEX local_media_user ON local_media (user_id, expires_ts_ms)""",
    """CREATE INDEX local_media_expiry ON local_media (expires_ts_ms)""",
    """
CREATE TABLE remote_media (
    server TEXT NOT NULL,
    media_id TEXT NOT NULL,
    fetched_ts_ms BIGINT NOT NULL,
    file_id TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    content_type TEXT NOT NULL,
    file_name TEXT,
    PRIMARY KEY (server, media_id)
)
""",
    """
CREATE TABLE media_thumbnails (
    source_id TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    method TEXT NOT NULL,
    animated BOOLEAN NOT NULL,
    content_type TEXT NOT NULL,
    file_id TEXT,
    size_bytes BIGINT NOT NULL,
    PRIMARY KEY (source_id, width, height, method, animated)
)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
