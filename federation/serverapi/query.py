"""Aliases and profiles of this server, for other servers.

Spec: server-server-api#querying-for-information
"""

from __future__ import annotations

from typing import Final

import msgspec

from homeserver.accounts.profiles import Profiles, check_field_name
from homeserver.matrix.errors import NotFound, Unrecognized
from homeserver.matrix.ids import ServerName, domain_of, parse_room_alias, parse_user_id
from homeserver.rooms.aliases import Aliases
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Federation: queries"
V1: Final = "/_matrix/federation/v1"


class DirectoryQuery(msgspec.Struct, frozen=True):
    room_alias: str


class ProfileQuery(msgspec.Struct, frozen=True):
    user_id: str
    field: str | None = None


class QueryPath(msgspec.Struct, rename="camel", frozen=True):
    query_type: str


class QueryEndpoints:
    def __init__(self, server_name: ServerName, aliases: Aliases, profiles: Profiles) -> None:
        self._server_name = server_name
        self._aliases = aliases
        self._profiles = profiles

    @endpoint(
        "GET",
        f"{V1}/query/directory",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1querydirectory",
    )
    async def get_directory(self, query: DirectoryQuery) -> JsonObject:
        """The room of an alias, and servers in it."""
        alias = parse_room_alias(query.room_alias)
        if domain_of(alias) != self._server_name:
            raise NotFound("That is no alias of this server")
        found = await self._aliases.resolve(alias)
        return {"room_id": found.room_id, "servers": list(found.servers)}

    @endpoint(
        "GET",
        f"{V1}/query/profile",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1queryprofile",
    )
    async def get_profile(self, query: ProfileQuery) -> JsonObject:
        """A user's profile, or one field of it. A field that is not set is left out."""
        user_id = parse_user_id(query.user_id)
        if query.field is not None:
            check_field_name(query.field)
        if domain_of(user_id) != self._server_name:
            raise NotFound("That is no user of this server")
        profile = await self._profiles.load_profile(user_id)
        return {name: value for name, value in profile.items() if query.field in (None, name)}

    @endpoint(
        "GET",
        f"{V1}/query/{{queryType}}",
        auth=Auth.SERVER,
        resource="federation",
        tag=TAG,
        spec="server-server-api#get_matrixfederationv1queryquerytype",
    )
    def get_other(self, path: QueryPath) -> JsonObject:
        """Other questions have no answer here."""
        raise Unrecognized("This server does not know that kind of query")
