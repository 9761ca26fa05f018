"""Profiles: fields of any kind, each a JSON value, 64 KiB in all.

Log rows made here: "profile" {field, deleted}, keyed by user id.

Spec: client-server-api#profiles
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.creation import MAX_DISPLAYNAME_BYTES
from homeserver.accounts.errors import KeyTooLarge, ProfileTooLarge
from homeserver.accounts.folded_cache import FoldedCache
from homeserver.accounts.limits import check_text
from homeserver.accounts.ports import ProfilePropagation, RemoteProfiles
from homeserver.accounts.requester import Requester
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, NotFound
from homeserver.matrix.ids import ServerName, UserId, domain_of
from homeserver.runtime.db import Database
from homeserver.store import profiles as store
from homeserver.store.accounts import load_user
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter

DISPLAYNAME = "displayname"
AVATAR_URL = "avatar_url"

MAX_PROFILE_BYTES = 64 * 1024
MAX_FIELD_NAME_BYTES = 255
MAX_AVATAR_URL_BYTES = 1000
MAX_CACHED_PROFILES = 10_000

# Spec: appendices#common-namespaced-identifier-grammar
_FIELD_NAME = re.compile(r"[a-z][a-z0-9._-]*", re.ASCII)
_FOLLOWED_KINDS = frozenset({"profile", "user"})

Profile = Mapping[str, Any]


def check_field_name(name: str) -> None:
    """Raises: KeyTooLarge, InvalidParam."""
    if len(name.encode(errors="replace")) > MAX_FIELD_NAME_BYTES:
        raise KeyTooLarge
    if not _FIELD_NAME.fullmatch(name):
        raise InvalidParam("keyName", "not a valid name of a profile field")


@define(eq=False)
class Profiles:
    server_name: ServerName
    database: Database
    log_writer: LogWriter
    propagation: ProfilePropagation | None = None
    remote: RemoteProfiles | None = None
    _cache: FoldedCache[UserId, Profile] = field(factory=lambda: FoldedCache(MAX_CACHED_PROFILES), init=False)

    def get_profile(self, user_id: UserId) -> Profile | None:
        """A local user's profile if memory has it."""
        return self._cache.get(user_id)

    async def load_profile(self, user_id: UserId) -> Profile:
        """The profile of any user.

        Raises: NotFound.
        """
        known = self._cache.get(user_id)
        if known is not None:
            return known
        if domain_of(user_id) != self.server_name:
            if self.remote is None:
                raise NotFound("Profile not found")
            return await self.remote.fetch_profile(user_id)
        version = self._cache.version
        profile = await self.database.read(_load_local, user_id)
        if profile is None:
            raise NotFound("Profile not found")
        if _is_small(profile):
            self._cache.put(user_id, profile, version)
        return profile

    async def load_field(self, user_id: UserId, name: str) -> Any:
        """Raises: NotFound, InvalidParam."""
        check_field_name(name)
        profile = await self.load_profile(user_id)
        if name not in profile:
            raise NotFound("The profile has no such field")
        return profile[name]

    async def set_field(self, requester: Requester, user_id: UserId, name: str, value: Any) -> None:
        """Set a field, and tell the rooms where it shows there. Returns when they know.

        Raises: Forbidden, UserSuspended, InvalidParam, BadJson, ProfileTooLarge, KeyTooLarge.

        Spec: client-server-api#put_matrixclientv3profileuseridkeyname
        """
        self._check_change(requester, user_id, name)
        if name in (DISPLAYNAME, AVATAR_URL):
            if not value:  # COMPAT(clients before DELETE, v1.15): null and "" take the field away
                await self._remove(user_id, name)
                return
            _check_shown(name, value)
        encoded = encode_json(value)
        if len(encoded) > MAX_PROFILE_BYTES:
            raise ProfileTooLarge
        await self.database.read(_check_size, user_id, name, encoded)

        def save(conn: Connection, _position: int) -> None:
            _check_size(conn, user_id, name, encoded)
            store.save_field(conn, user_id, name, encoded)

        await self.log_writer.submit(LogItem("profile", user_id, {"field": name, "deleted": False}, save))
        await self._propagate(user_id, name, value)

    async def delete_field(self, requester: Requester, user_id: UserId, name: str) -> None:
        """Remove a field, whether or not it is there.

        Raises: Forbidden, UserSuspended, InvalidParam.

        Spec: client-server-api#delete_matrixclientv3profileuseridkeyname
        """
        self._check_change(requester, user_id, name)
        await self._remove(user_id, name)

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        for row in rows:
            if row.kind in _FOLLOWED_KINDS:
                self._cache.drop(UserId(row.key))

    def _check_change(self, requester: Requester, user_id: UserId, name: str) -> None:
        check_field_name(name)
        requester.check_is(user_id)
        requester.check_not_suspended()
        if requester.is_guest and name != DISPLAYNAME:
            raise Forbidden("Guests may only change their display name", errcode="M_GUEST_ACCESS_FORBIDDEN")

    async def _remove(self, user_id: UserId, name: str) -> None:
        def save(conn: Connection, _position: int) -> None:
            store.delete_field(conn, user_id, name)

        await self.log_writer.submit(LogItem("profile", user_id, {"field": name, "deleted": True}, save))
        await self._propagate(user_id, name, None)

    async def _propagate(self, user_id: UserId, name: str, value: Any) -> None:
        if self.propagation is not None and name in (DISPLAYNAME, AVATAR_URL):
            await self.propagation.propagate(user_id, name, value)


def _load_local(conn: Connection, user_id: UserId) -> Profile | None:
    """None: there is no such user, or nothing is left of the profile since the account was closed."""
    profile = store.load_profiles(conn, [user_id]).get(user_id)
    if profile is not None:
        return profile
    user = load_user(conn, user_id)
    return {} if user is not None and not user.is_deactivated else None


def _check_size(conn: Connection, user_id: UserId, name: str, encoded: bytes) -> None:
    others = store.load_size_without(conn, user_id, name)
    if others + len(name) + len(encoded) + 4 > MAX_PROFILE_BYTES:
        raise ProfileTooLarge


def _check_shown(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise BadJson(f"{name}: must be a string")
    if name == DISPLAYNAME:
        check_text(name, value, MAX_DISPLAYNAME_BYTES)
        return
    check_text(name, value, MAX_AVATAR_URL_BYTES)
    if not value.startswith("mxc://"):
        raise InvalidParam(name, "must be an mxc:// URI")


def _is_small(profile: Profile) -> bool:
    """Whether to keep it in memory: only bounded fields, so the cache is bounded in bytes too."""
    return all(name in (DISPLAYNAME, AVATAR_URL, "m.tz") for name in profile) and len(str(profile.get("m.tz", ""))) < 64
