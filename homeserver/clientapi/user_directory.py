"""Finding users.

Spec: client-server-api#user-directory
"""

from __future__ import annotations

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import InvalidParam
from homeserver.rooms.user_directory import UserDirectory
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.store.user_directory import FoundUser

DEFAULT_LIMIT = 10
MAX_LIMIT = 50
MAX_TERM_LENGTH = 255


class SearchBody(msgspec.Struct):
    search_term: str
    limit: int = DEFAULT_LIMIT


class UserDirectoryEndpoints:
    def __init__(self, directory: UserDirectory) -> None:
        self._directory = directory

    @endpoint(
        "POST",
        "/_matrix/client/v3/user_directory/search",
        auth=Auth.USER,
        limit="search",
        tag="User directory",
        spec="client-server-api#post_matrixclientv3user_directorysearch",
    )
    async def post_search(self, requester: Requester, body: SearchBody) -> JsonObject:
        if len(body.search_term) > MAX_TERM_LENGTH:
            raise InvalidParam("search_term", f"must have at most {MAX_TERM_LENGTH} characters")
        limit = max(0, min(body.limit, MAX_LIMIT))
        words = body.search_term.casefold().split()
        found = await self._directory.search(requester.user_id, words, limit)
        return {"results": [_answer(user) for user in found[:limit]], "limited": len(found) > limit}


def _answer(user: FoundUser) -> JsonObject:
    fields = {"user_id": user.user_id, "display_name": user.display_name, "avatar_url": user.avatar_url}
    shown = {name: value for name, value in fields.items() if value}
    if not shown.get("avatar_url", "mxc://").startswith("mxc://"):
        del shown["avatar_url"]
    return shown
