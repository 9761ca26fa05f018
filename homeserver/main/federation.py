"""Federation: its services and endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, frozen

from federation.allowed import AllowedServers
from federation.authentication import ServerAuth
from federation.client import FederationClient
from federation.config import FederationConfig
from federation.destinations import Destinations
from federation.discovery import Discovery
from federation.dns import SrvLookup
from federation.keys.key_ring import KeyRing
from federation.keys.notary import Notary
from federation.keys.own import OwnKeys
from federation.serverapi.keys import KeyEndpoints
from federation.serverapi.version import VersionEndpoint
from homeserver.accounts.access import AccessTokens
from homeserver.main.accounts import AccountServices
from homeserver.main.core import Core
from homeserver.main.encryption import EncryptionServices
from homeserver.main.joining import JoiningServices, build_joining
from homeserver.main.keys import load_signing_keys
from homeserver.main.receiving import ReceivingServices, build_receiving
from homeserver.main.rooms import RoomServices
from homeserver.main.serving import build_serving
from homeserver.main.version import VERSION
from homeserver.matrix.ids import parse_server_name
from homeserver.rooms.config import IdentityServersConfig
from homeserver.rooms.identity_servers import IdentityServers
from homeserver.runtime.config import Config, ConfigError, ServerConfig
from homeserver.runtime.http.endpoint import Auth
from homeserver.runtime.http_client import HttpClient, HttpPolicy
from homeserver.runtime.outbound_addresses import AddressPolicy, parse_networks
from homeserver.runtime.outbound_connections import parse_proxy
from homeserver.runtime.rate_limit import RateLimiter

if TYPE_CHECKING:
    from homeserver.runtime.http.request import Request


@frozen
class FederationServices:
    http: HttpClient
    allowed: AllowedServers
    discovery: Discovery
    destinations: Destinations
    own_keys: OwnKeys
    client: FederationClient
    ring: KeyRing
    auth: ServerAuth
    receiving: ReceivingServices
    joining: JoiningServices
    endpoints: list[object]

    async def start(self, core: Core) -> None:
        """Read what is known of others, before the first request."""
        await self.own_keys.start()
        await self.destinations.start()

    async def retire_keys(self, core: Core) -> None:
        """For a process that is about to serve."""
        keys = load_signing_keys(core.config.resolve(core.config.section(ServerConfig).signing_key_file))
        await self.own_keys.retire(keys)

    async def stop(self) -> None:
        await self.joining.stop()
        await self.receiving.stop()
        await self.destinations.stop()
        await self.http.stop()


def build_federation(
    core: Core, accounts: AccountServices, rooms: RoomServices, encryption: EncryptionServices, limiter: RateLimiter
) -> FederationServices | None:
    """None where this server does not federate. Raises: ConfigError."""
    config = core.config.section(FederationConfig)
    if not config.enabled:
        return None
    allowed, destinations = AllowedServers(config), Destinations(core.database, core.clock)
    http = HttpClient(core.reactor, core.clock, http_policy(core.config), f"Hearth/{VERSION}")
    discovery = Discovery(http, SrvLookup(core.reactor), core.clock)
    client = FederationClient(
        core.server_name,
        core.signing_key,
        http,
        discovery,
        destinations,
        allowed,
        core.clock,
        config.request_timeout_ms,
    )
    own_keys = OwnKeys(core.server_name, core.signing_key, core.database, core.clock)
    notaries = [parse_server_name(name) for name in config.trusted_key_servers if name != core.server_name]
    ring = KeyRing(client, own_keys, core.database, core.clock, notaries)
    notary = Notary(ring, core.database, core.clock, allowed, limiter)
    receiving = build_receiving(core, client, ring)
    joining = build_joining(core, accounts, rooms, client, ring, allowed, receiving)
    identity = IdentityServers(core.config.section(IdentityServersConfig), http)
    rooms.addresses.identity = rooms.membership.invite_keys.identity = identity
    return FederationServices(
        http,
        allowed,
        discovery,
        destinations,
        own_keys,
        client,
        ring,
        ServerAuth(core.server_name, ring, destinations, allowed, limiter, core.clock),
        receiving,
        joining,
        [
            KeyEndpoints(own_keys, notary),
            VersionEndpoint(VERSION),
            *receiving.endpoints,
            *build_serving(core, accounts, rooms, encryption, receiving, client, config),
        ],
    )


def http_policy(config: Config) -> HttpPolicy:
    """How other servers may be called. Raises: ConfigError."""
    section = config.section(FederationConfig)
    addresses = AddressPolicy(
        section.allow_private_addresses,
        parse_networks(section.denied_networks, "[federation] denied_networks"),
        parse_networks(section.allowed_networks, "[federation] allowed_networks"),
    )
    ca_file = None if section.custom_ca_file is None else config.resolve(section.custom_ca_file)
    if ca_file is not None and not ca_file.is_file():
        raise ConfigError(f"[federation] custom_ca_file: there is no file {ca_file}")
    proxy = parse_proxy(section.proxy, "[federation] proxy")
    return HttpPolicy(section.verify_certificates, ca_file, addresses, proxy)


@define(eq=False)
class Authentication:
    """Users by their tokens, servers by their signatures."""

    users: AccessTokens
    servers: ServerAuth | None

    def get_requester(self, token: str) -> Any | None:
        return self.users.get_requester(token)

    async def authenticate(self, request: Request, auth: Auth) -> Any | None:
        if auth is Auth.SERVER:
            assert self.servers is not None, "without federation no endpoint asks for a server"
            return await self.servers.authenticate(request)
        return await self.users.authenticate(request, auth)
