"""Hot rooms: which heads are in memory, and how they move.

A room has two heads: the committed one, which everybody reads, and the speculative one, on which the next event is
built while earlier ones are still on their way to the disk. The log writer says which writes were committed; when one
fails, the room is dropped here and loaded again by whoever needs it next.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Collection

import immutables
from attrs import define, field
from sqlalchemy import Connection
from twisted.internet.defer import Deferred

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import EventId, RoomId
from homeserver.rooms.head import PINNED, RoomHead, count_servers
from homeserver.rooms.state_nodes import StateNode, StateNodes
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.heads import HeadRow, load_heads
from homeserver.store.room_writes import RoomWrite, load_head_version
from homeserver.store.snapshots import Snapshot


@define(eq=False)
class Room:
    """A hot room. `pending` are the speculative heads, oldest first, whose writes are not committed yet; `fresh` the
    events that came with them."""

    committed: RoomHead
    pending: deque[RoomHead] = field(factory=deque)
    fresh: dict[EventId, StoredEvent] = field(factory=dict)
    nodes: StateNodes = field(factory=StateNodes)

    @property
    def speculative(self) -> RoomHead:
        return self.pending[-1] if self.pending else self.committed


class RoomHeads:
    """The rooms in memory, at most `max_state_entries` entries of state in all (the least recently used go first)."""

    def __init__(self, database: Database, events: EventCache, max_state_entries: int) -> None:
        self._database = database
        self._events = events
        self._max_entries = max_state_entries
        self._entries = 0
        self._rooms: OrderedDict[RoomId, Room] = OrderedDict()
        self._loading: dict[RoomId, list[Deferred[None]]] = {}
        # Rooms that were written while they were being loaded: what was read may be old.
        self._stale: set[RoomId] = set()

    def get_room(self, room_id: RoomId) -> Room | None:
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.move_to_end(room_id)
        return room

    def get(self, room_id: RoomId) -> RoomHead | None:
        """The committed head, if the room is in memory."""
        room = self.get_room(room_id)
        return room.committed if room is not None else None

    async def load_room(self, room_id: RoomId) -> Room:
        """Raises: NotFound."""
        room = self.get_room(room_id)
        if room is None:
            room = (await self._load_rooms([room_id])).get(room_id)
        if room is None:
            raise NotFound("This server does not know that room")
        return room

    async def load(self, room_id: RoomId) -> RoomHead:
        """The committed head. Raises: NotFound."""
        return (await self.load_room(room_id)).committed

    async def load_many(self, room_ids: Collection[RoomId]) -> dict[RoomId, RoomHead]:
        """The committed heads of those of the rooms that there are, in a fixed number of statements."""
        missing = [room_id for room_id in room_ids if room_id not in self._rooms]
        loaded = await self._load_rooms(missing) if missing else {}
        heads = {}
        for room_id in room_ids:
            room = loaded.get(room_id) or self.get_room(room_id)
            if room is not None:
                heads[room_id] = room.committed
        return heads

    async def is_outdated(self, room: Room) -> bool:
        """Whether another process has written to the room, which the log has not told yet; then the room is forgotten here."""
        room_id = room.committed.room_id
        version = await self._database.read(load_head_version, room_id)
        if self._rooms.get(room_id) is not room:
            return True
        if version > room.speculative.number:
            self.drop(room_id)
            return True
        return False

    # -- told by the log writer --------------------------------------------------------------------------------------

    def on_committed(self, write: RoomWrite) -> None:
        room = self._rooms.get(write.room_id)
        if room is None:
            if write.room_id in self._loading:
                self._stale.add(write.room_id)
            elif write.new_room is not None and isinstance(write.head, RoomHead):
                self._install(write.head)
            return
        if room.pending and room.pending[0] is write.head:
            self._count(room, room.pending[0])
            room.committed = room.pending.popleft()
            room.nodes.put(room.committed.node)
            for new in write.events:
                room.fresh.pop(new.event.event_id, None)
        else:
            self.drop(write.room_id)

    def on_failed(self, write: RoomWrite) -> None:
        self.drop(write.room_id)
        if write.room_id in self._loading:
            self._stale.add(write.room_id)

    def on_foreign(self, room_id: RoomId) -> None:
        self.drop(room_id)
        if room_id in self._loading:
            self._stale.add(room_id)

    def drop_room(self, room_id: RoomId) -> None:
        """The room is gone, or not what it was."""
        self.on_foreign(room_id)

    def drop(self, room_id: RoomId) -> None:
        """Forget the room; the next one to need it reads it again."""
        room = self._rooms.pop(room_id, None)
        if room is not None:
            self._entries -= len(room.committed.state)

    # -- loading -----------------------------------------------------------------------------------------------------

    async def _load_rooms(self, room_ids: Collection[RoomId]) -> dict[RoomId, Room]:
        mine = [room_id for room_id in room_ids if room_id not in self._loading]
        waits = [self._wait(room_id) for room_id in room_ids if room_id in self._loading]
        if mine:
            await self._read(mine)
        for wait in waits:
            await wait
        return {room_id: room for room_id in room_ids if (room := self.get_room(room_id)) is not None}

    def _wait(self, room_id: RoomId) -> Deferred[None]:
        wait: Deferred[None] = Deferred()
        self._loading[room_id].append(wait)
        return wait

    async def _read(self, room_ids: list[RoomId]) -> None:
        for room_id in room_ids:
            self._loading[room_id] = []
        try:
            wanted = room_ids
            while wanted:
                rows = await self._database.read(_load, wanted)
                stale = [room_id for room_id in wanted if room_id in self._stale]
                self._stale.difference_update(stale)
                for row in rows.values():
                    if row.room_id not in stale and row.room_id not in self._rooms:
                        self._install(self._head(row))
                wanted = stale
        finally:
            waiting = [wait for room_id in room_ids for wait in self._loading.pop(room_id)]
            for wait in waiting:
                if not wait.called:
                    wait.callback(None)

    def _head(self, row: HeadRow) -> RoomHead:
        pinned = {key: self._events.put(event) for key, event in row.pinned.items()}
        memberships = list(row.members.values())
        node = StateNode(Snapshot(row.room_id, snapshot_id=row.snapshot_id), immutables.Map(row.state))
        return RoomHead(
            row.room_id,
            row.version,
            row.number,
            row.extremities,
            row.depth,
            node,
            immutables.Map(row.members),
            memberships.count("join"),
            memberships.count("invite"),
            pinned,
            dict.fromkeys(row.extremities, node) if len(row.extremities) == 1 else {},
            count_servers(row.members),
        )

    def _install(self, head: RoomHead) -> None:
        room = self._rooms[head.room_id] = Room(head)
        room.nodes.put(head.node)
        self._entries += len(head.state)
        while self._entries > self._max_entries and len(self._rooms) > 1 and self._evict_one():
            pass

    def _evict_one(self) -> bool:
        """Drop the least recently used room that has no write under way."""
        newest = next(reversed(self._rooms))
        for room_id, room in self._rooms.items():
            if not room.pending and room_id != newest:
                self.drop(room_id)
                return True
        return False

    def _count(self, room: Room, head: RoomHead) -> None:
        self._entries += len(head.state) - len(room.committed.state)


def _load(conn: Connection, room_ids: Collection[RoomId]) -> dict[RoomId, HeadRow]:
    return load_heads(conn, room_ids, PINNED)
