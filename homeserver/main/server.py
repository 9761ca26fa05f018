"""A running server: built in layer order from its configuration, and taken down in the reverse."""

from __future__ import annotations

from typing import Any

from attrs import define, frozen

from federation.remote_keys import FederatedKeys
from homeserver.accounts.account_data import PUSH_RULES_TYPE
from homeserver.accounts.commands import AccountCommands
from homeserver.main.accounts import AccountServices, build_accounts
from homeserver.main.core import Core, build_core
from homeserver.main.database import open_database, prepare_data_dir
from homeserver.main.encryption import EncryptionServices, build_encryption
from homeserver.main.federation import Authentication, FederationServices, build_federation
from homeserver.main.media import MediaServices, build_media
from homeserver.main.outbound import OutboundServices, build_outbound
from homeserver.main.rooms import RoomServices, build_rooms
from homeserver.main.search import SearchServices, build_search
from homeserver.main.stream import StreamServices, build_stream
from homeserver.main.sync import SyncServices, build_sync
from homeserver.main.version import VERSION
from homeserver.rooms.succession import Succession
from homeserver.runtime.clock import Clock, SystemClock
from homeserver.runtime.config import Config, ServerConfig
from homeserver.runtime.config_sections import ListenersConfig, MetricsConfig, RateLimitsConfig
from homeserver.runtime.http.docs_page import DocsPage
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App
from homeserver.runtime.lifecycle import HealthEndpoint, Lifecycle
from homeserver.runtime.listeners import Listeners
from homeserver.runtime.loop_lag import LoopLag
from homeserver.runtime.metrics import Metrics
from homeserver.runtime.rate_limit import RateLimiter
from homeserver.store.log_tail import LogTail


@frozen
class Services:
    """Everything but the network."""

    core: Core
    accounts: AccountServices
    rooms: RoomServices
    encryption: EncryptionServices
    sync: SyncServices
    search: SearchServices
    stream: StreamServices
    media: MediaServices
    federation: FederationServices | None
    outbound: OutboundServices | None
    limiter: RateLimiter

    @property
    def commands(self) -> AccountCommands:
        return self.accounts.commands

    async def stop(self) -> None:
        """Finish what was accepted; then close the database."""
        await self.rooms.delayed.stop()
        await self.rooms.second_looks.stop()
        await self.core.background.stop()  # it may have something to ask of other servers yet
        await self.rooms.upkeep.stop()
        await self.search.stop()
        await self.rooms.profiles.stop()
        await self.accounts.last_seen.stop()
        self.media.stop()
        if self.federation is not None:
            await self.federation.stop()
        self.rooms.typing.close()
        await self.core.log.flush()
        self.accounts.hashes.stop()
        await self.core.database.close()


def operations(config: Config, clock: Clock, router: Router, lifecycle: Lifecycle) -> list[object]:
    """Endpoints for whoever runs the server, or builds on it."""
    made: list[object] = [HealthEndpoint(lifecycle.draining), DocsPage(router, VERSION)]
    if config.section(MetricsConfig).enabled:
        lag = LoopLag(clock)
        lag.start()
        lifecycle.on_stop("Event loop lag", lag.stop)
        made.append(Metrics(router, lag))
    return made


async def build_services(config: Config, reactor: Any, clock: Clock | None = None) -> Services:
    """Raises: ConfigError."""
    clock = clock or SystemClock(reactor)
    prepare_data_dir(config)
    core = await build_core(config, reactor, clock, open_database(config, reactor))
    limiter = RateLimiter(clock, config.section(RateLimitsConfig))
    rooms = build_rooms(core)
    accounts = build_accounts(core, rooms.profiles, rooms.departures, limiter, public_base_url(config))
    accounts.hashes.start()
    encryption = build_encryption(core)
    await encryption.remote_devices.start()
    sync = build_sync(core, accounts, rooms, encryption)
    accounts.account_data.elsewhere[PUSH_RULES_TYPE] = sync.push_rules.load_content
    succession = Succession(core.heads, core.memberships, accounts.account_data, sync.push_rules)
    rooms.membership.after_join = rooms.creation.after_join = succession.on_joined
    federation = build_federation(core, accounts, rooms, encryption, limiter)
    outbound = None
    if federation is not None:
        await federation.start(core)
        encryption.use_remote(FederatedKeys(federation.client))
        outbound = build_outbound(core, federation.client, rooms, encryption, sync.presence)
        federation.destinations.on_alive(outbound.sender.wake)
        federation.receiving.edus.register_all(outbound.receivers)
    search, stream = build_search(core, rooms), build_stream(core, accounts, rooms, sync, limiter)
    media = build_media(core, federation, limiter)
    return Services(core, accounts, rooms, encryption, sync, search, stream, media, federation, outbound, limiter)


def public_base_url(config: Config) -> str:
    """Where clients reach the server: as configured, else the first listener on localhost."""
    configured = config.section(ServerConfig).public_base_url
    listener = config.section(ListenersConfig).listeners[0]
    return configured or f"http://localhost:{listener.port}"


@define(eq=False)
class RunningServer:
    services: Services
    listeners: Listeners
    lifecycle: Lifecycle

    @property
    def ports(self) -> list[int]:
        """The port of each listener, in the order of the configuration."""
        return self.listeners.ports

    async def stop(self) -> None:
        """Answer who waits, finish what runs, then close."""
        await self.lifecycle.stop()


async def start_server(
    config: Config, reactor: Any, clock: Clock | None = None, *, handles_signals: bool = False
) -> RunningServer:
    """With `handles_signals` signals stop and reload it from before it accepts connections; only in the main thread.

    Raises: ConfigError, also for a port that is taken.
    """
    services = await build_services(config, reactor, clock)
    router = Router()
    parts = (
        services.accounts,
        services.rooms,
        services.encryption,
        services.sync,
        services.search,
        services.stream,
        services.media,
        services.federation,
    )
    for endpoints in (endpoints for part in parts if part is not None for endpoints in part.endpoints):
        router.add(endpoints)
    accounts, federation = services.accounts, services.federation
    authentication = Authentication(accounts.access, None if federation is None else federation.auth)
    spooling, outgoing = services.media.spooling, services.sync.notifier.outgoing
    app = App(reactor, router, authentication, services.limiter, accounts.last_seen.note, spooling, outgoing)
    listeners = Listeners(app, config)
    lifecycle = Lifecycle(reactor, services.core.clock, listeners)
    for endpoints in operations(config, services.core.clock, router, lifecycle):
        router.add(endpoints)
    lifecycle.draining.subscribe(services.stream.streams.drain)
    lifecycle.draining.subscribe(services.sync.notifier.drain)
    lifecycle.on_stop("Services", services.stop)
    if services.outbound is not None:
        await services.outbound.start()
        lifecycle.on_stop("Sending to other servers", services.outbound.stop)
    tail = LogTail(services.core.database, services.core.log, services.core.clock)
    lifecycle.on_stop("Log", tail.stop)
    await services.accounts.accounts.resume_departures()
    await services.rooms.delayed.start()
    services.rooms.second_looks.start()
    services.search.start()
    services.rooms.upkeep.start()
    services.media.start()
    if federation is not None:
        await federation.retire_keys(services.core)
        await federation.receiving.start()
        await federation.joining.start()
    if handles_signals:
        lifecycle.install_signal_handlers()
    try:
        listeners.start()
    except BaseException:
        if services.outbound is not None:
            await services.outbound.stop()
        await services.stop()
        raise
    tail.start()
    return RunningServer(services, listeners, lifecycle)
