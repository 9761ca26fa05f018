"""Which operations may answer 502 to 504: those that ask other servers, which may be away, slow, or made up by the request."""

from __future__ import annotations

from typing import Final

UNAVAILABLE: Final = frozenset((502, 503, 504))
V1, V3 = "/_matrix/client/v1", "/_matrix/client/v3"
_ROOM = f"{V3}/rooms/{{room_id}}"
_MEDIA = ("{serverName}/{mediaId}", "{serverName}/{mediaId}/{fileName}")
ASKS_OTHERS: Final = frozenset(
    {
        # a room that no server of ours is in yet, or that others are in
        ("POST", f"{V3}/createRoom"),
        ("POST", f"{V3}/join/{{room_id_or_alias}}"),
        ("POST", f"{V3}/knock/{{room_id_or_alias}}"),
        ("POST", f"{_ROOM}/join"),
        ("POST", f"{_ROOM}/leave"),
        ("POST", f"{_ROOM}/invite"),
        ("PUT", f"{_ROOM}/state/{{event_type}}"),
        ("PUT", f"{_ROOM}/state/{{event_type}}/{{state_key}}"),
        # what only others have
        ("GET", f"{V1}/room_summary/{{room_id_or_alias}}"),
        ("GET", f"{V1}/rooms/{{room_id}}/hierarchy"),
        ("GET", f"{_ROOM}/messages"),
        ("GET", f"{V3}/directory/room/{{room_alias}}"),
        ("GET", f"{V3}/publicRooms"),
        ("POST", f"{V3}/publicRooms"),
        ("GET", f"{V3}/profile/{{user_id}}"),
        ("GET", f"{V3}/profile/{{user_id}}/{{key_name}}"),
        *(("GET", f"{V1}/media/download/{place}") for place in _MEDIA),
        ("GET", f"{V1}/media/thumbnail/{_MEDIA[0]}"),
    }
)


def is_answer(status: int, method: str, template: str) -> bool:
    """Whether a status is one that the operation may answer with, whatever it is asked."""
    return status < 500 or (status in UNAVAILABLE and (method.upper(), template) in ASKS_OTHERS)
