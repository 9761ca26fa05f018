"""Spaces, and rooms that two users share.

Spec: client-server-api#spaces
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Final

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import RoomId, is_compliant_user_id, parse_room_id, parse_user_id
from homeserver.rooms.hierarchy import MAX_DEPTH, SpaceHierarchies, Walk, parse_walk
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

DEFAULT_LIMIT = 50
MAX_LIMIT = 100
MUTUAL_PAGE = 100
_MARK: Final = re.compile("[0-9a-f]{64}")


class HierarchyPath(msgspec.Struct):
    room_id: str


class HierarchyQuery(msgspec.Struct):
    suggested_only: bool = False
    limit: int = DEFAULT_LIMIT
    max_depth: int | None = None
    from_: str | None = msgspec.field(name="from", default=None)


class MutualQuery(msgspec.Struct):
    user_id: str
    from_: str | None = msgspec.field(name="from", default=None)


class FormerMutualQuery(MutualQuery):
    batch_token: str | None = None


class SpaceEndpoints:
    def __init__(self, hierarchies: SpaceHierarchies, memberships: Memberships) -> None:
        self._hierarchies = hierarchies
        self._memberships = memberships

    @endpoint(
        "GET",
        "/_matrix/client/v1/rooms/{room_id}/hierarchy",
        auth=Auth.GUEST_OK,
        limit="other",
        tag="Spaces",
        aliases=("/_matrix/client/unstable/org.matrix.msc2946/rooms/{room_id}/hierarchy",),
        spec="client-server-api#get_matrixclientv1roomsroomidhierarchy",
    )
    async def get_hierarchy(self, requester: Requester, path: HierarchyPath, query: HierarchyQuery) -> JsonObject:
        walk = _parse_walk(query)
        limit = max(1, min(query.limit, MAX_LIMIT))
        rooms, more = await self._hierarchies.load(parse_room_id(path.room_id), requester.user_id, walk, limit)
        return {"rooms": rooms, **({} if more is None else {"next_batch": more})}

    @endpoint(
        "GET",
        "/_matrix/client/v1/mutual_rooms",
        auth=Auth.USER,
        limit="other",
        tag="Mutual rooms",
        spec="client-server-api#get_matrixclientv1mutual_rooms",
    )
    async def get_mutual_rooms(self, requester: Requester, query: MutualQuery) -> JsonObject:
        user_id = parse_user_id(query.user_id)
        if user_id == requester.user_id:
            raise InvalidParam("user_id", "must be another user's")
        if not is_compliant_user_id(user_id):
            raise InvalidParam("user_id", "is no user id that there may be")
        after = "" if query.from_ is None else _parse_mark(query.from_)
        rooms = await self._memberships.load_many([requester.user_id, user_id])
        theirs = {room_id for room_id, row in rooms[user_id].items() if row.membership == "join"}
        shared = {
            _mark(room_id): room_id
            for room_id, row in rooms[requester.user_id].items()
            if row.membership == "join" and room_id in theirs
        }
        page = sorted(mark for mark in shared if mark > after)
        more = {"next_batch": page[MUTUAL_PAGE - 1]} if len(page) > MUTUAL_PAGE else {}
        return {"joined": [shared[mark] for mark in page[:MUTUAL_PAGE]], "count": len(shared), **more}

    @endpoint(
        "GET",
        "/_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms",
        auth=Auth.USER,
        limit="other",
        tag="Mutual rooms",
    )
    async def get_former_mutual_rooms(self, requester: Requester, query: FormerMutualQuery) -> JsonObject:
        """The same as before v1.19.

        COMPAT(matrix-js-sdk 37): tokens had other names.
        """
        found = await self.get_mutual_rooms(requester, MutualQuery(query.user_id, query.from_ or query.batch_token))
        return {**found, "next_batch_token": found["next_batch"]} if "next_batch" in found else found


def _mark(room_id: RoomId) -> str:
    """The room's place among mutual rooms, and the token of what is behind it.

    Spec: appendices#opaque-identifiers
    """
    return sha256(room_id.encode()).hexdigest()


def _parse_mark(token: str) -> str:
    """Raises: InvalidParam."""
    if _MARK.fullmatch(token) is None:
        raise InvalidParam("from", "not a token of this server")
    return token


def _parse_walk(query: HierarchyQuery) -> Walk:
    """Raises: InvalidParam, also when a token comes with other parameters than those that it was given for."""
    max_depth = MAX_DEPTH if query.max_depth is None else max(0, min(query.max_depth, MAX_DEPTH))
    asked = Walk(query.suggested_only, max_depth)
    if query.from_ is None:
        return asked
    walk = parse_walk(query.from_)
    if (walk.suggested_only, walk.max_depth) != (asked.suggested_only, asked.max_depth):
        raise InvalidParam("from", "the token is for other parameters")
    return walk
