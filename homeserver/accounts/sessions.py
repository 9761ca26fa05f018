"""Sessions: a device with its tokens. Logins begin them, refreshes renew them, logouts end them.

Log rows made here, keyed by user id:
    "device" {device_ids: [...], deleted: bool}
        devices came, changed their name, or went (with their tokens)
    "token"  {change: "replaced" | "refreshed" | "revoked"}
        tokens of a user died, their device lives on
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from attrs import define, evolve, frozen
from sqlalchemy import Connection

from homeserver.accounts.config import LoginConfig
from homeserver.accounts.errors import UserLocked
from homeserver.accounts.limits import MAX_DEVICE_NAME_BYTES, shorten
from homeserver.accounts.requester import Requester
from homeserver.accounts.tokens import ACCESS, REFRESH, hash_token, is_garbled, new_device_id, new_token
from homeserver.matrix.errors import Forbidden, UnknownToken
from homeserver.matrix.ids import DeviceId, UserId, parse_device_id
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import access_tokens, devices
from homeserver.store.access_tokens import NewTokens, RefreshOwner
from homeserver.store.cross_signing import is_cross_signing_key
from homeserver.store.devices import DeviceRow
from homeserver.store.log_writer import LogItem, LogWriter


@frozen
class SessionRequest:
    """What a client asks for when it logs in."""

    device_id: str | None = None
    device_name: str | None = None
    wants_refresh_token: bool = False


@frozen
class Session:
    """What a client gets."""

    user_id: UserId
    device_id: DeviceId
    access_token: str
    refresh_token: str | None
    expires_in_ms: int | None
    device_name: str | None
    tokens: NewTokens

    def save(self, conn: Connection) -> None:
        """Write device and tokens. A device that was there keeps its name and loses the tokens it had."""
        is_new = devices.save_device(conn, self.user_id, self.device_id, self.device_name, self.tokens.created_ts_ms)
        if not is_new:
            access_tokens.delete_device_tokens(conn, self.user_id, [self.device_id])
        access_tokens.save_tokens(conn, self.tokens)


@define(eq=False)
class Sessions:
    database: Database
    log_writer: LogWriter
    clock: Clock
    config: LoginConfig

    def build(self, user_id: UserId, request: SessionRequest) -> Session:
        """A session with new tokens, not saved yet.

        Raises: InvalidParam for an impossible device id.
        """
        device_id = parse_device_id(request.device_id) if request.device_id else DeviceId(new_device_id())
        name = shorten(request.device_name, MAX_DEVICE_NAME_BYTES) if request.device_name is not None else None
        return self._build(user_id, device_id, name, with_refresh=request.wants_refresh_token)

    async def start(
        self, user_id: UserId, request: SessionRequest, also: Callable[[Connection], None] | None = None
    ) -> Session:
        """Log a user in on a new or an existing device; `also` is run first, in the same transaction.

        Raises: InvalidParam; Forbidden for a device that would be called like a cross-signing key; what `also` raises.

        Spec: client-server-api#relationship-between-access-tokens-and-devices
        """
        session = self.build(user_id, request)
        known = None
        if request.device_id:
            known = await self.database.read(_load_device, user_id, session.device_id)

        def save(conn: Connection) -> None:
            if also is not None:
                also(conn)
            session.save(conn)

        if known is None:
            await self.log_writer.submit(_device_item(user_id, [session.device_id], save))
        else:
            await self.log_writer.submit(_token_item(user_id, "replaced", save))
        return session

    async def refresh(self, refresh_token: str) -> Session:
        """A new pair of tokens for an old refresh token, which lives until the new pair is first used.

        Raises: UnknownToken (with soft_logout when merely expired), UserLocked.

        Spec: client-server-api#refreshing-access-tokens
        """
        if is_garbled(refresh_token):
            raise UnknownToken("Unrecognised refresh token")
        refresh_hash = hash_token(refresh_token)
        owner = await self.database.read(access_tokens.load_refresh_owner, refresh_hash)
        self._check_refresh(owner)
        assert owner is not None
        built = self._build(owner.user_id, owner.device_id, None, with_refresh=True)
        session = evolve(built, tokens=evolve(built.tokens, supersedes=refresh_hash))
        await self.log_writer.submit(
            _token_item(owner.user_id, "refreshed", lambda conn: _save_refresh(conn, refresh_hash, session.tokens))
        )
        return session

    async def log_out(self, requester: Requester, token: str | None) -> None:
        """End the requester's session: its device goes, with all its tokens.

        Spec: client-server-api#post_matrixclientv3logout
        """
        if requester.device_id is not None:
            await self.delete_devices(requester.user_id, [requester.device_id])
        elif token is not None:
            token_hash = hash_token(token)
            await self.log_writer.submit(
                _token_item(requester.user_id, "revoked", lambda conn: access_tokens.delete_token(conn, token_hash))
            )

    async def delete_devices(self, user_id: UserId, device_ids: Collection[str]) -> None:
        """Remove devices with their tokens; those that don't exist are passed over."""
        data: dict[str, Any] = {"device_ids": list(device_ids), "deleted": True}

        def save(conn: Connection, position: int) -> None:
            data["prev"] = devices.delete_devices(conn, user_id, device_ids, position)
            access_tokens.delete_device_tokens(conn, user_id, device_ids)

        await self.log_writer.submit(LogItem("device", user_id, data, save))

    async def log_out_everywhere(self, user_id: UserId, *, keep_device: DeviceId | None = None) -> None:
        """End all sessions of a user but, where given, that of one device.

        Spec: client-server-api#post_matrixclientv3logoutall
        """
        data: dict[str, Any] = {"device_ids": [], "deleted": True}

        def save(conn: Connection, position: int) -> None:
            data.update(save_logout_everywhere(conn, user_id, keep_device, position))

        await self.log_writer.submit(LogItem("device", user_id, data, save))

    def _build(self, user_id: UserId, device_id: DeviceId, device_name: str | None, *, with_refresh: bool) -> Session:
        now_ms = self.clock.time_ms()
        access = new_token(ACCESS)
        refresh = new_token(REFRESH) if with_refresh else None
        lifetime = self.config.access_token_lifetime_ms if with_refresh else self.config.lasting_token_lifetime_ms
        tokens = NewTokens(
            user_id=user_id,
            device_id=device_id,
            created_ts_ms=now_ms,
            access_hash=hash_token(access),
            access_expires_ts_ms=_expiry(now_ms, lifetime),
            refresh_hash=hash_token(refresh) if refresh is not None else None,
            refresh_expires_ts_ms=_expiry(now_ms, self.config.refresh_token_lifetime_ms),
        )
        return Session(user_id, device_id, access, refresh, lifetime or None, device_name, tokens)

    def _check_refresh(self, owner: RefreshOwner | None) -> None:
        if owner is None:
            raise UnknownToken("Unrecognised refresh token")
        if owner.is_locked:
            raise UserLocked
        if owner.expires_ts_ms is not None and owner.expires_ts_ms <= self.clock.time_ms():
            raise UnknownToken("The refresh token has expired", soft_logout=True)


