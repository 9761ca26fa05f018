"""matrix-nio against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from io import BytesIO
from typing import Any

import nio
import pytest

from tests.media_repo.pictures import opened, picture

PASSWORD = "password of the tests"


def _text(body: str) -> dict[str, str]:
    return {"msgtype": "m.text", "body": body}


async def _sign_up(url: str, name: str) -> nio.AsyncClient:
    """A new account, made and used by the library alone; its client is logged in."""
    client = nio.AsyncClient(url)
    assert isinstance(await client.register(name, PASSWORD, "a phone"), nio.RegisterResponse)
    assert client.user_id == f"@{name}:test.example"
    return client


async def _log_in(url: str, name: str) -> nio.AsyncClient:
    client = nio.AsyncClient(url, f"@{name}:test.example")
    assert isinstance(await client.login(PASSWORD), nio.LoginResponse)
    return client


async def _talk(url: str) -> None:
    phone, bob = await _sign_up(url, "alice"), await _sign_up(url, "bob")
    alice = await _log_in(url, "alice")
    try:
        assert alice.device_id != phone.device_id
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
        token = bob.access_token
        assert isinstance(await bob.logout(), nio.LogoutResponse)
        bob.access_token = token
        ended = await bob.whoami()
        assert isinstance(ended, nio.WhoamiError)
        assert ended.status_code == "M_UNKNOWN_TOKEN"
        still_there = await phone.whoami()
        assert isinstance(still_there, nio.WhoamiResponse)
        assert still_there.device_id == phone.device_id
    finally:
        for client in (phone, alice, bob):
            await client.close()


async def _show_a_picture(url: str, content: bytes) -> None:
    alice, bob = await _sign_up(url, "alice"), await _sign_up(url, "bob")
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


async def _sign_up_by_stages(url: str) -> None:
    """As clients do that first ask what the server wants."""
    client = nio.AsyncClient(url)
    try:
        asked = await client.register_interactive("alice", PASSWORD, {"initial_device_display_name": "x"})
        assert isinstance(asked, nio.responses.RegisterInteractiveResponse)
        assert asked.stages == ["m.login.dummy"]
        done = await client.register("alice", PASSWORD, "a phone", asked.session)
        assert isinstance(done, nio.RegisterResponse)
        assert (await client.whoami()).user_id == done.user_id == "@alice:test.example"
    finally:
        await client.close()


async def _sign_up_with_token(url: str, token: str) -> Any:
    client = nio.AsyncClient(url)
    try:
        return await client.register_with_token("alice", PASSWORD, token)
    finally:
        await client.close()


async def _register(url: str, name: str) -> Any:
    """Who is not logged in registers; the answer."""
    client = nio.AsyncClient(url)
    try:
        return await client.register(name, PASSWORD)
    finally:
        await client.close()


async def _log_in_wrongly(url: str, user_id: str) -> Any:
    await (await _sign_up(url, "alice")).close()
    client = nio.AsyncClient(url, user_id)
    try:
        return await client.login("not the password")
    finally:
        await client.close()


def test_two_users_talk(hearth: Any) -> None:
    asyncio.run(_talk(hearth.url))


def test_a_picture_is_shown(hearth: Any) -> None:
    asyncio.run(_show_a_picture(hearth.url, picture(400, 200)))


def test_an_account_is_made_by_the_stages_that_are_asked_for(hearth: Any) -> None:
    asyncio.run(_sign_up_by_stages(hearth.url))


def test_an_account_is_made_with_a_registration_token(start_local: Callable[..., Any]) -> None:
    hearth = start_local({"registration": {"require_token": True, "tokens": ["friends"]}})
    refused = asyncio.run(_sign_up_with_token(hearth.url, "strangers"))
    assert isinstance(refused, nio.responses.RegisterErrorResponse)
    assert refused.status_code == "M_UNRECOGNIZED"  # nio goes on to the next stage, which is not the next
    without = asyncio.run(_register(hearth.url, "alice"))
    assert isinstance(without, nio.responses.RegisterErrorResponse)
    made = asyncio.run(_sign_up_with_token(hearth.url, "friends"))
    assert isinstance(made, nio.RegisterResponse)


@pytest.mark.parametrize(
    ("name", "errcode"),
    [
        ("alice", "M_USER_IN_USE"),
        ("Alice", "M_USER_IN_USE"),
        ("with space", "M_INVALID_USERNAME"),
        ("größe", "M_INVALID_USERNAME"),
        ("x" * 250, "M_INVALID_USERNAME"),
    ],
)
def test_names_that_are_taken_or_bad_are_refused(hearth: Any, name: str, errcode: str) -> None:
    assert isinstance(asyncio.run(_register(hearth.url, "alice")), nio.RegisterResponse)
    answer = asyncio.run(_register(hearth.url, name))
    assert isinstance(answer, nio.responses.RegisterErrorResponse)
    assert answer.status_code == errcode


def test_closed_registration_is_refused(start_local: Callable[..., Any]) -> None:
    hearth = start_local({"registration": {"enabled": False}})
    answer = asyncio.run(_register(hearth.url, "alice"))
    assert isinstance(answer, nio.responses.RegisterErrorResponse)
    assert answer.status_code == "M_FORBIDDEN"


@pytest.mark.parametrize("user_id", ["@alice:test.example", "@nobody:test.example"])
def test_wrong_password_is_refused(hearth: Any, user_id: str) -> None:
    answer = asyncio.run(_log_in_wrongly(hearth.url, user_id))
    assert isinstance(answer, nio.LoginError)
    assert answer.status_code == "M_FORBIDDEN"
