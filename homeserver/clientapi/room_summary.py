"""Room summaries.

Spec: client-server-api#room-summaries
"""

from __future__ import annotations

from typing import Final

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.clientapi.room_membership import ViaQuery
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.summary import RoomSummaries
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Room Summaries"
FORMER: Final = "/_matrix/client/unstable/im.nheko.summary"
NEW_FIELDS: Final = ("room_version", "encryption")


class RoomOrAliasPath(msgspec.Struct, frozen=True):
    room_id_or_alias: str


class RoomSummaryEndpoints:
    def __init__(self, summaries: RoomSummaries, aliases: Aliases) -> None:
        self._summaries = summaries
        self._aliases = aliases

    @endpoint(
        "GET",
        "/_matrix/client/v1/room_summary/{room_id_or_alias}",
        auth=Auth.OPTIONAL,
        spec="client-server-api#get_matrixclientv1room_summaryroomidoralias",
        tag=TAG,
    )
    async def get_summary(self, requester: Requester | None, path: RoomOrAliasPath, query: ViaQuery) -> JsonObject:
        """What a room is, for people who are not in it."""
        room_id, via = await self._aliases.resolve_room(path.room_id_or_alias, query.parse())
        return await self._summaries.load(room_id, requester.user_id if requester is not None else None, via)

    @endpoint(
        "GET",
        f"{FORMER}/summary/{{room_id_or_alias}}",
        auth=Auth.OPTIONAL,
        tag=TAG,
        aliases=(f"{FORMER}/rooms/{{room_id_or_alias}}/summary",),
    )
    async def get_former_summary(
        self, requester: Requester | None, path: RoomOrAliasPath, query: ViaQuery
    ) -> JsonObject:
        """The same as before v1.15: what was new in it has a prefix, too.

        COMPAT(matrix-js-sdk 37, Nheko, Element Call, which has a call encrypted by that)
        """
        summary = await self.get_summary(requester, path, query)
        prefixed = {f"im.nheko.summary.{name}": summary[name] for name in NEW_FIELDS if name in summary}
        return {**summary, **prefixed}
