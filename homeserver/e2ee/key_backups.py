"""Server-side key backups: encrypted sessions that a new device of the user restores.

Only their owner ever reads them, and no sync tells of them, so they are no rows of the log.

Spec: client-server-api#server-side-key-backups
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final

import orjson
from attrs import define, frozen
from sqlalchemy import Connection

from homeserver.e2ee.limits import MAX_AUTH_DATA_BYTES, check_string, encode_bounded
from homeserver.matrix.errors import InvalidParam, MatrixError, NotFound
from homeserver.matrix.ids import UserId
from homeserver.runtime.db import Database, RowExists
from homeserver.store import key_backups as store
from homeserver.store.key_backups import BackedUpSession, BackupVersion

MAX_VERSION = 2**31
# PERF(200,000 sessions in one answer took 1.3 GB and stopped the reactor for seconds): of so many a page is made.
PAGE_SESSIONS: Final = 2_000


class WrongBackupVersion(MatrixError):
    """Keys go to the newest version only."""

    status = 403
    errcode = "M_WRONG_ROOM_KEYS_VERSION"

    def __init__(self, current: int) -> None:
        super().__init__("Not the newest version of the backup", current_version=str(current))


@define(eq=False)
class KeyBackups:
    database: Database

    async def load_version(self, user_id: UserId, version: str | None) -> BackupVersion:
        """That version, or the newest. Raises: NotFound."""
        if version is None:
            found = await self.database.read(store.load_latest_version, user_id)
        else:
            found = await self.database.read(store.load_version, user_id, parse_version(version))
        if found is None:
            raise NotFound("No such key backup")
        return found

    async def create(self, user_id: UserId, algorithm: str, auth_data: dict[str, Any]) -> str:
        """Raises: InvalidParam, TooLarge."""
        check_string(algorithm, "algorithm")
        encoded = encode_bounded(auth_data, "auth_data", MAX_AUTH_DATA_BYTES)
        while True:  # once more for each that another device makes at the same moment
            with suppress(RowExists):
                return str(await self.database.run(store.create_version, user_id, algorithm, encoded))

    async def update(
        self, user_id: UserId, version: str, algorithm: str, auth_data: dict[str, Any], given_version: str | None
    ) -> None:
        """Replace the auth data. Raises: NotFound, InvalidParam."""
        known = await self.load_version(user_id, version)
        if given_version is not None and given_version != version:
            raise InvalidParam("version", "is not that of the path")
        if algorithm != known.algorithm:
            raise InvalidParam("algorithm", f"must be that of the backup, {known.algorithm}")
        encoded = encode_bounded(auth_data, "auth_data", MAX_AUTH_DATA_BYTES)
        if not await self.database.run(store.save_auth_data, user_id, known.version, encoded):
            raise NotFound("No such key backup")

    async def delete(self, user_id: UserId, version: str) -> None:
        """Raises: NotFound."""
        if not await self.database.run(store.delete_version, user_id, parse_version(version)):
            raise NotFound("No such key backup")

    async def load_session(self, user_id: UserId, version: str, room_id: str, session_id: str) -> BackedUpSession:
        """Raises: NotFound."""
        number = (await self.load_version(user_id, version)).version
        found = await self.database.read(store.load_session, user_id, number, room_id, session_id)
        if found is None:
            raise NotFound("No such session in the backup")
        return found

    async def load_all(self, user_id: UserId, version: str) -> bytes | AsyncIterator[bytes]:
        """The answer that holds all sessions: at once if they are few, else in parts, of which none is large. What changes
        meanwhile may be told or not.

        Raises: NotFound.
        """
        number = (await self.load_version(user_id, version)).version
        return await _answer(b"rooms", lambda after: self.database.read(_load_page, user_id, number, after))

    async def load_room(self, user_id: UserId, version: str, room_id: str) -> bytes | AsyncIterator[bytes]:
        """As `load_all`, of a room's sessions. Raises: NotFound."""
        number = (await self.load_version(user_id, version)).version
        return await _answer(
            b"sessions", lambda after: self.database.read(_load_room_page, user_id, number, room_id, after)
        )

    async def save_sessions(self, user_id: UserId, version: str, sessions: Sequence[BackedUpSession]) -> BackupVersion:
        """Raises: NotFound, WrongBackupVersion."""
        latest = await self.load_version(user_id, None)
        if str(latest.version) != version:
            await self.load_version(user_id, version)
            raise WrongBackupVersion(latest.version)
        return _there(await self.database.run(store.save_sessions, user_id, latest.version, sessions))

    async def delete_sessions(
        self, user_id: UserId, version: str, room_id: str | None = None, session_id: str | None = None
    ) -> BackupVersion:
        """Raises: NotFound."""
        number = parse_version(version)
        return _there(await self.database.run(store.delete_sessions, user_id, number, room_id, session_id))


