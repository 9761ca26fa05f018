"""The content of m.room.member events that this server makes for its users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import ServerName, UserId, domain_of
from homeserver.matrix.invite_policy import InviteAction
from homeserver.rooms.errors import InviteBlocked
from homeserver.rooms.ports import ProfileReader, RemoteServers
from homeserver.runtime.db import Database
from homeserver.store.invite_policies import load_invite_policies

SHOWN_FIELDS = ("displayname", "avatar_url")
# What nobody may keep a user from saying (ports.EventReviewer).
BARE_LEAVE: Final[Mapping[str, Any]] = {"membership": "leave"}
# Never taken from a client: the server itself vouches with it.
AUTHORISED_VIA = "join_authorised_via_users_server"


@define(eq=False)
class MemberContents:
    """Fills in profiles, and asks whether somebody may be invited at all."""

    server_name: ServerName
    database: Database
    profiles: ProfileReader
    remote: RemoteServers

    def is_local(self, user_id: UserId) -> bool:
        return domain_of(user_id) == self.server_name

    async def load_shown(self, user_id: UserId) -> dict[str, str]:
        """The user's displayname and avatar_url, as far as there are any."""
        try:
            profile = await self.profiles.load_profile(user_id)
        except NotFound:
            return {}
        return {name: profile[name] for name in SHOWN_FIELDS if isinstance(profile.get(name), str)}

    async def load(self, membership: str, user_id: UserId, given: Mapping[str, Any]) -> dict[str, Any]:
        """A member event's content: what was given, and the profile where that says nothing about it."""
        content = {"membership": membership, **given}
        content.pop(AUTHORISED_VIA, None)
        if membership in ("join", "knock") or (membership == "invite" and self.is_local(user_id)):
            content = {**await self.load_shown(user_id), **content}
        content["membership"] = membership
        return content

    async def check_invitable(self, sender: UserId, user_ids: list[UserId]) -> None:
        """Raises: InviteBlocked; Forbidden for users of servers that are out of reach.

        Spec: client-server-api#invite-permission
        """
        for user_id in user_ids:
            if not self.is_local(user_id):
                self.remote.check_allowed(domain_of(user_id))
        local = [user_id for user_id in user_ids if self.is_local(user_id)]
        policies = await self.database.read(load_invite_policies, local) if local else {}
        if any(policy.judge(sender) is InviteAction.BLOCK for policy in policies.values()):
            raise InviteBlocked
