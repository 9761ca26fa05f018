"""OpenID tokens: by which a user shows to a third party who they are."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

openid_tokens = Table(
    "openid_tokens",
    metadata,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("expires_ts_ms", BigInteger, nullable=False),
)
Index("openid_tokens_expiry", openid_tokens.c.expires_ts_ms)
