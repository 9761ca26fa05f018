"""matrix-nio against a running server."""

from __future__ import annotations

import asyncio
from io import BytesIO
from typing import Any

import nio

from tests.media_repo.pictures import opened, picture


def _text(body: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": body}


async def _log_in(url: str, name: str) -> nio.AsyncClient:
    client = nio.AsyncClient(url, f"@{name}:test.example")
    assert isinstance(await client.login("password of the tests"), nio.LoginResponse)
    return client


async def _talk(url: str) -> None:
    alice, bob = await _log_in(url, "alice"), await _log_in(url, "bob")
    try:
        created = await alice.room_create(name="a room", invite=[bob.user_id])
        assert isinstance(created, nio.RoomCreateResponse)
        room = created.room_id
        synced = await bob.sync(timeout=0)
        assert room in synced.rooms.invite
        assert isinstance(await bob.join(room), nio.JoinResponse)
        assert isinstance(await alice.room_typing(room, True), nio.RoomTypingResponse)
        sent = await alice.room_send(room, "m.room.message", _text("hello"))
        assert isinstance(sent, nio.RoomSendResponse)
        synced = await bob.sync(timeout=5000)
        bodies = [
            event.body for event in synced.rooms.join[room].timeline.events if isinstance(event, nio.RoomMessageText)
        ]
        assert bodies == ["hello"]
        assert bob.rooms[room].typing_users == [alice.user_id]
        assert isinstance(await bob.room_read_markers(room, sent.event_id, sent.event_id), nio.RoomReadMarkersResponse)
        page = await bob.room_messages(room, start=synced.next_batch, limit=50)
        assert isinstance(page, nio.RoomMessagesResponse)
        assert sent.event_id in [event.event_id for event in page.chunk]
        assert isinstance(await alice.room_redact(room, sent.event_id, "oops"), nio.RoomRedactResponse)
        synced = await bob.sync(timeout=5000)
        [redaction] = [e for e in synced.rooms.join[room].timeline.events if isinstance(e, nio.RedactionEvent)]
        assert redaction.redacts == sent.event_id
        assert isinstance(await bob.room_leave(room), nio.RoomLeaveResponse)
        refused = await bob.room_send(room, "m.room.message", _text("still here?"))
        assert isinstance(refused, nio.RoomSendError)
        assert refused.status_code == "M_FORBIDDEN"
        assert isinstance(await bob.logout(), nio.LogoutResponse)
    finally:
        await alice.close()
        await bob.close()


async def _show_a_picture(url: str, content: bytes) -> None:
    alice, bob = await _log_in(url, "alice"), await _log_in(url, "bob")
    try:
        assert (await alice.content_repository_config()).upload_size == 50 * 1024 * 1024
        uploaded, _ = await alice.upload(BytesIO(content), "image/png", "größe.png", filesize=len(content))
        assert isinstance(uploaded, nio.UploadResponse)
        downloaded = await bob.download(uploaded.content_uri)
        assert isinstance(downloaded, nio.MemoryDownloadResponse)
        assert (downloaded.body, downloaded.content_type, downloaded.filename) == (content, "image/png", "größe.png")
        server, media_id = uploaded.content_uri.removeprefix("mxc://").split("/")
        thumbnail = await bob.thumbnail(server, media_id, 32, 32)
        assert isinstance(thumbnail, nio.ThumbnailResponse)
        assert opened(thumbnail.body).size == (32, 16)
    finally:
        await alice.close()
        await bob.close()


async def _log_in_wrongly(url: str) -> Any:
    client = nio.AsyncClient(url, "@alice:test.example")
    try:
        return await client.login("not the password")
    finally:
        await client.close()


def test_two_users_talk(hearth: Any) -> None:
    hearth.register("alice")
    hearth.register("bob")
    asyncio.run(_talk(hearth.url))


def test_a_picture_is_shown(hearth: Any) -> None:
    hearth.register("alice")
    hearth.register("bob")
    asyncio.run(_show_a_picture(hearth.url, picture(400, 200)))


def test_wrong_password_is_refused(hearth: Any) -> None:
    hearth.register("alice")
    answer = asyncio.run(_log_in_wrongly(hearth.url))
    assert isinstance(answer, nio.LoginError)
    assert answer.status_code == "M_FORBIDDEN"
