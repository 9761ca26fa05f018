"""This server as a guest of others: joining their rooms, asking them, fetching history."""

from __future__ import annotations

from attrs import frozen

from federation.allowed import AllowedServers
from federation.backfill import Backfill
from federation.client import FederationClient
from federation.history_intake import HistoryIntake
from federation.joining.doors import Doors
from federation.joining.invite import InviteHandshake
from federation.joining.inviting import Inviting
from federation.joining.join import JoinHandshake
from federation.joining.join_answer import JoinChecks
from federation.joining.joining import Entry, Joining
from federation.joining.knock import DoorHandshake
from federation.joining.leaving import Leaving
from federation.joining.partial_state import StateCompletion
from federation.joining.queries import Queries
from federation.joining.remote_servers import FederatedServers
from federation.joining.residents import Residents
from federation.joining.spaces import RemoteSpaces
from federation.joining.templates import Templates
from federation.joining.third_party import InviteExchange
from federation.keys.key_ring import KeyRing
from homeserver.main.accounts import AccountServices
from homeserver.main.core import Core
from homeserver.main.receiving import ReceivingServices
from homeserver.main.rooms import RoomServices


@frozen
class JoiningServices:
    remote: FederatedServers
    completion: StateCompletion
    leaving: Leaving

    async def start(self) -> None:
        """Go on with what was begun before; call it when everything else stands."""
        self.completion.start()
        await self.leaving.start()

    async def stop(self) -> None:
        """Leave the rest for the next start."""
        await self.leaving.stop()
        await self.completion.stop()


def build_joining(
    core: Core,
    accounts: AccountServices,
    rooms: RoomServices,
    client: FederationClient,
    ring: KeyRing,
    allowed: AllowedServers,
    receiving: ReceivingServices,
) -> JoiningServices:
    """Rooms and accounts have their remote servers then."""
    residents = Residents(core.server_name, core.clock)
    templates = Templates(client, core.signing_key, core.clock)
    joins = JoinHandshake(client, residents, templates, JoinChecks(receiving.checks))
    queries = Queries(client)
    completion = StateCompletion(core.clock, core.heads, core.events, core.partial, receiving.fetcher, core.completion)
    entry = Entry(core.heads, core.ingest, receiving.receiver, completion)
    doors = DoorHandshake(client, residents, templates)
    leaving = Leaving(core.clock, core.database, doors, core.outside)
    remote = FederatedServers(
        allowed,
        Joining(core.server_name, joins, entry, core.memberships, core.outside, receiving.arrivals, core.clock),
        Doors(doors, core.outside, core.memberships, leaving),
        Inviting(core.writer, InviteHandshake(client, ring), core.ingest),
        queries,
        RemoteSpaces(queries, core.clock),
        InviteExchange(client),
    )
    rooms.remote.behind, accounts.profiles.remote = remote, queries
    intake = HistoryIntake(receiving.fetcher, core.ingest, core.history, core.partial)
    rooms.paging.history = Backfill(
        core.server_name, client, receiving.checks, intake, core.heads, core.database, core.clock, core.partial
    )
    return JoiningServices(remote, completion, leaving)
