"""What admins may set about rooms."""

from __future__ import annotations

from homeserver.matrix.versions import ROOM_VERSIONS
from homeserver.runtime.config import section, setting


@section("rooms")
class RoomsConfig:
    """Rooms, their aliases and the directory of published rooms."""

    default_version: str = setting(
        "12", help="Version of rooms whose creator names none.", choices=tuple(ROOM_VERSIONS)
    )
    publish_requires_membership: bool = setting(
        True,
        help="Whether only members with the power to set a room's main alias may publish it in the directory.",
    )
    directory_requires_auth: bool = setting(
        False, help="Whether the directory of published rooms is shown only to people who are logged in."
    )
    empty_room_grace_days: int = setting(
        30,
        help="After how many days a room is deleted that none of this server's users is in or invited to. "
        "Those who left it can't read in it then any more. 0: never.",
        minimum=0,
        maximum=36_500,
    )
    thread_subscriptions: bool = setting(
        False,
        help="Whether what is said in a thread notifies only those who are subscribed to the thread, and whom it mentions "
        "(MSC4306). People whose client can't subscribe are then not told of threads.",
    )
    kept_history_events: int = setting(
        100_000,
        help="How many events of a room are kept from before this server came into it, which are fetched from other servers "
        "when somebody reads back so far. The oldest are let go, and fetched again by whoever wants to read them. 0: keep all.",
        minimum=0,
    )
    alias_requires_membership: bool = setting(True, help="Whether one must be in a room to give it an alias.")


@section("identity_servers")
class IdentityServersConfig:
    """Identity servers, over which people are invited by e-mail address. The user's client says which one is asked."""

    enabled: bool = setting(True, help="Whether people may be invited by an address.")
    allowed: list[str] = setting(
        [], help='The only identity servers to ask, such as "vector.im" or "id.example.org:8443". Empty: all.'
    )
