"""`hearth doctor`: the federation's doctor, set up from the configuration."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from federation.config import FederationConfig
from federation.discovery import Discovery
from federation.dns import SrvLookup
from federation.doctor import Doctor, Finding, OwnServer
from homeserver.main.federation import http_policy
from homeserver.main.version import VERSION
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import KeyFileError, parse_signing_keys
from homeserver.runtime.clock import SystemClock
from homeserver.runtime.config import Config, ServerConfig
from homeserver.runtime.config_sections import ListenersConfig
from homeserver.runtime.http_client import HttpClient
from homeserver.runtime.outbound_addresses import AddressPolicy, SystemResolver


async def examine(config: Config, reactor: Any, server: str | None) -> list[Finding]:
    """What is found of a server; None is this one. Raises: ConfigError."""
    policy, clock = http_policy(config), SystemClock(reactor)
    resolver, ends_ms = SystemResolver(reactor), dict[str, int]()
    open_policy = evolve(policy, addresses=AddressPolicy(allow_private=True))
    http = HttpClient(reactor, clock, open_policy, f"Hearth/{VERSION}", resolver, ends_ms.__setitem__)
    look_up_srv = SrvLookup(reactor)
    discovery = Discovery(http, look_up_srv, clock)
    doctor = Doctor(http, discovery, look_up_srv, resolver, policy.addresses, clock, ends_ms)
    try:
        own = own_server(config)
        if server is None or server == own.name:
            return await doctor.examine_own(own)
        return await doctor.examine(server)
    finally:
        await http.stop()
        resolver.stop()


def own_server(config: Config) -> OwnServer:
    """This server as the configuration has it."""
    federation = config.section(FederationConfig)
    name = ServerName(config.section(ServerConfig).server_name)
    return OwnServer(
        name,
        federation.enabled,
        any("federation" in listener.resources for listener in config.section(ListenersConfig).listeners),
        _load_key_ids(config),
        tuple(ServerName(each) for each in federation.trusted_key_servers if each != name),
    )


def _load_key_ids(config: Config) -> tuple[str, ...]:
    """None where there is no key yet: looking at a server makes none."""
    path = config.resolve(config.section(ServerConfig).signing_key_file)
    try:
        return tuple(key.key_id for key in parse_signing_keys(path.read_text()))
    except (OSError, UnicodeDecodeError, KeyFileError):
        return ()