def parse_version(version: str) -> int:
    """Versions are opaque to clients; what is none of ours is not found."""
    if not version.isascii() or not version.isdigit() or len(version) > 10 or int(version) >= MAX_VERSION:
        raise NotFound("No such key backup")
    return int(version)


# The room and session behind which sessions are.
_Place = tuple[str, str]


@frozen
class _Page:
    """A part of what an answer holds. last: what the next page is behind; None at the end."""

    json: bytes
    last: _Place | None


_LoadPage = Callable[[_Place | None], Awaitable[_Page]]


async def _answer(name: bytes, load_page: _LoadPage) -> bytes | AsyncIterator[bytes]:
    """An object with one member, which is put together of pages; whole where there is but one."""
    first = await load_page(None)
    return b'{"%b":{%b}}' % (name, first.json) if first.last is None else _parts(name, first, load_page)


async def _parts(name: bytes, page: _Page, load_page: _LoadPage) -> AsyncIterator[bytes]:
    yield b'{"%b":{' % name
    while True:
        yield page.json
        if page.last is None:
            break
        page = await load_page(page.last)
    yield b"}}"


def _load_page(conn: Connection, user_id: str, version: int, after: _Place | None) -> _Page:
    """Put together in the database's thread: of many sessions the reactor has only bytes to pass on."""
    sessions = store.load_session_page(conn, user_id, version, after, PAGE_SESSIONS)
    parts: list[bytes] = []
    room_id = after[0] if after is not None else None
    for session in sessions:
        if session.room_id == room_id:
            parts.append(b",")
        else:
            parts.append(b'%b%b:{"sessions":{' % (b"" if room_id is None else b"}},", orjson.dumps(session.room_id)))
            room_id = session.room_id
        parts.append(_encode_named(session))
    last = _last(sessions)
    if last is None and room_id is not None:
        parts.append(b"}}")
    return _Page(b"".join(parts), last)


def _load_room_page(conn: Connection, user_id: str, version: int, room_id: str, after: _Place | None) -> _Page:
    """As `_load_page`, of the `sessions` of a room."""
    sessions = store.load_session_page(conn, user_id, version, after, PAGE_SESSIONS, room_id)
    comma = b"," if after is not None and sessions else b""
    return _Page(comma + b",".join(map(_encode_named, sessions)), _last(sessions))


def _last(sessions: Sequence[BackedUpSession]) -> _Place | None:
    return (sessions[-1].room_id, sessions[-1].session_id) if len(sessions) == PAGE_SESSIONS else None


def _encode_named(session: BackedUpSession) -> bytes:
    return b"%b:%b" % (orjson.dumps(session.session_id), encode_session(session))


def encode_session(session: BackedUpSession) -> bytes:
    """A KeyBackupData object as JSON."""
    return b'{"first_message_index":%d,"forwarded_count":%d,"is_verified":%b,"session_data":%b}' % (
        session.first_message_index,
        session.forwarded_count,
        b"true" if session.is_verified else b"false",
        session.session_data,
    )


def _there(version: BackupVersion | None) -> BackupVersion:
    if version is None:
        raise NotFound("No such key backup")
    return version
