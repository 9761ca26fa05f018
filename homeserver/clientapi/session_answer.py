"""What login and registration have in common on the wire."""

from __future__ import annotations

import msgspec

from homeserver.accounts.sessions import Session
from homeserver.runtime.http.endpoint import JsonObject


class UserIdentifier(msgspec.Struct, omit_defaults=True):
    """Spec: client-server-api#identifier-types"""

    type: str
    user: str | None = None
    medium: str | None = None
    address: str | None = None


def session_answer(session: Session) -> JsonObject:
    """A new session, as clients are told of it."""
    answer: JsonObject = {
        "user_id": session.user_id,
        "device_id": session.device_id,
        "home_server": session.user_id.partition(":")[2],
        **token_answer(session),
    }
    return answer


def token_answer(session: Session) -> JsonObject:
    """The tokens alone."""
    answer: JsonObject = {"access_token": session.access_token}
    if session.refresh_token is not None:
        answer["refresh_token"] = session.refresh_token
    if session.expires_in_ms is not None:
        answer["expires_in_ms"] = session.expires_in_ms
    return answer
