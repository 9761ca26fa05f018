"""What other servers send: its services and endpoints."""

from __future__ import annotations

from attrs import frozen

from federation.client import FederationClient
from federation.config import PolicyServerConfig
from federation.inbound.acl import ServerAcls
from federation.inbound.arrivals import Arrivals
from federation.inbound.edus import EduHandlers
from federation.inbound.fetching import Fetcher
from federation.inbound.outside import OutsideEnds
from federation.inbound.pdu_checks import PduChecks
from federation.inbound.policy import PolicyServers
from federation.inbound.receive_pdu import PduReceiver
from federation.inbound.room_parts import RoomParts
from federation.inbound.room_queue import RoomQueues
from federation.inbound.transaction import Transactions
from federation.keys.key_ring import KeyRing
from federation.policy_server import KEY_VERSION, PolicyRules, PolicyServer
from federation.serverapi.policy import PolicyEndpoints
from federation.serverapi.send import SendEndpoint
from homeserver.main.core import Core
from homeserver.main.keys import load_signing_key
from homeserver.matrix.signing import SigningKey
from homeserver.runtime.config import ConfigError


@frozen
class ReceivingServices:
    acls: ServerAcls
    checks: PduChecks
    fetcher: Fetcher
    policies: PolicyServers
    receiver: PduReceiver
    queues: RoomQueues
    edus: EduHandlers
    arrivals: Arrivals
    transactions: Transactions
    endpoints: list[object]

    async def start(self) -> None:
        """Go on with what was accepted before; call it when everything else stands."""
        await self.queues.start()

    async def stop(self) -> None:
        await self.queues.stop()
        await self.transactions.stop()


def build_receiving(core: Core, client: FederationClient, ring: KeyRing) -> ReceivingServices:
    acls = ServerAcls(core.heads, core.events)
    checks = PduChecks(ring, core.reactor)
    fetcher = Fetcher(client, checks, core.database, core.events)
    own_policy = build_policy_server(core, acls, ring)
    policies = core.writer.reviewer = PolicyServers(client, core.heads, core.events, core.partial, own_policy)
    receiver = PduReceiver(core.server_name, client, checks, fetcher, policies, core.ingest, core.heads, core.clock)
    queues = RoomQueues(core.clock, core.database, core.heads, acls, checks, receiver)
    edus = EduHandlers(acls, core.clock)
    arrivals = Arrivals()
    ends = OutsideEnds(core.server_name, checks, core.outside, arrivals)
    parts = RoomParts(core.server_name, core.clock, core.heads, acls, checks, queues, ends)
    transactions = Transactions(core.clock, core.database, parts, edus)
    endpoints: list[object] = [SendEndpoint(transactions, core.clock)]
    if own_policy is not None:
        endpoints.append(PolicyEndpoints(own_policy))
    return ReceivingServices(acls, checks, fetcher, policies, receiver, queues, edus, arrivals, transactions, endpoints)


def build_policy_server(core: Core, acls: ServerAcls, ring: KeyRing) -> PolicyServer | None:
    """None where this server is not to be one. Raises: ConfigError."""
    config = core.config.section(PolicyServerConfig)
    if not config.enabled:
        return None
    key = SigningKey(KEY_VERSION, load_signing_key(core.config.resolve(config.key_file)).seed)
    if key.verify_key.public_key == core.signing_key.verify_key.public_key:
        raise ConfigError("policy_server.key_file: must not be the key that the server signs with")
    return PolicyServer(core.server_name, key, PolicyRules(config), core.heads, acls, ring)
