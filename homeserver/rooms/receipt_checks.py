"""The authorisation checks on receipt of an event, in the specification's order.

Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from attrs import define

from homeserver.folds.events import NO_EVENTS, EventCache
from homeserver.matrix.auth_rules import check_auth, check_auth_events
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.state_map import CREATE, StateKey, StateMap
from homeserver.rooms.ingest_errors import MissingEvents
from homeserver.store.events import StoredEvent

Fresh = Mapping[EventId, StoredEvent]


@define(eq=False)
class ReceiptChecks:
    """Checks 4 to 6; the first three (format, signatures, hashes) are made before an event gets here."""

    events: EventCache

    async def find_fault(
        self, pdu: Pdu, create: Pdu, before: StateMap, *, is_partial: bool = False, fresh: Fresh = NO_EVENTS
    ) -> str | None:
        """Why the event is rejected, if it is. is_partial: members are missing in the state before it. fresh: events that
        count as stored.

        Raises: MissingEvents, where auth events are not stored.
        """
        named = await self._load(pdu.auth_events, pdu, fresh)
        if missing := set(pdu.auth_events) - named.keys():
            raise MissingEvents(missing)
        auth_events = [named[event_id] for event_id in pdu.auth_events]
        # 4. Passes authorisation rules based on the event's auth events, otherwise it is rejected.
        fault = fault_by_auth_events(pdu, create, auth_events)
        if is_partial:
            before = _with_members(before, auth_events)
        # 5. Passes authorisation rules based on the state before the event, otherwise it is rejected.
        return fault or await self.find_fault_in(pdu, create, before, fresh)

    async def find_fault_in(
        self, pdu: Pdu, create: Pdu, state: Mapping[StateKey, EventId], fresh: Fresh = NO_EVENTS
    ) -> str | None:
        """Why the event is not allowed in a state, if it is not.

        With the room's current state this is check 6: if the event does not pass it, it is soft failed.
        """
        keys = auth_types_for(pdu.version, pdu.type, pdu.sender, pdu.state_key, pdu.content)
        wanted = {event_id for key in keys if (event_id := state.get(key)) is not None}
        events = await self._load(wanted, pdu, fresh)
        if missing := wanted - events.keys():
            raise MissingEvents(missing)
        return _fault(pdu, create, events.values())

    async def _load(self, event_ids: Collection[EventId], pdu: Pdu, fresh: Fresh) -> dict[EventId, StoredEvent]:
        """Those that are of the event's room."""
        room_id = pdu.room_id
        found = await self.events.load_many(dict.fromkeys(event_ids, room_id), {room_id: pdu.version}, fresh)
        return {event_id: event for event_id, event in found.items() if event.pdu.room_id == room_id}


def _with_members(state: StateMap, auth_events: Collection[StoredEvent]) -> StateMap:
    """The state with the members that it lacks and that the event itself names."""
    for event in auth_events:
        if event.pdu.type == "m.room.member" and event.pdu.state_key is not None and event.pdu.key not in state:
            state = state.set(event.pdu.key, event.event_id)
    return state


def fault_by_auth_events(pdu: Pdu, create: Pdu | None, auth_events: Collection[StoredEvent]) -> str | None:
    """Why the events that the event names do not allow it, if they do not."""
    rejected = {event.event_id for event in auth_events if event.rejected is not None}
    try:
        check_auth_events(pdu, [event.pdu for event in auth_events], rejected)
    except AuthRejected as reason:
        return str(reason)
    return _fault(pdu, create, auth_events)


def _fault(pdu: Pdu, create: Pdu | None, state: Iterable[StoredEvent]) -> str | None:
    auth_state = {event.pdu.key: event.pdu for event in state if event.pdu.state_key is not None}
    # From room version 12 on the room id names the create event, and auth_events does not.
    if create is not None and pdu.version.room_id_is_create_hash:
        auth_state[CREATE] = create
    try:
        check_auth(pdu, auth_state)
    except AuthRejected as reason:
        return str(reason)
    return None
