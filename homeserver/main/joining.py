"""This server as a guest of others: joining their rooms, asking them, fetching history."""

from __future__ import annotations

from typing import Any

from federation.allowed import AllowedServers
from federation.backfill import Backfill
from federation.client import FederationClient
from federation.inbound.fetching import Fetcher
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.receive_pdu import PduReceiver
from federation.joining.doors import Doors
from federation.joining.invite import InviteHandshake
from federation.joining.inviting import Inviting
from federation.joining.join import JoinHandshake
from federation.joining.join_answer import JoinChecks
from federation.joining.joining import Joining
from federation.joining.knock import DoorHandshake
from federation.joining.queries import Queries
from federation.joining.remote_servers import FederatedServers
from federation.joining.residents import Residents
from federation.joining.spaces import RemoteSpaces
from federation.joining.templates import Templates
from federation.keys.key_ring import KeyRing
from homeserver.main.core import Core


def build_remote_servers(
    core: Core,
    client: FederationClient,
    ring: KeyRing,
    allowed: AllowedServers,
    checks: PduChecks,
    receiver: Any,
    ingest: Any,
) -> FederatedServers:
    residents = Residents(core.server_name, core.clock)
    templates = Templates(client, core.signing_key, core.clock)
    joins = JoinHandshake(client, residents, templates, JoinChecks(checks))
    doors = DoorHandshake(client, residents, templates)
    queries = Queries(client)
    return FederatedServers(
        allowed,
        Joining(core.server_name, joins, ingest, receiver, core.heads, core.memberships),
        Doors(doors, ingest, core.events, core.memberships),
        Inviting(core.writer, InviteHandshake(client, ring), ingest),
        queries,
        RemoteSpaces(queries, core.clock),
    )
