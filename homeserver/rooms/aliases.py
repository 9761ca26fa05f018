"""Room aliases.

Log rows made here: "alias" {alias, deleted}, keyed by room id.

Spec: client-server-api#room-aliases
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import define
from sqlalchemy import Connection

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError, NotFound
from homeserver.matrix.ids import (
    RoomAlias,
    RoomId,
    ServerName,
    UserId,
    domain_of,
    is_room_alias,
    parse_room_id_or_alias,
)
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.errors import AliasTaken
from homeserver.rooms.head import RoomHead
from homeserver.rooms.ports import RemoteServers, ResolvedAlias
from homeserver.rooms.writer import Draft, RoomWriter
from homeserver.runtime.db import Database
from homeserver.store.aliases import AliasRow, delete_alias, load_alias, load_aliases_of_room, save_alias
from homeserver.store.log_writer import LogItem

CANONICAL_ALIAS = ("m.room.canonical_alias", "")


@define(eq=False)
class Aliases:
    """Finds rooms by alias; makes and removes this server's aliases."""

    config: RoomsConfig
    database: Database
    writer: RoomWriter
    remote: RemoteServers

    async def resolve(self, alias: RoomAlias) -> ResolvedAlias:
        """Raises: NotFound.

        Spec: client-server-api#get_matrixclientv3directoryroomroomalias
        """
        if domain_of(alias) != self.writer.server_name:
            return await self.remote.fetch_alias(alias)
        row = await self.database.read(load_alias, alias)
        if row is None:
            raise NotFound(f"Room alias {alias} not found")
        return ResolvedAlias(row.room_id, await self._load_servers(row.room_id))

    async def resolve_room(
        self, room_id_or_alias: str, via: Sequence[ServerName] = ()
    ) -> tuple[RoomId, Sequence[ServerName]]:
        """The room that is meant, and the servers to reach it through: those asked for, then those of the alias.

        Raises: InvalidParam, NotFound.
        """
        named = parse_room_id_or_alias(room_id_or_alias)
        if not is_room_alias(named):
            return RoomId(named), via
        resolved = await self.resolve(RoomAlias(named))
        return resolved.room_id, list(dict.fromkeys([*via, *resolved.servers]))

    async def create(self, requester: Requester, alias: RoomAlias, room_id: RoomId) -> None:
        """Raises: InvalidParam (not of this server), NotFound (no such room), Forbidden, AliasTaken.

        Spec: client-server-api#put_matrixclientv3directoryroomroomalias
        """
        requester.check_not_suspended()
        if domain_of(alias) != self.writer.server_name:
            raise InvalidParam("room_alias", "this server can't make aliases of other servers")
        if any(character.isspace() for character in alias):
            raise InvalidParam("room_alias", "must be without spaces")
        head = await self.writer.heads.load(room_id)
        if self.config.alias_requires_membership and not head.is_joined(requester.user_id):
            raise Forbidden("You must be in the room to give it an alias")
        if await self.database.read(load_alias, alias):
            raise AliasTaken(f"Room alias {alias} already exists")
        row = AliasRow(alias, room_id, requester.user_id, self.writer.clock.time_ms())

        def save(conn: Connection, _position: int) -> None:
            if not save_alias(conn, row):
                raise AliasTaken(f"Room alias {alias} already exists")

        await self.writer.log.submit(LogItem("alias", room_id, {"alias": alias, "deleted": False}, save))

    async def delete(self, requester: Requester, alias: RoomAlias) -> None:
        """Remove an alias, also from the room's m.room.canonical_alias where the requester may change that.

        Raises: NotFound, Forbidden.

        Spec: client-server-api#delete_matrixclientv3directoryroomroomalias
        """
        row = await self.database.read(load_alias, alias)
        if row is None:
            raise NotFound(f"Room alias {alias} not found")
        head = (await self.writer.heads.load_many([row.room_id])).get(row.room_id)
        may_change = head is not None and may_set_canonical_alias(head, requester.user_id)
        if row.creator != requester.user_id and not may_change and not requester.is_admin:
            raise Forbidden("You may not delete this alias")

        def save(conn: Connection, _position: int) -> None:
            delete_alias(conn, alias)

        await self.writer.log.submit(LogItem("alias", row.room_id, {"alias": alias, "deleted": True}, save))
        if head is not None and may_change:
            await self._withdraw(requester.user_id, head, alias)

    async def load_of_room(self, requester: Requester, room_id: RoomId) -> list[RoomAlias]:
        """This server's aliases of a room, for its members and for all where it is world-readable. Raises: Forbidden.

        Spec: client-server-api#get_matrixclientv3roomsroomidaliases
        """
        head = (await self.writer.heads.load_many([room_id])).get(room_id)
        if head is None or not (head.is_joined(requester.user_id) or head.history_visibility == "world_readable"):
            raise Forbidden("You are not in this room, or it does not exist")
        return await self.database.read(load_aliases_of_room, room_id)

    async def _load_servers(self, room_id: RoomId) -> list[ServerName]:
        """Servers in the room, this one first."""
        head = (await self.writer.heads.load_many([room_id])).get(room_id)
        others = head.joined_servers() - {self.writer.server_name} if head is not None else set()
        return [self.writer.server_name, *sorted(others)]

    async def _withdraw(self, user_id: UserId, head: RoomHead, alias: RoomAlias) -> None:
        """Take a deleted alias out of m.room.canonical_alias. The alias is gone already, so no failure matters."""
        event_id = head.state.get(CANONICAL_ALIAS)
        event = await self.writer.events.load(event_id, head.room_id, head.version) if event_id else None
        content = _without(event.pdu.content, alias) if event is not None else None
        if event is None or content is None:
            return
        draft = Draft(CANONICAL_ALIAS[0], user_id, content, "")

        def plan(head: RoomHead) -> Sequence[Draft]:
            return [draft] if head.state.get(CANONICAL_ALIAS) == event_id else []

        try:
            await self.writer.write(head.room_id, plan)
        except MatrixError:
            return


def may_set_canonical_alias(head: RoomHead, user_id: UserId) -> bool:
    """The user is in the room and has the power to choose its main alias."""
    levels = head.power_levels
    return head.is_joined(user_id) and levels.user(user_id) >= levels.event("m.room.canonical_alias", True)


def _without(content: dict[str, Any], alias: RoomAlias) -> dict[str, Any] | None:
    """The content of m.room.canonical_alias without an alias; None if that is not in it."""
    changed = dict(content)
    if changed.get("alias") == alias:
        del changed["alias"]
    alternatives = changed.get("alt_aliases")
    if isinstance(alternatives, list) and alias in alternatives:
        changed["alt_aliases"] = [other for other in alternatives if other != alias]
    return changed if changed != content else None
