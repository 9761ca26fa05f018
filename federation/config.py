"""The settings of federation."""

from __future__ import annotations

from pathlib import Path

from homeserver.runtime.config import section, setting
from homeserver.runtime.config_forms import NETWORK, SERVER_NAME


@section("federation")
class FederationConfig:
    """Other Matrix servers: whether this one talks with them, which ones, and how it reaches them."""

    enabled: bool = setting(True, help="Whether this server talks to others.")
    verify_certificates: bool = setting(True, help="Whether other servers must have valid certificates.")
    custom_ca_file: Path | None = setting(None, help="Certificate authorities (PEM) to trust beside the system's.")
    allow_private_addresses: bool = setting(
        False, help="Whether servers at private addresses may be called (10.0.0.0/8, 127.0.0.1, fd00::/8 and so on)."
    )
    allowed_networks: list[str] = setting(
        [],
        help="Private addresses and networks that may be called although others may not, such as 10.1.2.0/24.",
        form=NETWORK,
    )
    denied_networks: list[str] = setting([], help="Addresses and networks that are never called.", form=NETWORK)
    domain_allowlist: list[str] = setting([], help="The only servers to talk to. Empty: all.")
    domain_denylist: list[str] = setting([], help='Servers never to talk to. "*.example.org" is all below that name.')
    proxy: str = setting(
        "",
        help="HTTP proxy for requests to other servers, as http://user:password@host:port. "
        "It looks names up itself, so that it is the one to keep private addresses out of reach.",
    )
    request_timeout_ms: int = setting(
        60_000, help="How long another server may take to answer.", minimum=1_000, maximum=600_000
    )
    trusted_key_servers: list[str] = setting(
        ["matrix.org"], help="Servers asked for keys of servers that can't be reached themselves.", form=SERVER_NAME
    )
    public_rooms: bool = setting(True, help="Whether other servers may list the public rooms of this one.")


@section("policy_server")
class PolicyServerConfig:
    """This server as a policy server: it says which events rooms should take that name it in m.room.policy."""

    enabled: bool = setting(False, help="Whether this server signs events as a policy server.")
    key_file: Path = setting(
        Path("policy.key"), help="The key that recommends events, not that of the server; made at the first start."
    )
    rooms: list[str] = setting([], help="The ids of the rooms that it guards. Empty: all that its users are in.")
    denied_servers: list[str] = setting(
        [], help='Servers whose users\' events are not recommended. "*.example.org" is all below that name.'
    )
    denied_event_types: list[str] = setting(
        [], help='Types of events that are not recommended, such as "m.sticker" or "m.poll.*".'
    )
    max_mentions: int = setting(
        0, help="How many users an event may mention; the whole room counts as one. 0: any number.", minimum=0
    )
