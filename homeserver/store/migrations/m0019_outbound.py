"""What other servers have not got yet."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE outbound_backlogs (
    server TEXT NOT NULL,
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (server, kind, key)
)
""",
    """CREATE INDEX outbound_backlogs_order ON outbound_backlogs (server, kind, position)""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
