"""Registration: who may have an account, and what must be done for it.

Spec: client-server-api#post_matrixclientv3register
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define, evolve, frozen

from homeserver.accounts.access import AccessTokens
from homeserver.accounts.config import RegistrationConfig
from homeserver.accounts.creation import AccountCreator, NewAccount
from homeserver.accounts.interactive_auth import Flow, InteractiveAuth, Operation
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.sessions import Session, SessionRequest
from homeserver.accounts.stages import DUMMY, REGISTRATION_TOKEN, TERMS, RegistrationTokens
from homeserver.accounts.tokens import new_localpart
from homeserver.accounts.usernames import parse_new_username
from homeserver.matrix.errors import Forbidden, MissingParam
from homeserver.matrix.ids import ServerName, UserId, localpart_of

REGISTER = Operation("POST", "/_matrix/client/v3/register")


@frozen
class RegistrationRequest:
    username: str | None = None
    password: str | None = None
    guest_access_token: str | None = None
    session: SessionRequest | None = None  # None: don't log in


@frozen
class Registered:
    user_id: UserId
    session: Session | None


@define(eq=False)
class Registrations:
    server_name: ServerName
    config: RegistrationConfig
    creator: AccountCreator
    auth: InteractiveAuth
    access: AccessTokens
    tokens: RegistrationTokens

    def check_enabled(self) -> None:
        """Raises: Forbidden."""
        if not self.config.enabled:
            raise Forbidden("Registration is disabled on this server")

    async def check_available(self, username: str) -> None:
        """Raises: InvalidParam (M_INVALID_USERNAME), UserInUse, ExclusiveUsername."""
        await self.creator.check_available(parse_new_username(username, self.server_name))

    async def register(self, request: RegistrationRequest, auth: Mapping[str, Any] | None) -> Registered:
        """What can be refused is refused before the client is asked to authenticate.

        Raises: Forbidden, AuthRequired, WeakPassword, MissingParam; those of check_available and
        AccountCreator.
        """
        self.check_enabled()
        guest = await self._load_guest(request)
        user_id = guest or await self._choose_user_id(request.username)
        if request.password is not None:
            check_new_password(request.password)
        completed = await self.auth.check(REGISTER, [self._flow()], auth)
        if request.password is None:
            raise MissingParam("password")
        account = self._account(user_id, request, completed)
        create = self.creator.create if guest is None else self.creator.upgrade_guest
        return Registered(user_id, await create(account))

    async def register_guest(self, device_name: str | None) -> Registered:
        """Raises: Forbidden.

        Spec: client-server-api#guest-access
        """
        if not self.config.guests:
            raise Forbidden("Guest access is disabled on this server")
        user_id = parse_new_username(new_localpart("guest"), self.server_name)
        session = SessionRequest(device_name=device_name)
        return Registered(user_id, await self.creator.create(NewAccount(user_id, is_guest=True, session=session)))

    def _flow(self) -> Flow:
        """COMPAT(matrix-nio 0.26): the dummy stage is always last, as in Synapse's flows; `register_with_token` ends with it."""
        stages = []
        if self.config.require_token:
            stages.append(REGISTRATION_TOKEN)
        if self.config.terms_url:
            stages.append(TERMS)
        return (*stages, DUMMY)

    async def _choose_user_id(self, username: str | None) -> UserId:
        if username is None:
            return parse_new_username(new_localpart("user"), self.server_name)
        user_id = parse_new_username(username, self.server_name)
        await self.creator.check_available(user_id)
        return user_id

    async def _load_guest(self, request: RegistrationRequest) -> UserId | None:
        """The guest who wants to become a full user, if so."""
        if request.guest_access_token is None:
            return None
        guest = await self.access.load_requester(request.guest_access_token)
        if not guest.is_guest or request.username != localpart_of(guest.user_id):
            raise Forbidden("A guest can only be upgraded with their own token and user name")
        return guest.user_id

    def _account(self, user_id: UserId, request: RegistrationRequest, completed: Mapping[str, Any]) -> NewAccount:
        account = NewAccount(
            user_id,
            password=request.password,
            displayname=localpart_of(user_id),
            terms_accepted=completed.get(TERMS),
            session=request.session,
        )
        token = completed.get(REGISTRATION_TOKEN)
        if token is not None and not self.tokens.is_configured(token):
            account = evolve(account, registration_token=token)
        return account
