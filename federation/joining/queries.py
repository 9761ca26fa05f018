"""What users ask of other servers: aliases, profiles, the directory, and rooms that nobody here is in.

Spec: server-server-api#querying-for-information
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from federation.client import V1, FederationClient, quote_path
from federation.errors import BadAnswer, RemoteRefused
from federation.joining.residents import client_error
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import RoomAlias, RoomId, ServerName, UserId, domain_of, is_server_name, parse_room_id
from homeserver.rooms.ports import ResolvedAlias

TIMEOUT_MS: Final = 20_000
MAX_ALIAS_SERVERS: Final = 100
MAX_PROFILE_BYTES: Final = 256 * 1024
MAX_ROOMS_BYTES: Final = 4 * 1024 * 1024


@define(eq=False)
class Queries:
    client: FederationClient

    async def fetch_alias(self, alias: RoomAlias) -> ResolvedAlias:
        """Raises: NotFound, RemoteUnreachable, BadAnswer.

        Spec: server-server-api#get_matrixfederationv1querydirectory
        """
        server = domain_of(alias)
        try:
            answer = await self._get(server, f"{V1}/query/directory", {"room_alias": alias}, MAX_PROFILE_BYTES)
        except RemoteRefused as error:
            if error.status == 404:
                raise NotFound(f"Room alias {alias} not found") from None
            raise client_error(error) from None
        room_id = answer.get("room_id") if isinstance(answer, dict) else None
        if not isinstance(room_id, str) or not _is_room_id(room_id):
            raise BadAnswer(server, "the alias leads to no room")
        listed = answer.get("servers")
        names = listed[:MAX_ALIAS_SERVERS] if isinstance(listed, list) else []
        servers = [ServerName(name) for name in names if isinstance(name, str) and is_server_name(name)]
        return ResolvedAlias(RoomId(room_id), list(dict.fromkeys([*servers, server])))

    async def fetch_profile(self, user_id: UserId) -> dict[str, Any]:
        """Raises: NotFound, RemoteUnreachable, BadAnswer.

        Spec: server-server-api#get_matrixfederationv1queryprofile
        """
        server = domain_of(user_id)
        try:
            answer = await self._get(server, f"{V1}/query/profile", {"user_id": user_id}, MAX_PROFILE_BYTES)
        except RemoteRefused as error:
            if error.status in (403, 404):
                raise NotFound("Profile not found") from None
            raise client_error(error) from None
        if not isinstance(answer, dict):
            raise BadAnswer(server, "the profile is no object")
        return {name: value for name, value in answer.items() if _is_field(name, value)}

    async def fetch_public_rooms(self, server: ServerName, query: Mapping[str, Any]) -> dict[str, Any]:
        """Raises: RemoteUnreachable, BadAnswer, and what the server answers.

        Spec: server-server-api#post_matrixfederationv1publicrooms
        """
        try:
            answer = await self.client.post(
                server,
                f"{V1}/publicRooms",
                dict(query),
                timeout_ms=TIMEOUT_MS,
                max_bytes=MAX_ROOMS_BYTES,
                patient=True,
            )
        except RemoteRefused as error:
            raise client_error(error) from None
        return _parse_public_rooms(server, answer)

    async def fetch_hierarchy(self, server: ServerName, room_id: RoomId) -> dict[str, Any]:
        """The answer as it is, an object. Raises: RemoteRefused, RemoteUnreachable, BadAnswer.

        Spec: server-server-api#get_matrixfederationv1hierarchyroomid
        """
        answer = await self._get(server, quote_path(f"{V1}/hierarchy", room_id), {}, MAX_ROOMS_BYTES)
        if not isinstance(answer, dict):
            raise BadAnswer(server, "it is no object")
        return answer

    async def _get(self, server: ServerName, path: str, query: Mapping[str, str], max_bytes: int) -> Any:
        return await self.client.get(
            server, path, query or None, timeout_ms=TIMEOUT_MS, max_bytes=max_bytes, patient=True
        )


def _is_room_id(text: str) -> bool:
    try:
        parse_room_id(text)
    except InvalidParam:
        return False
    return True


def _is_field(name: str, value: Any) -> bool:
    return name not in ("displayname", "avatar_url") or isinstance(value, str)


def _parse_public_rooms(server: ServerName, answer: Any) -> dict[str, Any]:
    """The page with only what a page has, of the right types."""
    chunk = answer.get("chunk") if isinstance(answer, dict) else None
    if not isinstance(chunk, list):
        raise BadAnswer(server, "there is no list of rooms in it")
    page: dict[str, Any] = {"chunk": [room for room in chunk if is_room_entry(room)]}
    for name, kind in (("next_batch", str), ("prev_batch", str), ("total_room_count_estimate", int)):
        if isinstance(answer.get(name), kind):
            page[name] = answer[name]
    return page


_REQUIRED: Final = {"room_id": str, "num_joined_members": int, "world_readable": bool, "guest_can_join": bool}
_OPTIONAL: Final = ("name", "topic", "avatar_url", "canonical_alias", "join_rule", "room_type", "room_version")


def is_room_entry(room: Any) -> bool:
    """A PublishedRoomsChunk that clients can read.

    Spec: client-server-api#get_matrixclientv3publicrooms
    """
    return (
        isinstance(room, dict)
        and all(isinstance(room.get(name), kind) for name, kind in _REQUIRED.items())
        and _is_room_id(room["room_id"])
        and all(isinstance(room.get(name), str | None) for name in _OPTIONAL)
    )
