"""The first schema."""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    """
CREATE TABLE access_tokens (
    token_hash {blob} NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT,
    created_ts_ms BIGINT NOT NULL,
    expires_ts_ms BIGINT,
    refresh_hash {blob},
    supersedes {blob},
    PRIMARY KEY (token_hash)
)
""",
    """CREATE INDEX access_tokens_device ON access_tokens (user_id, device_id)""",
    """
CREATE TABLE account_data (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    position BIGINT NOT NULL,
    content {blob} NOT NULL,
    PRIMARY KEY (user_id, room_id, type)
)
""",
    """CREATE INDEX account_data_position ON account_data (user_id, position)""",
    """
CREATE TABLE current_state (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, type, state_key)
)
""",
    """
CREATE TABLE cursors (
    name TEXT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (name)
)
""",
    """
CREATE TABLE devices (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT,
    created_ts_ms BIGINT NOT NULL,
    last_seen_ts_ms BIGINT,
    last_seen_ip TEXT,
    last_seen_user_agent TEXT,
    PRIMARY KEY (user_id, device_id)
)
""",
    """
CREATE TABLE event_transactions (
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    scope TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (user_id, device_id, scope)
)
""",
    """
CREATE TABLE events (
    room_id TEXT NOT NULL,
    nid BIGINT NOT NULL,
    timeline_order BIGINT,
    event_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT,
    sender TEXT NOT NULL,
    depth BIGINT NOT NULL,
    origin_server_ts BIGINT NOT NULL,
    json {blob} NOT NULL,
    snapshot_before BIGINT,
    rejected TEXT,
    soft_failed BOOLEAN NOT NULL,
    redacted_by TEXT,
    replaces TEXT,
    txn_device_id TEXT,
    txn_id TEXT,
    push_outcome INTEGER NOT NULL,
    thread_root TEXT,
    PRIMARY KEY (room_id, nid),
    CONSTRAINT events_event_id UNIQUE (event_id, room_id)
)
""",
    """CREATE INDEX events_origin_ts ON events (room_id, origin_server_ts)""",
    """CREATE INDEX events_timeline ON events (room_id, timeline_order)""",
    """
CREATE TABLE filters (
    user_id TEXT NOT NULL,
    filter_id TEXT NOT NULL,
    definition {blob} NOT NULL,
    PRIMARY KEY (user_id, filter_id)
)
""",
    """
CREATE TABLE leases (
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    expires_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (name)
)
""",
    """CREATE INDEX leases_expiry ON leases (expires_ts_ms)""",
    """
CREATE TABLE log (
    position BIGINT NOT NULL,
    kind TEXT NOT NULL,
    "key" TEXT NOT NULL,
    data {blob} NOT NULL,
    PRIMARY KEY (position)
)
""",
    """
CREATE TABLE log_head (
    id INTEGER NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (id)
)
""",
    """
CREATE TABLE login_tokens (
    token_hash {blob} NOT NULL,
    user_id TEXT NOT NULL,
    expires_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (token_hash)
)
""",
    """CREATE INDEX login_tokens_expiry ON login_tokens (expires_ts_ms)""",
    """
CREATE TABLE memberships (
    user_id TEXT NOT NULL,
    room_id TEXT NOT NULL,
    membership TEXT NOT NULL,
    event_id TEXT NOT NULL,
    sender TEXT NOT NULL,
    position BIGINT NOT NULL,
    forgotten BOOLEAN NOT NULL,
    PRIMARY KEY (user_id, room_id)
)
""",
    """CREATE INDEX memberships_room ON memberships (room_id, membership)""",
    """
CREATE TABLE profiles (
    user_id TEXT NOT NULL,
    field TEXT NOT NULL,
    value {blob} NOT NULL,
    PRIMARY KEY (user_id, field)
)
""",
    """
CREATE TABLE receipts (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    receipt_type TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    event_order BIGINT NOT NULL,
    position BIGINT NOT NULL,
    ts_ms BIGINT NOT NULL,
    PRIMARY KEY (room_id, user_id, receipt_type, thread_id)
)
""",
    """CREATE INDEX receipts_position ON receipts (room_id, position)""",
    """CREATE INDEX receipts_user ON receipts (user_id, room_id)""",
    """
CREATE TABLE refresh_tokens (
    token_hash {blob} NOT NULL,
    user_id TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_ts_ms BIGINT NOT NULL,
    expires_ts_ms BIGINT,
    supersedes {blob},
    PRIMARY KEY (token_hash)
)
""",
    """CREATE INDEX refresh_tokens_device ON refresh_tokens (user_id, device_id)""",
    """
CREATE TABLE registration_tokens (
    token TEXT NOT NULL,
    uses_allowed BIGINT,
    uses_completed BIGINT NOT NULL,
    expires_ts_ms BIGINT,
    PRIMARY KEY (token)
)
""",
    """
CREATE TABLE reports (
    report_id BIGINT NOT NULL,
    reporter TEXT NOT NULL,
    room_id TEXT,
    event_id TEXT,
    user_id TEXT,
    reason TEXT,
    received_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (report_id)
)
""",
    """
CREATE TABLE room_aliases (
    alias TEXT NOT NULL,
    room_id TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ts_ms BIGINT NOT NULL,
    PRIMARY KEY (alias)
)
""",
    """CREATE INDEX room_aliases_room ON room_aliases (room_id)""",
    """
CREATE TABLE rooms (
    room_id TEXT NOT NULL,
    version TEXT NOT NULL,
    creator TEXT NOT NULL,
    created_ts_ms BIGINT NOT NULL,
    head_version BIGINT NOT NULL,
    extremities TEXT NOT NULL,
    depth BIGINT NOT NULL,
    snapshot_id BIGINT NOT NULL,
    is_public BOOLEAN NOT NULL,
    joined_members INTEGER NOT NULL,
    PRIMARY KEY (room_id)
)
""",
    """CREATE INDEX rooms_public ON rooms (is_public, joined_members) WHERE is_public""",
    """
CREATE TABLE state_deltas (
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    state_key TEXT NOT NULL,
    position BIGINT NOT NULL,
    event_id TEXT,
    prev_event_id TEXT,
    PRIMARY KEY (room_id, type, state_key, position)
)
""",
    """CREATE INDEX state_deltas_position ON state_deltas (room_id, position)""",
    """
CREATE TABLE state_snapshots (
    room_id TEXT NOT NULL,
    snapshot_id BIGINT NOT NULL,
    height BIGINT NOT NULL,
    base_id BIGINT,
    delta {blob} NOT NULL,
    PRIMARY KEY (room_id, snapshot_id)
)
""",
    """
CREATE TABLE uia_sessions (
    session_id TEXT NOT NULL,
    operation {blob} NOT NULL,
    expires_ts_ms BIGINT NOT NULL,
    completed {blob} NOT NULL,
    PRIMARY KEY (session_id)
)
""",
    """CREATE INDEX uia_sessions_expiry ON uia_sessions (expires_ts_ms)""",
    """
CREATE TABLE users (
    user_id TEXT NOT NULL,
    created_ts_ms BIGINT NOT NULL,
    password_hash TEXT,
    is_guest BOOLEAN NOT NULL,
    is_admin BOOLEAN NOT NULL,
    is_deactivated BOOLEAN NOT NULL,
    is_erased BOOLEAN NOT NULL,
    is_locked BOOLEAN NOT NULL,
    is_suspended BOOLEAN NOT NULL,
    is_departing BOOLEAN NOT NULL,
    appservice_id TEXT,
    user_type TEXT,
    terms_accepted {blob},
    PRIMARY KEY (user_id)
)
""",
    """CREATE INDEX users_departing ON users (user_id) WHERE is_departing""",
)


def upgrade(connection: Connection) -> None:
    blob = "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement.replace("{blob}", blob))
    connection.exec_driver_sql("INSERT INTO log_head (id, position) VALUES (1, 0)")
