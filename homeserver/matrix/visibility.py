"""May this user see this event? Decided from what the state was at the event; nothing is looked up here.

The caller describes the room as the user met it just before the event and just after it. For most events
both are the same `Sight`. They differ for m.room.history_visibility events and for the user's own
membership; an event is visible if either side lets the user see it, so a change is never hidden from those
whom it concerns.

Spec: client-server-api#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import attrs

_DEFAULT = "shared"
_KNOWN = frozenset({"world_readable", "shared", "invited", "joined"})
_IN_CONTACT = frozenset({"join", "invite", "knock"})
_ENDED = frozenset({"leave", "ban"})


@attrs.frozen
class Sight:
    """History visibility of the room and the membership of one user, at one point in the room's history."""

    visibility: str = _DEFAULT
    membership: str | None = None


def parse_visibility(content: dict[str, Any] | None) -> str:
    """The value of an m.room.history_visibility event's content; absent or not understood is "shared".

    Spec: client-server-api#mroomhistory_visibility
    """
    value = content.get("history_visibility") if content is not None else None
    return value if isinstance(value, str) and value in _KNOWN else _DEFAULT


def can_see(before: Sight, after: Sight | None = None, *, joined_later: bool, own_membership: bool = False) -> bool:
    """Whether the user may see an event.

    `after` is given when the event changed the visibility or the user's own membership. `joined_later`: the
    user joined at any point after the event was sent (it need not still hold). `own_membership`: the event
    is the m.room.member event of this user.

    Spec: client-server-api#room-history-visibility
    """
    if after is None:
        return _allows(before, joined_later)
    if own_membership and before.membership in _IN_CONTACT and after.membership in _ENDED:
        # SPEC: "before or after would allow it" hides a refused or withdrawn invitation unless visibility
        # is "invited"; the invitation would then stay on the user's screen for ever. Their own way out is
        # always theirs to see.
        return True
    return _allows(before, joined_later) or _allows(after, joined_later)


def _allows(sight: Sight, joined_later: bool) -> bool:
    # 1. World-readable history is for everybody.
    if sight.visibility == "world_readable":
        return True
    # 2. The user was in the room.
    if sight.membership == "join":
        return True
    # 3. Shared history opens with any later join. A value that is not understood counts as shared.
    if sight.visibility not in ("invited", "joined"):
        return joined_later
    # 4. From the invitation on; 5. otherwise not.
    return sight.visibility == "invited" and sight.membership == "invite"


def can_server_see(visibility: str, memberships: Collection[str]) -> bool:
    """Whether a server that is in the room may be given an event: `memberships` are those of its users at
    the event.

    Spec: server-server-api#backfilling-and-retrieving-missing-events
    """
    if visibility in ("world_readable", "shared"):
        return True
    allowed = ("join", "invite") if visibility == "invited" else ("join",)
    return any(membership in allowed for membership in memberships)
