"""Whose invites users take, as their account data says.

Spec: client-server-api#invite-permission
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import orjson
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import UserId
from homeserver.matrix.invite_policy import ANY_INVITE, INVITE_POLICY_TYPES, InvitePolicy, parse_invite_policy
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import account_data as d

_CONTENTS = select(d.c.user_id, d.c.type, d.c.content).where(
    d.c.user_id.in_(bindparam("users", expanding=True)),
    d.c.room_id == "",
    d.c.type.in_(sorted(INVITE_POLICY_TYPES)),
)


def load_invite_policies(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, InvitePolicy]:
    """Those of the (local) users who set any."""
    found: dict[UserId, dict[str, Any]] = {}
    for chunk in chunked(user_ids):
        for row in conn.execute(_CONTENTS, {"users": chunk}):
            found.setdefault(UserId(row.user_id), {})[row.type] = orjson.loads(row.content)
    return {user_id: parse_invite_policy(user_id, contents) for user_id, contents in found.items()}


def load_invite_policy(conn: Connection, user_id: UserId) -> InvitePolicy:
    return load_invite_policies(conn, [user_id]).get(user_id, ANY_INVITE)
