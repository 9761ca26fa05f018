"""Accounts: users, devices, tokens, interactive-auth sessions, profiles, account data and filters.

Tokens are stored as hashes only. JSON is stored as bytes: it is never looked into by SQL, and bytes may hold
what PostgreSQL's text may not (NUL).
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Boolean, Column, Index, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata, partial

users = Table(
    "users",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("created_ts_ms", BigInteger, nullable=False),
    Column("password_hash", Text, nullable=True),  # NULL: no login by password
    Column("is_guest", Boolean, nullable=False, default=False),
    Column("is_admin", Boolean, nullable=False, default=False),
    Column("is_deactivated", Boolean, nullable=False, default=False),
    Column("is_erased", Boolean, nullable=False, default=False),
    Column("is_locked", Boolean, nullable=False, default=False),
    Column("is_suspended", Boolean, nullable=False, default=False),
    # Deactivated, but not yet known to have left every room: resumed at start.
    Column("is_departing", Boolean, nullable=False, default=False),
    Column("appservice_id", Text, nullable=True),
    Column("user_type", Text, nullable=True),
    # Which versions of the terms were accepted at registration: {policy: version}.
    Column("terms_accepted", LargeBinary, nullable=True),
)
Index(
    "users_departing",
    users.c.user_id,
    info=partial(users.c.is_departing),
)

devices = Table(
    "devices",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("device_id", Text, primary_key=True),
    Column("display_name", Text, nullable=True),
    Column("created_ts_ms", BigInteger, nullable=False),
    Column("last_seen_ts_ms", BigInteger, nullable=True),
    Column("last_seen_ip", Text, nullable=True),
    Column("last_seen_user_agent", Text, nullable=True),
)

access_tokens = Table(
    "access_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=True),  # NULL: a token of an admin for another user
    Column("created_ts_ms", BigInteger, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=True),
    Column("refresh_hash", LargeBinary, nullable=True),  # the refresh token handed out together with it
    # The refresh token it was made from; that one dies when this one is first used, and this becomes NULL.
    Column("supersedes", LargeBinary, nullable=True),
)
Index("access_tokens_device", access_tokens.c.user_id, access_tokens.c.device_id)

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("device_id", Text, nullable=False),
    Column("created_ts_ms", BigInteger, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=True),
    Column("supersedes", LargeBinary, nullable=True),  # as in access_tokens
)
Index("refresh_tokens_device", refresh_tokens.c.user_id, refresh_tokens.c.device_id)

login_tokens = Table(
    "login_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=False),
)
Index("login_tokens_expiry", login_tokens.c.expires_ts_ms)

registration_tokens = Table(
    "registration_tokens",
    metadata,
    Column("token", Text, primary_key=True),
    Column("uses_allowed", BigInteger, nullable=True),  # NULL: any number
    Column("uses_completed", BigInteger, nullable=False, default=0),
    Column("expires_ts_ms", BigInteger, nullable=True),
)

uia_sessions = Table(
    "uia_sessions",
    metadata,
    Column("session_id", Text, primary_key=True),
    # What is being authorised: a hash of method, path and user. A session is good for nothing else.
    Column("operation", LargeBinary, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=False),
    Column("completed", LargeBinary, nullable=False),  # JSON: {stage: what the stage recorded}
)
Index("uia_sessions_expiry", uia_sessions.c.expires_ts_ms)

profiles = Table(
    "profiles",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("field", Text, primary_key=True),
    Column("value", LargeBinary, nullable=False),  # JSON
)

account_data = Table(
    "account_data",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("room_id", Text, primary_key=True),  # "" for global account data
    Column("type", Text, primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("content", LargeBinary, nullable=False),  # JSON
)
Index("account_data_position", account_data.c.user_id, account_data.c.position)

filters = Table(
    "filters",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("filter_id", Text, primary_key=True),  # a hash of the definition, so equal filters are one row
    Column("definition", LargeBinary, nullable=False),  # JSON
)
