"""What `hearth user …` does, over the same services that the endpoints use."""

from __future__ import annotations

from attrs import define

from homeserver.accounts.account import Accounts
from homeserver.accounts.creation import AccountCreator, NewAccount
from homeserver.accounts.passwords import check_new_password
from homeserver.accounts.usernames import login_candidates, parse_new_username
from homeserver.matrix.errors import InvalidParam, NotFound
from homeserver.matrix.ids import ServerName, UserId, localpart_of


@define(eq=False)
class AccountCommands:
    """Users are named by localpart or id. What is wrong is a MatrixError with a text for the admin."""

    server_name: ServerName
    creator: AccountCreator
    accounts: Accounts

    async def add_user(self, username: str, password: str, *, is_admin: bool = False) -> UserId:
        """Raises: InvalidParam, UserInUse, WeakPassword."""
        localpart = localpart_of(self._candidates(username)[-1]) if username.startswith("@") else username
        user_id = parse_new_username(localpart, self.server_name)
        check_new_password(password)
        await self.creator.check_available(user_id)
        displayname = localpart_of(user_id)
        await self.creator.create(NewAccount(user_id, password, displayname=displayname, is_admin=is_admin))
        return user_id

    async def set_password(self, username: str, password: str, *, log_out: bool = True) -> UserId:
        """Raises: NotFound, InvalidParam, WeakPassword."""
        user_id = await self._find(username)
        await self.accounts.set_password(user_id, password, log_out=log_out)
        return user_id

    async def set_admin(self, username: str, is_admin: bool) -> UserId:
        """Raises: NotFound, InvalidParam."""
        user_id = await self._find(username)
        await self.accounts.set_admin(user_id, is_admin)
        return user_id

    async def deactivate(self, username: str, *, erase: bool = False) -> UserId:
        """Raises: NotFound, InvalidParam."""
        user_id = await self._find(username)
        await self.accounts.deactivate(user_id, erase=erase)
        return user_id

    async def _find(self, username: str) -> UserId:
        for candidate in self._candidates(username):
            try:
                return (await self.accounts.load_user(candidate)).user_id
            except NotFound:
                continue
        raise NotFound(f"There is no user {username}")

    def _candidates(self, username: str) -> list[UserId]:
        candidates = login_candidates(username, self.server_name)
        if not candidates:
            raise InvalidParam("user", f"not a user of {self.server_name}")
        return candidates
