"""Push rules: what users changed in, or added to, the predefined ones."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, Table, Text

from homeserver.store.tables.base import metadata

push_rules = Table(
    "push_rules",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("rules", LargeBinary, nullable=False),  # RuleSet.to_stored as JSON; no row: the predefined rules
)
