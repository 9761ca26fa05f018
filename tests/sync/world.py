"""A server's core without HTTP: log, rooms and sync over a real database, with a reactor that the test turns."""

from __future__ import annotations

import queue
from collections.abc import Callable, Collection, Coroutine, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import orjson
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from homeserver.accounts.account_data_cache import AccountDataCache
from homeserver.accounts.ignored_users import IgnoredUsers
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.folds.histories import Histories
from homeserver.folds.memberships import FORGOTTEN, Memberships
from homeserver.folds.recent_log import RecentLog
from homeserver.folds.room_tails import RoomTails
from homeserver.folds.sticky_events import StickyEvents
from homeserver.matrix.filters import EMPTY_FILTER, Filter, parse_filter
from homeserver.matrix.ids import DeviceId, RoomId, ServerName, UserId
from homeserver.matrix.push_rules import DEFAULT_RULE_SET
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.versions import room_version
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.paging import Paging
from homeserver.rooms.relations import Relations
from homeserver.rooms.view import RoomViews
from homeserver.rooms.writer import Draft, RoomWriter
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.db import Database, engine_url, make_engine
from homeserver.store import account_data as account_data_store
from homeserver.store.events import StoredEvent
from homeserver.store.log import load_head_position
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.memberships import save_forgotten
from homeserver.store.room_writes import RoomWrite
from homeserver.store.tables.rooms import receipts
from homeserver.store.upsert import upsert
from homeserver.sync.notifier import Notifier
from homeserver.sync.ports import Counts
from homeserver.sync.request import StateKind, SyncRequest
from homeserver.sync.service import SyncService
from homeserver.sync.tokens import parse_sync_token
from homeserver.sync.view import Sources

T = TypeVar("T")
SERVER = ServerName("test")
WAIT_S = 120  # for a database on a slow machine
_SAVE_RECEIPT = upsert(receipts)


class Turner:
    """The little of a reactor that Database needs."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]]] = queue.SimpleQueue()

    def callFromThread(self, function: Callable[..., Any], *args: Any) -> None:
        self._calls.put((function, args))

    def turn(self, timeout_s: float) -> None:
        function, args = self._calls.get(timeout=timeout_s)
        function(*args)


class NoCounts:
    def get_counts(self, user_id: UserId, room_id: RoomId, /) -> Counts | None:
        return Counts()

    async def load_counts(self, user_id: UserId, room_ids: Collection[RoomId], /) -> Mapping[RoomId, Counts]:
        return {room_id: Counts() for room_id in room_ids}


class Typing:
    def __init__(self, serial: int) -> None:
        self.serial = serial
        self._rooms: dict[RoomId, tuple[int, set[UserId]]] = {}

    def typing(self, room_id: RoomId, /) -> tuple[int, Collection[UserId]]:
        return self._rooms.get(room_id, (0, set()))

    def rooms_changed_since(self, serial: int, /) -> Collection[RoomId]:
        return [room_id for room_id, (at, _) in self._rooms.items() if at > serial]

    def set(self, room_id: RoomId, users: set[UserId]) -> None:
        self.serial += 1
        self._rooms[room_id] = (self.serial, users)


class Rules:
    def get_content(self, user_id: UserId, /) -> bytes | None:
        return None

    async def load_content(self, user_id: UserId, /) -> bytes:
        return orjson.dumps(DEFAULT_RULE_SET.to_json(user_id))


class NoPush:
    def outcome(self, head: object, pdu: object, /) -> int:
        return 0


class _Behind:
    """A log in which all events follow gaps."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log

    def submit(self, write: RoomWrite) -> Deferred[int]:
        for new in write.events:
            new.event.follows_gap = True
        return self._log.submit(write)


