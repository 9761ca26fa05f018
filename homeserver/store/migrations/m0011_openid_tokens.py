"""OpenID tokens."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE openid_tokens (
    token_hash {blob} NOT NULL,
    user_id TEXT NOT NULL,
    expires_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (token_hash)
)
""",
    """CREATE INDEX openid_tokens_expiry ON openid_tokens (expires_ts_ms)""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
