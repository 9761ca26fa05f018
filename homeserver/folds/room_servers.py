"""Which other servers are in each room: whom its events concern."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import define, field
from sqlalchemy import Connection

from homeserver.folds.fold import Fold
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.matrix.versions import RoomVersion
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.outbound import load_joined, load_versions
from homeserver.store.partial_rooms import load_partial_servers

MAX_ROOMS = 20_000
MEMBER = "m.room.member"


@define
class RemoteMembers:
    """The joined users of other servers. version: None where this server does not know the room. told: where not all
    members are known yet, the servers in the room as a resident server told.
    """

    version: RoomVersion | None
    users: dict[ServerName, set[UserId]] = field(factory=dict)
    told: Collection[ServerName] = ()

    @property
    def servers(self) -> Collection[ServerName]:
        return self.users.keys() | self.told if self.told else self.users.keys()

    def add(self, user_id: UserId) -> None:
        self.users.setdefault(domain_of(user_id), set()).add(user_id)

    def remove(self, user_id: UserId) -> None:
        server = domain_of(user_id)
        of_server = self.users.get(server)
        if of_server is not None:
            of_server.discard(user_id)
            if not of_server:
                del self.users[server]


class RoomServers:
    """Fold: room -> the joined members that it has elsewhere."""

    def __init__(self, server_name: ServerName, database: Database, max_rooms: int = MAX_ROOMS) -> None:
        self._server_name = server_name
        self._fold: Fold[RoomId, RemoteMembers] = Fold(
            database, load=self._load, keys_of=_rooms_of, apply=self._apply, max_entries=max_rooms
        )
        self.on_rows = self._fold.on_rows
        self.get = self._fold.get
        self.load = self._fold.load
        self.load_many = self._fold.load_many

    def _load(self, conn: Connection, room_ids: Sequence[RoomId]) -> dict[RoomId, RemoteMembers]:
        versions, joined = load_versions(conn, room_ids), load_joined(conn, room_ids)
        told = load_partial_servers(conn, room_ids)
        found = {room_id: RemoteMembers(versions.get(room_id)) for room_id in room_ids}
        for room_id, servers in told.items():
            found[room_id].told = frozenset(servers) - {self._server_name}
        for room_id, users in joined.items():
            for user_id in users:
                if domain_of(user_id) != self._server_name:
                    found[room_id].add(user_id)
        return found

    def _apply(self, _room_id: RoomId, known: RemoteMembers, row: LogRow) -> RemoteMembers | None:
        if known.version is None or row.is_state_alone:
            return None
        for delta in row.deltas:
            if delta.key[0] != MEMBER or domain_of(UserId(delta.key[1])) == self._server_name:
                continue
            if row.event is None or delta.event_id not in (None, row.event.event_id):
                return None  # state resolution gave the user another event, which has to be looked up
            joined = delta.event_id is not None and row.event.pdu.membership == "join"
            (known.add if joined else known.remove)(UserId(delta.key[1]))
        return known


def _rooms_of(row: LogRow) -> Iterable[RoomId]:
    return (RoomId(row.key),) if row.deltas or row.is_state_alone else ()
