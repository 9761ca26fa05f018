"""Storing events without the state before them: auth chains, and the states that other servers tell."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

from attrs import define
from sqlalchemy import Connection

from homeserver.folds.events import EventCache
from homeserver.matrix.ids import EventId, RoomId, create_event_id_of
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.versions import RoomVersion
from homeserver.rooms.receipt_checks import fault_by_auth_events
from homeserver.runtime.db import Database, RowExists
from homeserver.store.events import StoredEvent, load_events, load_rooms_of
from homeserver.store.log_writer import LogWriter
from homeserver.store.outliers import MAX_BATCH, outliers_item

logger = logging.getLogger(__name__)

ATTEMPTS = 20


@define(eq=False)
class OutlierStore:
    """Judges events by their auth events, and stores them."""

    database: Database
    events: EventCache
    log: LogWriter

    async def store(self, room_id: RoomId, version: RoomVersion, pdus: Sequence[Pdu]) -> set[EventId]:
        """Events of one room. Returns those that were left out, because what should allow them is not known.

        Raises: RowExists, while others keep storing the same events.
        """
        pending = {pdu.event_id: pdu for pdu in pdus}
        for attempt in range(1, ATTEMPTS + 1):
            new, left_out = await self.database.read(_load_judged, room_id, version, pending)
            try:
                await self._save(room_id, new)
            except RowExists:
                if attempt == ATTEMPTS:
                    raise
            else:
                break
        return left_out

    async def _save(self, room_id: RoomId, events: Sequence[StoredEvent]) -> None:
        for start in range(0, len(events), MAX_BATCH):
            batch = events[start : start + MAX_BATCH]
            await self.log.submit(outliers_item(room_id, batch))
            self.events.put_all(batch)


def _load_judged(
    conn: Connection, room_id: RoomId, version: RoomVersion, pdus: Mapping[EventId, Pdu]
) -> tuple[list[StoredEvent], set[EventId]]:
    """Those of the events that are not stored, each behind its auth events and with its verdict; and those left out."""
    named = {auth_id for pdu in pdus.values() for auth_id in pdu.auth_events}
    if version.room_id_is_create_hash:
        named.add(create_event_id_of(room_id))
    known = {event.event_id: event for event in load_events(conn, named | pdus.keys(), {room_id: version})}
    new: list[StoredEvent] = []
    rooms = load_rooms_of(conn, pdus.keys() - known.keys()) if version.event_id_on_wire else {}
    left_out: set[EventId] = {event_id for event_id, room in rooms.items() if room != room_id}
    for pdu in _auth_events_first(pdus):
        if pdu.event_id in known or pdu.event_id in left_out:
            continue
        create = known.get(create_event_id_of(room_id)) if version.room_id_is_create_hash else None
        lacks_create = create is None and version.room_id_is_create_hash and not pdu.is_create
        if lacks_create or any(auth_id not in known for auth_id in pdu.auth_events):
            left_out.add(pdu.event_id)
            continue
        auth_events = [known[auth_id] for auth_id in pdu.auth_events]
        fault = fault_by_auth_events(pdu, create.pdu if create is not None else None, auth_events)
        if fault is not None:
            logger.info("Rejected %s in %s: %s", pdu.event_id, room_id, fault)
        event = known[pdu.event_id] = StoredEvent(pdu, timeline_order=None, rejected=fault)
        new.append(event)
    return new, left_out


def _auth_events_first(pdus: Mapping[EventId, Pdu]) -> Iterator[Pdu]:
    """The events in an order in which each stands behind those of its auth events that are among them.

    What room versions 1 and 2 allow a forger to make, events that authorise each other, come in some order.
    """
    done: set[EventId] = set()
    for first in sorted(pdus.values(), key=lambda pdu: not pdu.is_create):
        stack = [(first, iter(first.auth_events))] if first.event_id not in done else []
        done.add(first.event_id)
        while stack:
            pdu, rest = stack[-1]
            auth_id = next((auth_id for auth_id in rest if auth_id in pdus and auth_id not in done), None)
            if auth_id is None:
                stack.pop()
                yield pdu
            else:
                done.add(auth_id)
                stack.append((pdus[auth_id], iter(pdus[auth_id].auth_events)))
