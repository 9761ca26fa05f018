"""Who takes no invites.

Spec: client-server-api#minvite_permission_config
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import orjson
from sqlalchemy import Connection, bindparam, select

from homeserver.matrix.ids import UserId
from homeserver.store.events import chunked
from homeserver.store.tables.accounts import account_data as d

INVITE_PERMISSION_TYPE: Final = "m.invite_permission_config"
_CONFIGS = select(d.c.user_id, d.c.content).where(
    d.c.user_id.in_(bindparam("users", expanding=True)),
    d.c.room_id == "",
    d.c.type == INVITE_PERMISSION_TYPE,
)


def load_invite_blockers(conn: Connection, user_ids: Collection[UserId]) -> set[UserId]:
    """Those of the (local) users who block all invites."""
    return {
        UserId(row.user_id)
        for chunk in chunked(user_ids)
        for row in conn.execute(_CONFIGS, {"users": chunk})
        if orjson.loads(row.content).get("default_action") == "block"
    }
