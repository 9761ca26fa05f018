"""Usernames: what may be registered, and whom a login means.

Spec: appendices#user-identifiers
"""

from __future__ import annotations

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import (
    ServerName,
    UserId,
    check_new_localpart,
    domain_of,
    make_user_id,
    parse_user_id,
)


def parse_new_username(username: str, server_name: ServerName) -> UserId:
    """The id of a user to be registered; capitals become small letters.

    Raises: InvalidParam with M_INVALID_USERNAME.
    """
    localpart = username.lower()
    check_new_localpart(localpart, server_name)
    return make_user_id(localpart, server_name)


def login_candidates(username: str, server_name: ServerName) -> list[UserId]:
    """The user ids that may be meant by what was typed, best first; none for users of other servers.

    Capitals are tried as they are first: ids registered elsewhere long ago may have them.
    """
    try:
        typed = parse_user_id(username if username.startswith("@") else f"@{username}:{server_name}")
    except InvalidParam:
        return []
    if domain_of(typed) != server_name:
        return []
    lowered = UserId(typed.removesuffix(server_name).lower() + server_name)
    return [typed] if lowered == typed else [typed, lowered]
