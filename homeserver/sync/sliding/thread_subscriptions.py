"""What sliding sync tells of subscriptions to threads.

Spec: MSC4308
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from homeserver.store.thread_subscriptions import ThreadSubscription, load_subscription_changes
from homeserver.sync.sliding.request import Extension
from homeserver.sync.view import Lookup, View

MAX_CHANGES: Final = 100
_KIND: Final = "thread_subscription"


def tell_thread_subscriptions(view: View, extension: Extension, after: int) -> tuple[Any, bool]:
    """The newest changes behind the position; `prev_batch` where there are more."""
    recent = view.sources.recent
    if after >= recent.floor and not any(row.kind == _KIND for row in recent.rows_after(view.user_id, after)):
        return None, False
    limit = max(1, min(extension.limit, MAX_CHANGES))
    found = _load_changes(view, after, limit + 1)
    if not found:
        return None, False
    more = {"prev_batch": str(found[limit - 1].position)} if len(found) > limit else {}
    return {**encode_changes(found[:limit]), **more}, True


def _load_changes(view: View, after: int, limit: int) -> Sequence[ThreadSubscription]:
    """None also where the view notes a need. A change behind `view.now` takes no other's place: it is of the next response."""
    user_id, database = view.user_id, view.sources.database

    async def load() -> Sequence[ThreadSubscription]:
        return await database.read(load_subscription_changes, user_id, after, view.now + 1, limit)

    found: Sequence[ThreadSubscription] | None = view.get_value(Lookup(_KIND, user_id, (after, limit), load))
    return found or ()


def encode_changes(changes: Sequence[ThreadSubscription]) -> dict[str, Any]:
    """By room and thread; bump_stamp tells which of two changes is the newer."""
    found: dict[str, dict[str, dict[str, Any]]] = {"subscribed": {}, "unsubscribed": {}}
    for change in changes:
        section = found["subscribed" if change.subscribed else "unsubscribed"]
        told: dict[str, Any] = {"bump_stamp": change.position}
        if change.subscribed:
            told["automatic"] = change.automatic
        section.setdefault(change.room_id, {})[change.thread_root] = told
    return {name: section for name, section in found.items() if section}
