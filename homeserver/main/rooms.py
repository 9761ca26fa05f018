"""Rooms: their services and endpoints."""

from __future__ import annotations

from attrs import frozen

from homeserver.accounts.profiles import Profiles
from homeserver.clientapi.delayed_events import DelayedEventEndpoints
from homeserver.clientapi.event_json import EventJson
from homeserver.clientapi.receipts import ReceiptEndpoints
from homeserver.clientapi.relations import RelationEndpoints
from homeserver.clientapi.reporting import ReportingEndpoints
from homeserver.clientapi.room_aliases import RoomAliasEndpoints
from homeserver.clientapi.room_creation import RoomCreationEndpoints
from homeserver.clientapi.room_directory import RoomDirectoryEndpoints
from homeserver.clientapi.room_events import RoomEvents
from homeserver.clientapi.room_membership import RoomMembershipEndpoints
from homeserver.clientapi.room_messages import RoomMessages
from homeserver.clientapi.room_sending import RoomSending
from homeserver.clientapi.room_summary import RoomSummaryEndpoints
from homeserver.clientapi.room_upgrades import RoomUpgradeEndpoints
from homeserver.clientapi.spaces import SpaceEndpoints
from homeserver.clientapi.thread_subscriptions import ThreadSubscriptionEndpoints
from homeserver.clientapi.typing import TypingEndpoints
from homeserver.main.core import Core
from homeserver.main.remote_door import RemoteDoor
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.delayed_events import DelayedEvents
from homeserver.rooms.departures import RoomDepartures
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.extremities import Extremities
from homeserver.rooms.guest_removal import GuestRemoval
from homeserver.rooms.hierarchy import SpaceHierarchies
from homeserver.rooms.history_trimming import HistoryTrims
from homeserver.rooms.member_content import MemberContents
from homeserver.rooms.membership import RoomMembership
from homeserver.rooms.paging import Paging
from homeserver.rooms.profile_propagation import RoomProfiles
from homeserver.rooms.public_rooms import PublicRooms
from homeserver.rooms.receipts import Receipts
from homeserver.rooms.relation_policy import RelationPolicy
from homeserver.rooms.relations import Relations
from homeserver.rooms.repair import RoomRepair
from homeserver.rooms.reports import Reports
from homeserver.rooms.second_looks import SecondLooks
from homeserver.rooms.sending import Sending
from homeserver.rooms.state_policy import StatePolicy
from homeserver.rooms.summary import RoomSummaries
from homeserver.rooms.thread_subscriptions import ThreadSubscriptions
from homeserver.rooms.transactions import Transactions
from homeserver.rooms.typing import Typing
from homeserver.rooms.upgrade import RoomUpgrades
from homeserver.rooms.upkeep import RoomUpkeep
from homeserver.rooms.view import RoomViews


@frozen
class RoomServices:
    remote: RemoteDoor
    views: RoomViews
    paging: Paging
    membership: RoomMembership
    creation: RoomCreation
    addresses: AddressInvites
    relations: Relations
    delayed: DelayedEvents
    second_looks: SecondLooks
    directory: RoomDirectory
    typing: Typing
    receipts: Receipts
    profiles: RoomProfiles
    departures: RoomDepartures
    upkeep: RoomUpkeep
    repair: RoomRepair
    aliases: Aliases
    public_rooms: PublicRooms
    hierarchies: SpaceHierarchies
    endpoints: list[object]


def build_rooms(core: Core) -> RoomServices:  # long: one place where all of rooms is put together
    config, remote = core.config.section(RoomsConfig), RemoteDoor()
    # A reader of its own: what propagates profiles to rooms must read them first.
    reader = Profiles(core.server_name, core.database, core.log)
    contents = MemberContents(core.server_name, core.database, reader, remote)
    membership = RoomMembership(core.writer, core.memberships, contents, remote, core.partial)
    aliases = Aliases(config, core.database, core.writer, remote)
    addresses = AddressInvites(core.writer, membership)
    creation = RoomCreation(config, core.writer, contents, addresses)
    views = RoomViews(
        core.database,
        core.heads,
        core.events,
        core.histories,
        core.memberships,
        core.ignored,
        core.sticky,
        core.partial,
    )
    public_rooms = PublicRooms(core.database)
    core.log.follow(public_rooms.on_rows)
    relations = Relations(core.database, core.events, core.erased, core.ignored, core.histories)
    json = EventJson(core.events, core.clock, relations, core.erased)
    policies = StatePolicy(aliases), RelationPolicy(core.database, core.events)
    sending = Sending(core.writer, core.events, Transactions(core.database), membership, *policies)
    delayed = DelayedEvents(core.database, core.clock, sending, core.background)
    summaries = RoomSummaries(core.server_name, core.heads, core.events, core.memberships, remote)
    hierarchies = SpaceHierarchies(core.heads, core.events, summaries)
    directory = RoomDirectory(config, core.database, core.heads, core.log)
    receipts = Receipts(core.database, core.clock, views, core.log)
    typing = Typing(core.clock, core.serial)
    paging = Paging(core.database, core.events)
    trims = HistoryTrims(core.server_name, core.database, core.clock, core.ingest, config.kept_history_events)
    extremities = Extremities(core.server_name, core.heads, core.writer, core.background)
    second_looks = SecondLooks(core.database, core.clock, core.ingest, core.sticky, core.background)
    guest_removal = GuestRemoval(core.database, membership, core.background)
    for follower in (reader, extremities, delayed, second_looks, guest_removal):
        core.log.follow(follower.on_rows)
    return RoomServices(
        remote,
        views,
        paging,
        membership,
        creation,
        addresses,
        relations,
        delayed,
        second_looks,
        directory,
        typing,
        receipts,
        RoomProfiles(core.writer, core.memberships, contents),
        RoomDepartures(membership),
        RoomUpkeep(core.server_name, core.database, core.clock, core.purges, trims, config.empty_room_grace_days),
        RoomRepair(core.ingest, extremities),
        aliases,
        public_rooms,
        hierarchies,
        [
            RoomSending(sending, delayed),
            DelayedEventEndpoints(delayed),
            RoomEvents(views, paging, json),
            RoomMessages(views, paging, json, core.log),
            RelationEndpoints(views, relations, json),
            ThreadSubscriptionEndpoints(ThreadSubscriptions(core.database, core.log, views)),
            RoomCreationEndpoints(creation),
            RoomMembershipEndpoints(membership, addresses, aliases, core.memberships),
            RoomAliasEndpoints(aliases),
            RoomDirectoryEndpoints(config, core.server_name, directory, public_rooms, remote),
            SpaceEndpoints(hierarchies, core.memberships),
            RoomSummaryEndpoints(summaries, aliases),
            RoomUpgradeEndpoints(RoomUpgrades(creation)),
            ReceiptEndpoints(receipts),
            TypingEndpoints(views, typing),
            ReportingEndpoints(Reports(core.clock, core.heads, core.events, core.log)),
        ],
    )
