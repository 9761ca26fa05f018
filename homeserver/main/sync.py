"""Sync: its services and endpoints."""

from __future__ import annotations

from attrs import frozen

from homeserver.accounts.account_data_cache import AccountDataCache
from homeserver.clientapi.event_json import EventJson
from homeserver.clientapi.events import EventsEndpoints
from homeserver.clientapi.initial_sync import InitialSyncEndpoints
from homeserver.clientapi.keys import KeyEndpoints
from homeserver.clientapi.notifications import NotificationEndpoints
from homeserver.clientapi.presence import PresenceEndpoints
from homeserver.clientapi.push_rules import PushRuleEndpoints
from homeserver.clientapi.sliding_sync import SlidingSyncEndpoints
from homeserver.clientapi.sync import RequestParser, SyncEndpoint
from homeserver.folds.recent_log import RecentLog
from homeserver.folds.room_activity import RoomActivity
from homeserver.folds.room_tails import RoomTails
from homeserver.main.accounts import AccountServices
from homeserver.main.core import Core, rule_kinds
from homeserver.main.encryption import EncryptionServices
from homeserver.main.memory import MemoryConfig
from homeserver.main.rooms import RoomServices
from homeserver.presence.presence import Presence
from homeserver.push.notifications import Notifications
from homeserver.push.rules import PushRules
from homeserver.runtime.config_sections import PresenceConfig
from homeserver.sync.device_lists import DeviceLists
from homeserver.sync.encryption import DeviceKeyCounts, EncryptionExtension
from homeserver.sync.event_stream import EventStream
from homeserver.sync.legacy import LegacySync
from homeserver.sync.message_sessions import MessageSessions
from homeserver.sync.notifier import Notifier
from homeserver.sync.ports import SyncExtension
from homeserver.sync.presence import PresenceExtension
from homeserver.sync.service import SyncService
from homeserver.sync.sliding.beginnings import Beginnings
from homeserver.sync.sliding.extensions import SlidingExtensions
from homeserver.sync.sliding.lists import RoomLists
from homeserver.sync.sliding.service import SlidingSync
from homeserver.sync.view import Sources


@frozen
class SyncServices:
    notifier: Notifier
    presence: Presence | None
    push_rules: PushRules
    service: SyncService
    parser: RequestParser
    endpoints: list[object]


def build_sync(
    core: Core, accounts: AccountServices, rooms: RoomServices, encryption: EncryptionServices
) -> SyncServices:
    """The notifier follows the log last: when it wakes anybody, everything else knows the news."""
    push_rules = PushRules(core.database, core.log, rule_kinds(core.config))
    notifications = Notifications(core.database, core.log, core.memberships, push_rules, core.unread)
    core.log.follow(push_rules.on_rows)
    recent = RecentLog(core.log.position, core.config.section(MemoryConfig).recent_rows)
    tails, activity = RoomTails(core.database), RoomActivity(core.database)
    notifier, presence = Notifier(core.clock, core.memberships), build_presence(core)
    encrypted = _build_encryption(core, encryption)
    beginnings, account_data = Beginnings(), AccountDataCache(core.database)
    caches = (recent, tails, activity, beginnings, account_data)
    for follower in (*caches, notifier):
        core.log.follow(follower.on_rows)
    core.purges.caches += [tails, activity]
    rooms.typing.follow(notifier.on_ephemeral)
    sources = Sources(
        core.database,
        core.log,
        core.clock,
        core.heads,
        core.events,
        core.memberships,
        core.histories,
        recent,
        tails,
        core.ignored,
        core.unread,
        rooms.typing,
        push_rules,
        rooms.relations,
        core.erased,
        core.sticky,
        account_data,
    )
    if presence is not None:
        presence.follow(notifier.on_presence)
    told: list[SyncExtension] = [encrypted, *([PresenceExtension(presence)] if presence is not None else [])]
    service = SyncService(sources, notifier, told)
    sliding = SlidingSync(sources, notifier, RoomLists(activity), SlidingExtensions(encrypted), beginnings=beginnings)
    parser, legacy = RequestParser(accounts.filters), LegacySync(service)
    json = EventJson(core.events, core.clock, rooms.relations, core.erased)
    return SyncServices(
        notifier,
        presence,
        push_rules,
        service,
        parser,
        [
            SyncEndpoint(service, parser, presence),
            SlidingSyncEndpoints(sliding, presence),
            PresenceEndpoints(presence, core.memberships, core.clock),
            InitialSyncEndpoints(legacy, rooms.views, rooms.paging, json, rooms.directory, sources, presence),
            PushRuleEndpoints(push_rules),
            NotificationEndpoints(notifications, rooms.views, json),
            EventsEndpoints(EventStream(service, rooms.views), rooms.views, core.database, json),
            key_endpoints(encryption, encrypted.device_lists, accounts),
        ],
    )


def _build_encryption(core: Core, encryption: EncryptionServices) -> EncryptionExtension:
    """It follows the log before those who wait are woken."""
    device_lists, counts = DeviceLists(core.database, core.log.position), DeviceKeyCounts(core.database)
    sessions = MessageSessions(core.server_name)
    for follower in (device_lists, counts, sessions, encryption.to_device):
        core.log.follow(follower.on_rows)
    return EncryptionExtension(encryption.to_device, counts, device_lists, sessions)


def build_presence(core: Core) -> Presence | None:
    """None where the configuration wants none. It follows the log before those who wait are woken."""
    if not core.config.section(PresenceConfig).enabled:
        return None
    presence = Presence(core.server_name, core.clock, core.serial)
    core.log.follow(presence.on_rows)
    return presence


def key_endpoints(encryption: EncryptionServices, lists: DeviceLists, accounts: AccountServices) -> KeyEndpoints:
    parts = (encryption.uploads, encryption.queries, encryption.claims, encryption.cross_signing)
    return KeyEndpoints(*parts, lists, accounts.auth)
