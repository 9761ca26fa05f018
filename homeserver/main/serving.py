"""Federation: what this server does for others as a resident of rooms."""

from __future__ import annotations

from federation.client import FederationClient
from federation.config import FederationConfig
from federation.outbound.events import Relays
from federation.resident.access import ServerAccess
from federation.resident.graph import RoomGraph
from federation.resident.invites import Invites
from federation.resident.join_answers import JoinAnswers
from federation.resident.member_events import MemberEvents
from federation.resident.restricted import JoinConditions
from federation.resident.spaces import SpaceReader
from federation.resident.state import RoomStates
from federation.resident.templates import MemberTemplates
from federation.resident.third_party import ThirdPartyInvites
from federation.serverapi.edu_types import EduTypesEndpoint
from federation.serverapi.events import EventEndpoints
from federation.serverapi.invites import InviteEndpoints
from federation.serverapi.membership import MembershipEndpoints, TemplateEndpoints
from federation.serverapi.public_rooms import PublicRoomsEndpoints
from federation.serverapi.query import QueryEndpoints
from federation.serverapi.spaces import HierarchyEndpoint
from federation.serverapi.user_keys import UserKeyEndpoints
from homeserver.main.accounts import AccountServices
from homeserver.main.core import Core
from homeserver.main.encryption import EncryptionServices
from homeserver.main.receiving import ReceivingServices
from homeserver.main.rooms import RoomServices
from homeserver.runtime.config_sections import PresenceConfig


def build_serving(
    core: Core,
    accounts: AccountServices,
    rooms: RoomServices,
    encryption: EncryptionServices,
    receiving: ReceivingServices,
    client: FederationClient,
    config: FederationConfig,
) -> list[object]:
    """The endpoints."""
    access = ServerAccess(
        core.server_name, core.database, core.heads, core.events, receiving.acls, core.erased, core.partial
    )
    graph = RoomGraph(core.database, core.events)
    states = RoomStates(core.database, graph)
    conditions = JoinConditions(core.server_name, core.heads, core.partial)
    templates = MemberTemplates(core.server_name, core.signing_key, core.clock, access, core.events, conditions)
    members = MemberEvents(
        core.server_name,
        core.signing_key,
        access,
        core.events,
        receiving.checks,
        conditions,
        receiving.policies,
        core.ingest,
        Relays(core.log),
    )
    invites = Invites(
        core.server_name,
        core.signing_key,
        core.clock,
        core.database,
        core.heads,
        access,
        receiving.checks,
        core.ingest,
        core.outside,
    )
    membership = rooms.membership
    third_party = ThirdPartyInvites(core.server_name, access, core.writer, membership.remote, membership.invite_keys)
    return [
        EventEndpoints(core.server_name, core.clock, core.database, access, graph, states),
        TemplateEndpoints(templates),
        MembershipEndpoints(members, JoinAnswers(core.server_name, states)),
        InviteEndpoints(core.server_name, invites, third_party),
        QueryEndpoints(core.server_name, rooms.aliases, accounts.profiles),
        PublicRoomsEndpoints(rooms.public_rooms, enabled=config.public_rooms),
        HierarchyEndpoint(SpaceReader(access, rooms.hierarchies)),
        EduTypesEndpoint(presence=core.config.section(PresenceConfig).enabled),
        UserKeyEndpoints(core.server_name, core.database, encryption.queries, encryption.claims),
    ]
