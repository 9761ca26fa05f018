"""What members of rooms are found by in the user directory; those that are stored already get it in the background."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    "ALTER TABLE memberships ADD COLUMN words TEXT",
    "CREATE INDEX memberships_wordless ON memberships (room_id) WHERE membership = 'join' AND words IS NULL",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
