"""The sections of the configuration that belong to no domain: listeners, database, log, rate limits."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from homeserver.runtime.config import group, section, setting
from homeserver.runtime.config_forms import DATABASE_URL, HTTP_URL, NETWORK, TURN_URI

RESOURCES: Final = ("client", "federation", "media", "admin", "web", "metrics", "health")
DEFAULT_RESOURCES: Final = ["client", "federation", "media", "admin", "web", "health"]


@group
class ListenerConfig:
    """One port, with what is served on it."""

    bind: list[str] = setting(["127.0.0.1"], help="Addresses to listen at. '::' and '0.0.0.0' are all of them.")
    port: int = setting(8008, help="TCP port; 0 takes a free one.", minimum=0, maximum=65535)
    tls_certificate_file: Path | None = setting(
        None, help="Certificate chain in PEM; with it the port speaks HTTPS. Read again on SIGHUP."
    )
    tls_private_key_file: Path | None = setting(None, help="The certificate's private key in PEM.")
    trusted_proxies: list[str] = setting(
        [],
        help="Addresses and networks (10.0.0.0/8) of reverse proxies whose X-Forwarded-For is believed.",
        form=NETWORK,
    )
    resources: list[str] = setting(DEFAULT_RESOURCES, help="What is served here.", choices=RESOURCES)


@section("")
class ListenersConfig:
    """Where the server listens. Repeat [[listeners]] for each port."""

    listeners: list[ListenerConfig] = setting([ListenerConfig()], help="The ports.")


@section("database")
class DatabaseConfig:
    """Where the data is kept."""

    url: str = setting(
        "sqlite:///hearth.db",
        help="sqlite:///file (relative to data_dir) or postgresql://user:password@host:port/name.",
        form=DATABASE_URL,
    )
    read_threads: int = setting(3, help="Threads, and connections, for reading.", minimum=1, maximum=64)


@section("log")
class LogConfig:
    """What is logged, to the standard error stream."""

    level: str = setting(
        "info",
        help="Least severity of what is logged. 'info' has a line for each request.",
        choices=("debug", "info", "warning", "error"),
    )
    format: str = setting(
        "auto", help="'auto' is human on a terminal and json elsewhere.", choices=("auto", "human", "json")
    )


@section("turn")
class TurnConfig:
    """TURN servers, over which calls go where the two ends can't reach each other."""

    uris: list[str] = setting(
        [], form=TURN_URI, needs="shared_secret", help="Where the servers are. Empty: there is none."
    )
    shared_secret: str = setting(
        "", help="The secret that the TURN servers have too (static-auth-secret of coturn). Needed with `uris`."
    )
    lifetime_ms: int = setting(3_600_000, help="How long credentials are good.", minimum=60_000)


@section("rtc")
class RtcConfig:
    """MatrixRTC, by which calls of many are made."""

    livekit_service_urls: list[str] = setting(
        [], form=HTTP_URL, help="Where clients ask for access to LiveKit, the best one first."
    )


@section("metrics")
class MetricsConfig:
    """Figures for Prometheus, at /metrics on listeners with the resource 'metrics'."""

    enabled: bool = setting(True, help="Whether figures are served.")


@section("presence")
class PresenceConfig:
    """Who is online."""

    enabled: bool = setting(
        False, help="Whether presence is kept and told to those who share a room. Without it, everybody is offline."
    )


@group
class Rate:
    """A token bucket."""

    per_second: float = setting(help="Requests for each second, in the long run.", minimum=0.0001)
    burst: int = setting(help="Requests that may come at once.", minimum=1)


@section("rate_limits")
class RateLimitsConfig:
    """How often each user, or each address without a user, may do what. A table for each kind."""

    enabled: bool = setting(True, help="Whether requests are limited at all.")
    message: Rate = setting(Rate(per_second=5.0, burst=50), help="Events sent.")
    login: Rate = setting(Rate(per_second=0.2, burst=10), help="Logins and passwords tried.")
    registration: Rate = setting(Rate(per_second=0.2, burst=5), help="Accounts made.")
    join: Rate = setting(Rate(per_second=0.5, burst=20), help="Rooms joined or knocked at.")
    invite: Rate = setting(Rate(per_second=0.5, burst=20), help="Invitations sent.")
    room_creation: Rate = setting(Rate(per_second=0.1, burst=10), help="Rooms made.")
    profile: Rate = setting(Rate(per_second=0.5, burst=10), help="Changes of the profile, which go to every room.")
    search: Rate = setting(Rate(per_second=1.0, burst=20), help="Searches, and listings of the public rooms.")
    report: Rate = setting(Rate(per_second=0.1, burst=10), help="Reports of content.")
    availability: Rate = setting(Rate(per_second=1.0, burst=20), help="Questions whether a user name is free.")
    presence: Rate = setting(Rate(per_second=1.0, burst=10), help="Setting one's presence.")
    federation: Rate = setting(Rate(per_second=50.0, burst=500), help="Requests of each other server.")
    server_keys: Rate = setting(
        Rate(per_second=2.0, burst=50),
        help="Requests that make this server fetch keys of servers it does not know yet.",
    )
    upload: Rate = setting(Rate(per_second=2.0, burst=50), help="Files uploaded.")
    remote_media: Rate = setting(Rate(per_second=5.0, burst=200), help="Files fetched from other servers.")
    media: Rate = setting(Rate(per_second=50.0, burst=1000), help="Downloads and thumbnails.")
    typing: Rate = setting(Rate(per_second=5.0, burst=50), help="Typing notifications and receipts.")
    other: Rate = setting(
        Rate(per_second=20.0, burst=200),
        help="All else that the specification lets a server limit: leaving rooms, key backups, push rules, threads and so on.",
    )


ALL_SECTIONS: Final[tuple[type, ...]] = (
    ListenersConfig,
    DatabaseConfig,
    LogConfig,
    TurnConfig,
    RtcConfig,
    MetricsConfig,
    PresenceConfig,
    RateLimitsConfig,
)