class World:
    def __init__(self, database_url: str, *, max_rows: int = 4000) -> None:
        """On a database with the newest schema, such as the fixture `database_url` makes."""
        self.engine_url = engine_url(database_url, Path("/"))
        self.max_rows = max_rows
        self.clock = ManualClock()
        self.turner = Turner()
        self.key = SigningKey("a1", b"k" * 32)
        self.version = room_version("10")
        self._rooms = 0
        self._start()

    def _start(self) -> None:
        self.database = Database(make_engine(self.engine_url), self.turner)  # type: ignore[arg-type]
        position = self.run(self._position())
        self.log = LogWriter(self.database, position)
        self.events = EventCache(self.database, 50_000_000)
        self.heads = RoomHeads(self.database, self.events, 100_000)
        self.log.observe_rooms(self.heads)
        self.memberships = Memberships(self.database, 1000)
        self.histories = Histories(self.database, 1000)
        self.recent = RecentLog(position, self.max_rows)
        self.tails = RoomTails(self.database)
        self.ignored = IgnoredUsers(self.database)
        self.account_data_cache = AccountDataCache(self.database)
        self.notifier = Notifier(self.clock, self.memberships)
        self.typing = Typing(self.clock.time_ms())
        for follower in (
            self.events,
            self.memberships,
            self.histories,
            self.recent,
            self.tails,
            self.ignored,
            self.account_data_cache,
            self.notifier,
        ):
            self.log.follow(follower.on_rows)
        self.writer = RoomWriter(SERVER, self.key, self.clock, self.heads, self.events, self.log, NoPush())
        self.sticky = StickyEvents(self.database, self.clock)
        self.views = RoomViews(
            self.database, self.heads, self.events, self.histories, self.memberships, self.ignored, self.sticky
        )
        self.paging = Paging(self.database, self.events)
        self.sources = Sources(
            self.database,
            self.log,
            self.clock,
            self.heads,
            self.events,
            self.memberships,
            self.histories,
            self.recent,
            self.tails,
            self.ignored,
            NoCounts(),
            self.typing,
            Rules(),
            Relations(self.database, self.events, ErasedUsers(), self.ignored, self.histories),
            ErasedUsers(),
            self.sticky,
            self.account_data_cache,
        )
        self.service = SyncService(self.sources, self.notifier)

    def restart(self) -> None:
        self.stop()
        self.clock.advance(1000)
        self._start()

    def stop(self) -> None:
        self.run(self.database.close())

    async def _position(self) -> int:
        return await self.database.read(load_head_position)

    def start(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(coroutine)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self.wait(self.start(coroutine))

    def wait(self, deferred: Deferred[T]) -> T:
        results: list[Any] = []
        deferred.addBoth(results.append)
        while not results:
            self.turner.turn(WAIT_S)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]  # type: ignore[no-any-return]

    def settle(self) -> None:
        """Run what is due now."""
        self.clock.advance(0)

    # -- acts ------------------------------------------------------------------------------------------------

    def create(
        self, user: str, *, visibility: str = "shared", join_rule: str = "public", name: str | None = None
    ) -> RoomId:
        self._rooms += 1
        room_id = RoomId(f"!room{self._rooms}:{SERVER}")
        sender = UserId(user)
        drafts = [
            Draft("m.room.create", sender, {"creator": user, "room_version": "10"}, ""),
            Draft("m.room.member", sender, {"membership": "join"}, user),
            Draft("m.room.power_levels", sender, {"users": {user: 100}}, ""),
            Draft("m.room.join_rules", sender, {"join_rule": join_rule}, ""),
            Draft("m.room.history_visibility", sender, {"history_visibility": visibility}, ""),
        ]
        if name is not None:
            drafts.append(Draft("m.room.name", sender, {"name": name}, ""))
        self.run(self.writer.create(self.version, room_id, drafts, is_public=False))
        return room_id

    def write(self, room_id: RoomId, *drafts: Draft) -> list[StoredEvent]:
        return self.run(self.writer.write(room_id, lambda _head: drafts))

    def send(self, user: str, room_id: RoomId, body: str, *, device: str | None = None, txn: str | None = None) -> str:
        draft = Draft("m.room.message", UserId(user), {"body": body, "msgtype": "m.text"}, device_id=device, txn_id=txn)
        return self.write(room_id, draft)[0].event_id

    def write_behind_gap(self, room_id: RoomId, draft: Draft) -> list[StoredEvent]:
        """As if the event came from another server, and events before it were missing."""
        self.writer.log = _Behind(self.log)  # type: ignore[assignment]
        try:
            return self.write(room_id, draft)
        finally:
            self.writer.log = self.log

    def state(self, user: str, room_id: RoomId, type_: str, content: dict[str, Any], key: str = "") -> str:
        return self.write(room_id, Draft(type_, UserId(user), content, key))[0].event_id

    def member(self, sender: str, room_id: RoomId, target: str, membership: str, **extra: Any) -> str:
        return self.state(sender, room_id, "m.room.member", {"membership": membership, **extra}, target)

    def redact(self, user: str, room_id: RoomId, event_id: str) -> str:
        return self.write(room_id, Draft("m.room.redaction", UserId(user), {}, redacts=event_id))[0].event_id  # type: ignore[arg-type]

    def receipt(self, user: str, room_id: RoomId, event_id: str, type_: str = "m.read") -> None:
        data = {"user_id": user, "receipt_type": type_, "thread_id": None, "event_id": event_id, "ts_ms": 1}

        def save(conn: Any, position: int) -> None:
            row = {
                "room_id": room_id,
                "user_id": user,
                "receipt_type": type_,
                "thread_id": "",
                "event_id": event_id,
            }
            conn.execute(_SAVE_RECEIPT, {**row, "event_order": 0, "position": position, "ts_ms": 1})

        self.wait(self.log.submit(LogItem("receipt", room_id, data, save)))

    def account_data(self, user: str, type_: str, content: dict[str, Any], room_id: RoomId | None = None) -> None:
        def save(conn: Any, position: int) -> None:
            encoded = orjson.dumps(content)
            account_data_store.save_account_data(conn, user, room_id or "", type_, encoded, position)

        self.wait(self.log.submit(LogItem("account_data", user, {"room_id": room_id, "type": type_}, save)))

    def forget(self, user: str, room_id: RoomId) -> None:
        def save(conn: Any, _position: int) -> None:
            save_forgotten(conn, UserId(user), room_id)

        self.wait(self.log.submit(LogItem(FORGOTTEN, user, {"room_id": room_id}, save)))

    # -- sync ------------------------------------------------------------------------------------------------

    def request(
        self,
        user: str,
        since: str | None = None,
        *,
        filter: dict[str, Any] | None = None,
        timeout_ms: int = 0,
        full_state: bool = False,
        kind: StateKind = StateKind.BEFORE,
        device: str = "D",
    ) -> SyncRequest:
        compiled = EMPTY_FILTER if filter is None else self._compiled(orjson.dumps(filter))
        token = parse_sync_token(since) if since is not None else None
        return SyncRequest(UserId(user), DeviceId(device), compiled, token, timeout_ms, full_state, kind)

    @cache  # noqa: B019
    def _compiled(self, filter: bytes) -> Filter:
        return parse_filter(orjson.loads(filter))

    def sync(self, user: str, since: str | None = None, **options: Any) -> dict[str, Any]:
        body = self.run(self.service.sync(self.request(user, since, **options)))
        answer: dict[str, Any] = orjson.loads(body)
        return answer
