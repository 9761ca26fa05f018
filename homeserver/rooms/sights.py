"""What decides who may see an event, where the state before it is not that of the room at its place in the timeline.

The timeline says what a user was to the room and how visible it was at each position, which is all that most events need.
An event of a fork, or of fetched history, may have had another state before it: what of that state concerns visibility is
noted with the event, once, when it is stored. So judging it costs no more than judging any other.

Spec: client-server-api#room-history-visibility
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import orjson
from attrs import define

from homeserver.folds.events import NO_EVENTS, EventCache
from homeserver.matrix.ids import EventId, ServerName, domain_of
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.visibility import parse_visibility
from homeserver.rooms.head import HISTORY_VISIBILITY, MEMBER, RoomHead, membership_of
from homeserver.rooms.state_nodes import StateNode, differing_keys
from homeserver.store.events import StoredEvent


@define(eq=False)
class Sights:
    server_name: ServerName
    events: EventCache

    async def load(
        self, head: RoomHead, before: StateNode, fresh: Mapping[EventId, StoredEvent] = NO_EVENTS
    ) -> str | None:
        """For an event that arrives now; None if nothing that matters is otherwise than in the head. fresh: events that are
        on their way to the disk."""
        if before is head.node:
            return None
        keys = [key for key in differing_keys(head.node, before) if self._matters(key)]
        return await self._describe(head, before, keys, fresh, is_whole=False) if keys else None

    async def load_whole(self, head: RoomHead, before: StateNode, keys: Iterable[StateKey]) -> str | None:
        """For an event of history, of which the timeline knows nothing; `keys` are those of `before` that matter.

        None if the room was shared, and no local user had anything to do with it.
        """
        return await self._describe(head, before, list(keys), NO_EVENTS, is_whole=True)

    def keys(self, node: StateNode) -> set[StateKey]:
        """The keys of a state that matter; O(n)."""
        return {key for key in node.state if self._matters(key)}

    def keys_after(self, known: set[StateKey], before: StateNode, after: StateNode) -> set[StateKey]:
        """The same of a state near another, whose keys are `known`."""
        changed = [key for key in differing_keys(before, after) if self._matters(key)] if before is not after else ()
        gone = {key for key in changed if key not in after.state}
        return (known | set(changed)) - gone

    def _matters(self, key: StateKey) -> bool:
        return key == HISTORY_VISIBILITY or (key[0] == MEMBER and domain_of(key[1]) == self.server_name)

    async def _describe(
        self,
        head: RoomHead,
        state: StateNode,
        keys: list[StateKey],
        fresh: Mapping[EventId, StoredEvent],
        *,
        is_whole: bool,
    ) -> str | None:
        ids = {key: event_id for key in keys if (event_id := state.state.get(key)) is not None}
        rooms_of = dict.fromkeys(ids.values(), head.room_id)
        found = await self.events.load_many(rooms_of, {head.room_id: head.version}, fresh)
        told = {key: found[event_id] for key, event_id in ids.items() if event_id in found}
        members = {key[1]: _membership(told.get(key)) for key in keys if key[0] == MEMBER}
        visibility = told.get(HISTORY_VISIBILITY)
        sight: dict[str, object] = {"members": members}
        if is_whole or HISTORY_VISIBILITY in keys:
            sight["visibility"] = parse_visibility(visibility.pdu.content if visibility is not None else None)
        if is_whole:
            if not members and sight["visibility"] == "shared":
                return None
            sight["whole"] = True
        return orjson.dumps(sight).decode()


def _membership(event: StoredEvent | None) -> str | None:
    return membership_of(event.pdu) if event is not None else None
