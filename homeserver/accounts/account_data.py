"""Account data and tags: what clients keep for their user, globally and per room.

Log rows made here: "account_data" {room_id (None for global), type}, keyed by user id. With devices that go ("device" rows of
accounts/sessions) goes the account data about them.

Spec: client-server-api#client-config
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.limits import MAX_TAG_BYTES, MAX_TYPE_BYTES, check_text
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import BadJson, NotFound
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.invite_policy import INVITE_FILTER, check_invite_filter
from homeserver.runtime.db import Database
from homeserver.store import account_data as store
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter

TAG_TYPE = "m.tag"
PUSH_RULES_TYPE = "m.push_rules"
# Set through endpoints of their own; readable like any other.
SERVER_MANAGED_TYPES = frozenset({"m.fully_read", PUSH_RULES_TYPE})

ACCOUNT_DATA = "account_data"
PUSH_RULES = "push_rules"

LoadContent = Callable[[UserId], Awaitable[bytes]]


@define(eq=False)
class AccountData:
    """elsewhere: types of global account data that are kept as something else, each with what loads the content as JSON."""

    database: Database
    log_writer: LogWriter
    elsewhere: dict[str, LoadContent] = field(factory=dict)

    async def load(self, user_id: UserId, room_id: RoomId | None, type_: str) -> bytes:
        """The content, as JSON.

        Raises: NotFound, InvalidParam.
        """
        check_text("type", type_, MAX_TYPE_BYTES)
        if room_id is None and type_ in self.elsewhere:
            return await self.elsewhere[type_](user_id)
        content = await self.database.read(store.load_account_data, user_id, room_id or store.GLOBAL, type_)
        if content is None:
            raise NotFound("Account data not found")
        return content

    async def set(self, user_id: UserId, room_id: RoomId | None, type_: str, content: dict[str, Any]) -> None:
        """Raises: InvalidParam; BadJson (405) for types that the server manages."""
        check_text("type", type_, MAX_TYPE_BYTES)
        if type_ in SERVER_MANAGED_TYPES:
            raise BadJson(f"{type_} can't be set as account data", status=405)
        if room_id is None and type_ == INVITE_FILTER:
            check_invite_filter(content)
        encoded = encode_json(content)

        def save(conn: Connection, position: int) -> None:
            store.save_account_data(conn, user_id, room_id or store.GLOBAL, type_, encoded, position)

        await self.log_writer.submit(LogItem("account_data", user_id, {"room_id": room_id, "type": type_}, save))

    async def load_tags(self, user_id: UserId, room_id: RoomId) -> dict[str, Any]:
        """The room's tags, with what is known of each.

        Spec: client-server-api#room-tagging
        """
        content = await self.database.read(store.load_account_data, user_id, room_id, TAG_TYPE)
        tags = orjson.loads(content).get("tags") if content is not None else None
        return tags if isinstance(tags, dict) else {}

    async def set_tag(self, user_id: UserId, room_id: RoomId, tag: str, value: dict[str, Any]) -> None:
        """Raises: InvalidParam."""
        check_text("tag", tag, MAX_TAG_BYTES)
        await self._save_tag(user_id, room_id, tag, value)

    async def remove_tag(self, user_id: UserId, room_id: RoomId, tag: str) -> None:
        await self._save_tag(user_id, room_id, tag, None)

    async def _save_tag(self, user_id: UserId, room_id: RoomId, tag: str, value: dict[str, Any] | None) -> None:
        def save(conn: Connection, position: int) -> None:
            store.save_tag(conn, user_id, room_id, tag, value, position)

        await self.log_writer.submit(LogItem("account_data", user_id, {"room_id": room_id, "type": TAG_TYPE}, save))


def kind_changed_by(row: LogRow) -> str | None:
    """ACCOUNT_DATA or PUSH_RULES, where the row may have changed that of the user it is keyed by."""
    if row.kind in (ACCOUNT_DATA, PUSH_RULES):
        return row.kind
    return ACCOUNT_DATA if row.kind == "device" and row.data.get("deleted") else None
