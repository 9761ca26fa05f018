"""Server-side key backups.

Spec: client-server-api#server-side-key-backups
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

import msgspec
import orjson

from homeserver.accounts.requester import Requester
from homeserver.e2ee.key_backups import KeyBackups, encode_session
from homeserver.e2ee.limits import MAX_SESSION_DATA_BYTES, check_object, check_string, encode_bounded
from homeserver.matrix.errors import InvalidParam
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from homeserver.runtime.http.response import RawJson, Response
from homeserver.store.key_backups import BackedUpSession, BackupVersion

TAG = "End-to-end encryption"
VERSION = "/_matrix/client/v3/room_keys/version"
KEYS = "/_matrix/client/v3/room_keys/keys"
MAX_BODY_BYTES = 32 * 1024 * 1024


class VersionBody(msgspec.Struct):
    algorithm: str
    auth_data: JsonObject
    version: str | None = None


class VersionPath(msgspec.Struct):
    version: str


class KeysQuery(msgspec.Struct):
    version: str


class RoomPath(msgspec.Struct):
    room_id: str


class SessionPath(msgspec.Struct):
    room_id: str
    session_id: str


class KeyBackupEndpoints:
    def __init__(self, backups: KeyBackups) -> None:
        self._backups = backups

    @endpoint(
        "POST",
        VERSION,
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#post_matrixclientv3room_keysversion",
    )
    async def post_version(self, requester: Requester, body: VersionBody) -> JsonObject:
        return {"version": await self._backups.create(requester.user_id, body.algorithm, body.auth_data)}

    @endpoint(
        "GET",
        VERSION,
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3room_keysversion",
    )
    async def get_latest(self, requester: Requester) -> JsonObject:
        return _version_answer(await self._backups.load_version(requester.user_id, None))

    @endpoint(
        "GET",
        f"{VERSION}/{{version}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3room_keysversionversion",
    )
    async def get_version(self, requester: Requester, path: VersionPath) -> JsonObject:
        return _version_answer(await self._backups.load_version(requester.user_id, path.version))

    @endpoint(
        "PUT",
        f"{VERSION}/{{version}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3room_keysversionversion",
    )
    async def put_version(self, requester: Requester, path: VersionPath, body: VersionBody) -> JsonObject:
        await self._backups.update(requester.user_id, path.version, body.algorithm, body.auth_data, body.version)
        return {}

    @endpoint(
        "DELETE",
        f"{VERSION}/{{version}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3room_keysversionversion",
    )
    async def delete_version(self, requester: Requester, path: VersionPath) -> JsonObject:
        await self._backups.delete(requester.user_id, path.version)
        return {}

    @endpoint(
        "PUT",
        KEYS,
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        max_body_bytes=MAX_BODY_BYTES,
        spec="client-server-api#put_matrixclientv3room_keyskeys",
    )
    async def put_keys(self, requester: Requester, query: KeysQuery, body: JsonObject) -> JsonObject:
        return await self._save(requester, query, _parse_rooms(body))

    @endpoint(
        "PUT",
        f"{KEYS}/{{room_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        max_body_bytes=MAX_BODY_BYTES,
        spec="client-server-api#put_matrixclientv3room_keyskeysroomid",
    )
    async def put_room(self, requester: Requester, path: RoomPath, query: KeysQuery, body: JsonObject) -> JsonObject:
        return await self._save(requester, query, _parse_room(path.room_id, body, "sessions"))

    @endpoint(
        "PUT",
        f"{KEYS}/{{room_id}}/{{session_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3room_keyskeysroomidsessionid",
    )
    async def put_session(
        self, requester: Requester, path: SessionPath, query: KeysQuery, body: JsonObject
    ) -> JsonObject:
        return await self._save(requester, query, [_parse_session(path.room_id, path.session_id, body, "session")])

    @endpoint(
        "GET", KEYS, auth=Auth.USER, limit="other", tag=TAG, spec="client-server-api#get_matrixclientv3room_keyskeys"
    )
    async def get_keys(self, requester: Requester, query: KeysQuery) -> RawJson | Response:
        return _restored(await self._backups.load_all(requester.user_id, query.version))

    @endpoint(
        "GET",
        f"{KEYS}/{{room_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3room_keyskeysroomid",
    )
    async def get_room(self, requester: Requester, path: RoomPath, query: KeysQuery) -> RawJson | Response:
        return _restored(await self._backups.load_room(requester.user_id, query.version, path.room_id))

    @endpoint(
        "GET",
        f"{KEYS}/{{room_id}}/{{session_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#get_matrixclientv3room_keyskeysroomidsessionid",
    )
    async def get_session(self, requester: Requester, path: SessionPath, query: KeysQuery) -> RawJson:
        version, room_id, session_id = query.version, path.room_id, path.session_id
        return RawJson(
            encode_session(await self._backups.load_session(requester.user_id, version, room_id, session_id))
        )

    @endpoint(
        "DELETE",
        KEYS,
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3room_keyskeys",
    )
    async def delete_keys(self, requester: Requester, query: KeysQuery) -> JsonObject:
        return _count_answer(await self._backups.delete_sessions(requester.user_id, query.version))

    @endpoint(
        "DELETE",
        f"{KEYS}/{{room_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3room_keyskeysroomid",
    )
    async def delete_room(self, requester: Requester, path: RoomPath, query: KeysQuery) -> JsonObject:
        return _count_answer(await self._backups.delete_sessions(requester.user_id, query.version, path.room_id))

    @endpoint(
        "DELETE",
        f"{KEYS}/{{room_id}}/{{session_id}}",
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3room_keyskeysroomidsessionid",
    )
    async def delete_session(self, requester: Requester, path: SessionPath, query: KeysQuery) -> JsonObject:
        left = await self._backups.delete_sessions(requester.user_id, query.version, path.room_id, path.session_id)
        return _count_answer(left)

    async def _save(self, requester: Requester, query: KeysQuery, sessions: Iterable[BackedUpSession]) -> JsonObject:
        return _count_answer(await self._backups.save_sessions(requester.user_id, query.version, list(sessions)))


def _restored(answer: bytes | AsyncIterator[bytes]) -> RawJson | Response:
    if isinstance(answer, bytes):
        return RawJson(answer)
    return Response(body=answer, headers=(("Content-Type", "application/json"),))


def _version_answer(version: BackupVersion) -> JsonObject:
    return {
        "algorithm": version.algorithm,
        "auth_data": orjson.loads(version.auth_data),
        "version": str(version.version),
        **_count_answer(version),
    }


def _count_answer(version: BackupVersion) -> JsonObject:
    return {"count": version.key_count, "etag": str(version.etag)}


def _parse_rooms(body: Mapping[str, Any]) -> list[BackedUpSession]:
    rooms = check_object(body.get("rooms"), "rooms")
    return [
        session
        for room_id, room in rooms.items()
        for session in _parse_room(room_id, check_object(room, f"rooms.{room_id}"), f"rooms.{room_id}.sessions")
    ]


def _parse_room(room_id: str, room: Mapping[str, Any], field: str) -> list[BackedUpSession]:
    sessions = check_object(room.get("sessions"), field)
    return [
        _parse_session(room_id, session_id, session, f"{field}.{session_id}")
        for session_id, session in sessions.items()
    ]


def _parse_session(room_id: str, session_id: str, value: object, field: str) -> BackedUpSession:
    session = check_object(value, field)
    is_verified = session.get("is_verified")
    if not isinstance(is_verified, bool):
        raise InvalidParam(f"{field}.is_verified", "must be a boolean")
    data = check_object(session.get("session_data"), f"{field}.session_data")
    return BackedUpSession(
        check_string(room_id, "room_id"),
        check_string(session_id, "session_id"),
        _parse_number(session, "first_message_index", field),
        _parse_number(session, "forwarded_count", field),
        is_verified,
        encode_bounded(data, f"{field}.session_data", MAX_SESSION_DATA_BYTES),
    )


def _parse_number(session: Mapping[str, Any], name: str, field: str) -> int:
    value = session.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise InvalidParam(f"{field}.{name}", "must be a non-negative integer")
    return value
