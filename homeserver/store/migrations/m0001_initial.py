"""The first schema."""

from __future__ import annotations

from sqlalchemy import Connection

from homeserver.store.tables import metadata


def upgrade(connection: Connection) -> None:
    metadata.create_all(connection)
    connection.exec_driver_sql("INSERT INTO log_head (id, position) VALUES (1, 0)")
