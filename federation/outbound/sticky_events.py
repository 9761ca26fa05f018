"""Our users' sticky events, to the servers that would miss them.

A server that joins gets those that are sticky then: a row of the log for each event and server. It gets them once more a moment
later: Synapse drops, and does not say so, what comes before it has dealt with the answer to its join. A server that was away gets
each of them, while it is sticky, and not only a room's newest event: the backlog holds them one by one (outbound/backlog.py).

Log rows made here: "sticky" {event_id, server}, keyed by room.

Spec: MSC4354
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field
from twisted.internet.defer import Deferred

from federation.outbound.items import EVENT, Item, Source, sticky_key
from homeserver.folds.events import EventCache
from homeserver.folds.room_servers import MEMBER, RoomServers
from homeserver.folds.sticky_events import StickyEvents
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, domain_of
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow, StateDelta
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.outbound import STICKY, load_log_rows

logger = logging.getLogger(__name__)

AGAIN_AFTER_MS: Final = 10_000


@define(eq=False)
class StickySource:
    """`event_source` stands before this source: by the time that this one is asked, `servers` is up to date."""

    server_name: ServerName
    database: Database
    clock: Clock
    log: LogWriter
    events: EventCache
    servers: RoomServers
    sticky: StickyEvents
    event_source: Source
    kind: str = STICKY
    log_kinds: Sequence[str] = (EVENT, STICKY)
    most_edus: int = 0
    newest_first: bool = False
    _timers: set[Any] = field(factory=set, init=False)
    _welcomed: int = field(default=0, init=False)  # the newest row whose server has been seen to

    def get_addressed(self, row: LogRow) -> tuple[Item, Sequence[ServerName]] | None:
        if row.kind == STICKY:
            return Item(row.position, STICKY, sticky_key(row.position), row.data["event_id"]), [row.data["server"]]
        if row.position > self._welcomed and self._own(row):
            return None
        return Item(row.position, STICKY, row.key), ()

    async def load_missing(self, row: LogRow) -> None:
        """See to the servers that may have joined with the row. If the process ends meanwhile, the row comes again."""
        own = self._own(row)
        came = self._came(row) if own else {}
        new = [server for server, deltas in came.items() if await self._is_new(RoomId(row.key), server, deltas)]
        await self._welcome(row.key, own, new)
        self._welcomed = row.position
        if new:
            timer = self.clock.call_later(AGAIN_AFTER_MS, lambda: self._welcome_again(timer, row.key, own, new))
            self._timers.add(timer)

    async def _welcome(self, room: str, events: Sequence[EventId], servers: Sequence[ServerName]) -> None:
        written = [
            self.log.submit(LogItem(STICKY, room, {"event_id": event_id, "server": server}))
            for server in servers
            for event_id in events
        ]
        for each in written:
            await each

    def _welcome_again(self, timer: Any, room: str, events: Sequence[EventId], servers: Sequence[ServerName]) -> None:
        self._timers.discard(timer)
        Deferred.fromCoroutine(self._welcome(room, events, servers)).addErrback(_log_failure)

    def stop(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    async def load_bodies(self, items: Sequence[Item]) -> Sequence[dict[str, Any]]:
        """Those that are sticky still, in their order."""
        rows = await self.database.read(load_log_rows, [item.position for item in items])
        found = {row.position: EventId(row.data["event_id"]) for row in rows.values() if "event_id" in row.data}
        rooms = {position: RoomId(rows[position].key) for position in found}
        now = {room_id: {one.event.event_id for one in self.sticky.get(room_id, 0)} for room_id in set(rooms.values())}
        wanted = [
            Item(item.position, EVENT, rooms[item.position], found[item.position])
            for item in items
            if item.position in found and found[item.position] in now[rooms[item.position]]
        ]
        return await self.event_source.load_bodies(wanted)

    def _own(self, row: LogRow) -> list[EventId]:
        """What a server would have to get that came into the room with this row."""
        if not self._came(row):
            return []
        sticky = self.sticky.get(RoomId(row.key), 0)
        ours = [one.event for one in sticky if domain_of(one.event.pdu.sender) == self.server_name]
        return [event.event_id for event in ours if event.order < row.position]

    def _came(self, row: LogRow) -> dict[ServerName, list[StateDelta]]:
        """The other servers of which users may have joined with the row, also those whose leave was taken back."""
        event = row.event
        if event is None:
            return {}
        found: dict[ServerName, list[StateDelta]] = {}
        for delta in row.deltas:
            if delta.key[0] != MEMBER or delta.event_id is None:
                continue
            server = domain_of(UserId(delta.key[1]))
            is_other = delta.event_id == event.event_id and event.pdu.membership != "join"
            if server != self.server_name and not is_other:
                found.setdefault(server, []).append(delta)
        return found

    async def _is_new(self, room_id: RoomId, server: ServerName, deltas: Sequence[StateDelta]) -> bool:
        """None of the server is in the room who was before: who takes another name was."""
        members = await self.servers.load(room_id)
        if members.version is None:
            return False
        ids = {each for delta in deltas for each in (delta.event_id, delta.prev_event_id) if each is not None}
        events = await self.events.load_many(dict.fromkeys(ids, room_id), {room_id: members.version})
        joins = {event_id for event_id, event in events.items() if event.pdu.membership == "join"}
        came = {
            UserId(delta.key[1]) for delta in deltas if delta.event_id in joins and delta.prev_event_id not in joins
        }
        return bool(came) and members.users.get(server, set()) <= came


def _log_failure(failure: Any) -> None:
    logger.error("Sticky events could not be sent again: %s", failure.value)