def save_logout_everywhere(
    conn: Connection, user_id: UserId, keep_device: DeviceId | None, position: int
) -> dict[str, Any]:
    """Delete all devices and tokens but those of one device; what a log row says of it."""
    gone = [device_id for device_id in devices.load_device_ids(conn, user_id) if device_id != keep_device]
    prev = devices.delete_devices(conn, user_id, gone, position)
    access_tokens.delete_user_tokens(conn, user_id, keep_device=keep_device)
    return {"device_ids": gone, "prev": prev}


def _save_refresh(conn: Connection, refresh_hash: bytes, tokens: NewTokens) -> None:
    owner = access_tokens.load_refresh_owner(conn, refresh_hash)
    if owner is None:  # it died since it was checked
        raise UnknownToken("Unrecognised refresh token")
    if owner.supersedes is not None:
        access_tokens.confirm_pair(conn, owner.supersedes)
    access_tokens.delete_unused_pairs(conn, refresh_hash)
    access_tokens.save_tokens(conn, tokens)


def _load_device(conn: Connection, user_id: UserId, device_id: DeviceId) -> DeviceRow | None:
    """Raises: Forbidden for a new device whose id names a key of the user already: signatures name both alike.

    Spec: client-server-api#cross-signing
    """
    known = devices.load_device(conn, user_id, device_id)
    if known is None and is_cross_signing_key(conn, user_id, device_id):
        raise Forbidden("The device id is the name of a cross-signing key")
    return known


def _device_item(user_id: UserId, device_ids: list[Any], save: Callable[[Connection], None]) -> LogItem:
    data = {"device_ids": device_ids, "deleted": False}
    return LogItem("device", user_id, data, lambda conn, _position: save(conn))


def _token_item(user_id: UserId, change: str, save: Callable[[Connection], None]) -> LogItem:
    return LogItem("token", user_id, {"change": change}, lambda conn, _position: save(conn))


def _expiry(now_ms: int, lifetime_ms: int) -> int | None:
    return now_ms + lifetime_ms if lifetime_ms else None
