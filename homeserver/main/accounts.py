"""Accounts: their services and endpoints."""

from __future__ import annotations

from attrs import frozen

from homeserver.accounts.access import AccessTokens
from homeserver.accounts.account import Accounts
from homeserver.accounts.account_data import AccountData
from homeserver.accounts.commands import AccountCommands
from homeserver.accounts.config import LoginConfig, RegistrationConfig, WellKnownConfig
from homeserver.accounts.creation import AccountCreator
from homeserver.accounts.devices import Devices
from homeserver.accounts.filters import Filters
from homeserver.accounts.interactive_auth import InteractiveAuth
from homeserver.accounts.last_seen import LastSeen
from homeserver.accounts.logins import Logins
from homeserver.accounts.openid import OpenIdTokens
from homeserver.accounts.passwords import PasswordCheck, PasswordHashes
from homeserver.accounts.ports import Limiter, ProfilePropagation, RoomDeparture
from homeserver.accounts.profiles import Profiles
from homeserver.accounts.registration import Registrations
from homeserver.accounts.sessions import Sessions
from homeserver.accounts.shared_secret import SharedSecretRegistration
from homeserver.accounts.stages import (
    DummyStage,
    PasswordStage,
    RegistrationTokens,
    RegistrationTokenStage,
    TermsStage,
)
from homeserver.clientapi.account_data import AccountDataEndpoints
from homeserver.clientapi.account_management import AccountManagement
from homeserver.clientapi.account_moderation import AccountModeration
from homeserver.clientapi.auth_fallback import AuthFallback
from homeserver.clientapi.calls import CallEndpoints
from homeserver.clientapi.capabilities import Capabilities
from homeserver.clientapi.devices import DeviceEndpoints
from homeserver.clientapi.filter import FilterEndpoints
from homeserver.clientapi.login import LoginEndpoints
from homeserver.clientapi.login_page import LoginPage
from homeserver.clientapi.openid import OpenIdEndpoints
from homeserver.clientapi.profiles import ProfileEndpoints
from homeserver.clientapi.registration import RegistrationEndpoints
from homeserver.clientapi.shared_secret_registration import SharedSecretEndpoints
from homeserver.clientapi.tags import TagEndpoints
from homeserver.clientapi.third_party import ThirdPartyEndpoints
from homeserver.clientapi.versions import Versions
from homeserver.clientapi.wellknown import WellKnown
from homeserver.main.core import Core
from homeserver.rooms.config import RoomsConfig
from homeserver.runtime.config import Config
from homeserver.runtime.config_sections import PresenceConfig, RtcConfig, TurnConfig

# What is true beyond the specification's versions. Each entry has a test.
UNSTABLE_FEATURES = {
    "im.hearth.stream": True,
    "org.matrix.msc3814.v1": True,
    "org.matrix.msc3916.stable": True,
    "org.matrix.msc4140": True,
    "org.matrix.msc4140.stable": True,
    "org.matrix.msc4143": True,
    "org.matrix.msc4155": True,
    "org.matrix.msc4222": True,
    "org.matrix.msc4354": True,
    "org.matrix.simplified_msc3575": True,
    "uk.half-shot.msc2666.query_mutual_rooms": True,
    "uk.half-shot.msc2666.query_mutual_rooms.stable": True,
    "uk.tcpip.msc4133": True,
    "uk.tcpip.msc4133.stable": True,
}


@frozen
class AccountServices:
    access: AccessTokens
    auth: InteractiveAuth
    last_seen: LastSeen
    hashes: PasswordHashes
    accounts: Accounts
    profiles: Profiles
    account_data: AccountData
    filters: Filters
    commands: AccountCommands
    endpoints: list[object]


def build_accounts(
    core: Core,
    propagation: ProfilePropagation | None,
    departure: RoomDeparture | None,
    limiter: Limiter | None,
    public_base_url: str,
) -> AccountServices:
    config, database, log, clock = core.config, core.database, core.log, core.clock
    registration, login = config.section(RegistrationConfig), config.section(LoginConfig)
    hashes = PasswordHashes(core.reactor, registration.password_hash_cost)
    passwords = PasswordCheck(database, hashes, core.server_name, limiter)
    tokens = RegistrationTokens(database, clock, registration)
    stages = (DummyStage(), TermsStage(registration), RegistrationTokenStage(tokens), PasswordStage(passwords))
    auth = InteractiveAuth(database, clock, {stage.type: stage for stage in stages}, registration.session_lifetime_ms)
    access = AccessTokens(database, log, clock)
    sessions = Sessions(database, log, clock, login)
    creator = AccountCreator(database, log, clock, hashes, sessions)
    accounts = Accounts(database, log, hashes, departure)
    account_data, filters = AccountData(database, log), Filters(database)
    profiles = Profiles(core.server_name, database, log, propagation)
    log.follow(access.on_rows)
    log.follow(profiles.on_rows)
    return AccountServices(
        access,
        auth,
        LastSeen(database, clock),
        hashes,
        accounts,
        profiles,
        account_data,
        filters,
        AccountCommands(core.server_name, creator, accounts),
        [
            Versions({**UNSTABLE_FEATURES, **_configured_features(config)}),
            WellKnown(public_base_url, config.section(WellKnownConfig), config.section(RtcConfig).livekit_service_urls),
            Capabilities(config.section(RoomsConfig).default_version, login_tokens=login.login_tokens),
            RegistrationEndpoints(Registrations(core.server_name, registration, creator, auth, access, tokens), tokens),
            AuthFallback(auth, registration),
            LoginPage(),
            SharedSecretEndpoints(
                SharedSecretRegistration(core.server_name, registration.shared_secret, clock, creator)
            ),
            LoginEndpoints(Logins(database, clock, login, passwords, sessions), sessions, auth),
            AccountManagement(accounts, auth),
            AccountModeration(core.server_name, accounts),
            DeviceEndpoints(Devices(database, log), sessions, auth),
            ProfileEndpoints(profiles),
            AccountDataEndpoints(account_data),
            TagEndpoints(account_data),
            FilterEndpoints(filters),
            OpenIdEndpoints(core.server_name, OpenIdTokens(database, clock)),
            CallEndpoints(config.section(TurnConfig), config.section(RtcConfig), clock),
            ThirdPartyEndpoints(),
        ],
    )


def _configured_features(config: Config) -> dict[str, bool]:
    return {
        "org.matrix.msc3026.busy_presence": config.section(PresenceConfig).enabled,
        "org.matrix.msc4306": config.section(RoomsConfig).thread_subscriptions,
    }
