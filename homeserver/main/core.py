"""The core: database, log, folds and room heads, built in layer order."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from attrs import frozen

from homeserver.accounts.ignored_users import IgnoredUsers
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.folds.histories import Histories
from homeserver.folds.memberships import Memberships
from homeserver.folds.sticky_events import StickyEvents
from homeserver.main.keys import load_signing_key
from homeserver.main.memory import MemoryConfig
from homeserver.matrix.ids import ServerName
from homeserver.matrix.push_rules import ALL_KINDS, USUAL_KINDS, Kind
from homeserver.matrix.signing import SigningKey
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.ingest import Ingest
from homeserver.rooms.ingest_completion import Completion
from homeserver.rooms.ingest_history import History
from homeserver.rooms.outside_rooms import OutsideRooms
from homeserver.rooms.partial_states import PartialStates
from homeserver.rooms.purges import RoomPurges
from homeserver.rooms.unread import Unread
from homeserver.rooms.writer import RoomWriter
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.config import Config, ServerConfig
from homeserver.runtime.db import Database
from homeserver.runtime.serial import Serial
from homeserver.store.log import load_head_position
from homeserver.store.log_writer import LogWriter


@frozen
class Core:
    """What every service stands on."""

    config: Config
    reactor: Any
    clock: Clock
    server_name: ServerName
    signing_key: SigningKey
    database: Database
    background: Background
    log: LogWriter
    events: EventCache
    memberships: Memberships
    histories: Histories
    heads: RoomHeads
    unread: Unread
    writer: RoomWriter
    ingest: Ingest
    history: History
    partial: PartialStates
    completion: Completion
    outside: OutsideRooms
    serial: Serial
    erased: ErasedUsers
    ignored: IgnoredUsers
    purges: RoomPurges
    sticky: StickyEvents


def rule_kinds(config: Config) -> Collection[Kind]:
    """The kinds of push rules that there are on this server."""
    return ALL_KINDS if config.section(RoomsConfig).thread_subscriptions else USUAL_KINDS


async def build_core(config: Config, reactor: Any, clock: Clock, database: Database) -> Core:
    """Order of the followers: caches of events first, then what is computed from them."""
    memory = config.section(MemoryConfig)
    server = config.section(ServerConfig)
    server_name = ServerName(server.server_name)
    signing_key = load_signing_key(config.resolve(server.signing_key_file))
    log = LogWriter(database, await database.read(load_head_position))
    events = EventCache(database, memory.events_bytes)
    memberships = Memberships(database, memory.users)
    histories = Histories(database, memory.histories)
    heads = RoomHeads(database, events, memory.room_state_entries)
    unread = Unread(database, heads, events.peek, memory.unread, rule_kinds(config))
    writer = RoomWriter(server_name, signing_key, clock, heads, events, log, unread)
    partial = PartialStates(server_name, database, clock)
    await partial.start()
    purges = RoomPurges(server_name, database, log, clock, [heads, events, memberships, histories, unread])
    ingest = Ingest(server_name, database, heads, events, log, unread, partial, purges)
    writer.inbound_turns = ingest.turns
    erased, ignored, sticky = ErasedUsers(), IgnoredUsers(database), StickyEvents(database, clock)
    await erased.start(database)
    await sticky.start()
    log.observe_rooms(heads)
    for follower in (events, memberships, histories, erased, ignored, sticky, unread):
        log.follow(follower.on_rows)
    log.follow(purges.on_rows)
    await purges.start()
    return Core(
        config,
        reactor,
        clock,
        server_name,
        signing_key,
        database,
        Background(),
        log,
        events,
        memberships,
        histories,
        heads,
        unread,
        writer,
        ingest,
        History(ingest),
        partial,
        Completion(ingest),
        OutsideRooms(server_name, database, memberships, log, ingest.turns, purges),
        Serial(clock),
        erased,
        ignored,
        purges,
        sticky,
    )
