"""What admins may set about accounts."""

from __future__ import annotations

from homeserver.runtime.config import section, setting


@section("registration")
class RegistrationConfig:
    """Who may register, and how."""

    enabled: bool = setting(False, help="Whether people may register by themselves.")
    shared_secret: str = setting(
        "", help="Whoever knows it may register users at /_synapse/admin/v1/register. Empty: nobody may."
    )
    require_token: bool = setting(False, help="Whether registering takes a registration token.")
    tokens: list[str] = setting(
        [],
        help="Registration tokens that are always valid, beside those kept in the database.",
    )
    guests: bool = setting(False, help="Whether guests may have access without an account.")
    password_hash_cost: str = setting(
        "production",
        help="How much work it is to hash a password. 'minimum' is for tests only.",
        choices=("production", "minimum"),
    )
    terms_version: str = setting("", help="Version of the terms that people accept when they register. Empty: none.")
    terms_name: str = setting("Terms of service", help="Title of the terms.")
    terms_url: str = setting("", help="Address of the page with the terms.")
    session_lifetime_ms: int = setting(
        30 * 60 * 1000, help="How long an interactive authentication may take.", minimum=1000
    )


@section("login")
class LoginConfig:
    """Logins and the tokens that they give."""

    access_token_lifetime_ms: int = setting(
        60 * 60 * 1000,
        help="Lifetime of access tokens of clients that can refresh them. 0: for ever.",
        minimum=0,
    )
    refresh_token_lifetime_ms: int = setting(0, help="Lifetime of an unused refresh token. 0: for ever.", minimum=0)
    lasting_token_lifetime_ms: int = setting(
        0, help="Lifetime of access tokens of clients that can't refresh them. 0: for ever.", minimum=0
    )
    login_tokens: bool = setting(True, help="Whether a logged-in client may make a token to log in another one.")
    login_token_lifetime_ms: int = setting(2 * 60 * 1000, help="Lifetime of such a token.", minimum=1000)


@section("well_known")
class WellKnownConfig:
    """The documents below /.well-known/matrix, for a server name whose web server is this server."""

    server: str = setting("", help="host:port where other servers find this one. Empty: the document is not served.")
    support_page: str = setting("", help="Address of a page with help for users.")
    support_contacts: list[str] = setting(
        [], help="E-mail addresses or Matrix IDs of the admins, for users and other admins who need them."
    )
