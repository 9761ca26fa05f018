"""End-to-end encryption: device keys, cross-signing, to-device messages, key backups."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE device_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    json {blob} NOT NULL,
    PRIMARY KEY (user_id, device_id)
)
""",
    """
CREATE TABLE one_time_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    place INTEGER NOT NULL,
    json {blob} NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
)
""",
    """CREATE INDEX one_time_keys_order ON one_time_keys (user_id, device_id, algorithm, position, place)""",
    """
CREATE TABLE fallback_keys (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    key_id TEXT NOT NULL,
    json {blob} NOT NULL,
    is_used BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
)
""",
    """
CREATE TABLE cross_signing_keys (
    user_id TEXT NOT NULL,
    usage TEXT NOT NULL,
    json {blob} NOT NULL,
    PRIMARY KEY (user_id, usage)
)
""",
    """
CREATE TABLE key_signatures (
    user_id TEXT NOT NULL,
    target TEXT NOT NULL,
    signer_user_id TEXT NOT NULL,
    signer_key_id TEXT NOT NULL,
    signature TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id, target, signer_user_id, signer_key_id)
)
""",
    """CREATE INDEX key_signatures_signer ON key_signatures (signer_user_id, position)""",
    """
CREATE TABLE device_list_changes (
    user_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (user_id)
)
""",
    """CREATE INDEX device_list_changes_position ON device_list_changes (position)""",
    """
CREATE TABLE remote_device_lists (
    user_id TEXT NOT NULL,
    stream_id BIGINT NOT NULL,
    is_stale BOOLEAN NOT NULL,
    PRIMARY KEY (user_id)
)
""",
    """
CREATE TABLE to_device_messages (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    json {blob} NOT NULL,
    PRIMARY KEY (user_id, device_id, position)
)
""",
    """
CREATE TABLE to_device_transactions (
    sender TEXT NOT NULL,
    device_id TEXT NOT NULL,
    txn_id TEXT NOT NULL,
    received_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (sender, device_id, txn_id)
)
""",
    """CREATE INDEX to_device_transactions_age ON to_device_transactions (received_ts_ms)""",
    """
CREATE TABLE key_backups (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    algorithm TEXT NOT NULL,
    auth_data {blob} NOT NULL,
    etag BIGINT NOT NULL,
    key_count BIGINT NOT NULL,
    is_deleted BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, version)
)
""",
    """
CREATE TABLE key_backup_sessions (
    user_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    room_id TEXT NOT NULL,
    session_id TEXT NOT NULL,
    first_message_index BIGINT NOT NULL,
    forwarded_count BIGINT NOT NULL,
    is_verified BOOLEAN NOT NULL,
    session_data {blob} NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
)
""",
    """
CREATE TABLE dehydrated_devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    device_data {blob} NOT NULL,
    PRIMARY KEY (user_id)
)
""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
