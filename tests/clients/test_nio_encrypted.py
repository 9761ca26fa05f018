"""matrix-nio with its encryption (vodozemac) against a running server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import nio

Json = dict[str, Any]
PASSWORD = "password of the tests"
ENCRYPTED = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
TURNS = 20
MISSED = 5_000
PER_SESSION = 40  # so that more keys wait for the device than one response brings


class Phone:
    """One device of a user. `read` is what it could read, `locked` what it could not."""

    def __init__(self, url: str, name: str, folder: Path) -> None:
        folder.mkdir()
        settings = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
        self.client = nio.AsyncClient(url, f"@{name}:test.example", store_path=str(folder), config=settings)
        self.read: list[str] = []
        self.locked: list[nio.MegolmEvent] = []
        self.client.add_event_callback(self._on_text, nio.RoomMessageText)
        self.client.add_event_callback(self._on_locked, nio.MegolmEvent)

    async def _on_text(self, _room: Any, event: nio.RoomMessageText) -> None:
        assert event.decrypted
        self.read.append(event.body)

    async def _on_locked(self, _room: Any, event: nio.MegolmEvent) -> None:
        self.locked.append(event)

    async def sign_up(self) -> None:
        name = self.client.user[1:].partition(":")[0]
        assert isinstance(await self.client.register(name, PASSWORD), nio.RegisterResponse)
        await self.turn()

    async def log_in(self) -> None:
        assert isinstance(await self.client.login(PASSWORD), nio.LoginResponse)
        await self.turn()

    async def turn(self) -> None:
        """A sync, and what is to be done after it."""
        client = self.client
        assert isinstance(await client.sync(timeout=500), nio.SyncResponse)
        if client.should_upload_keys:
            assert isinstance(await client.keys_upload(), nio.KeysUploadResponse)
        if client.should_query_keys:
            assert isinstance(await client.keys_query(), nio.KeysQueryResponse)
        if client.should_claim_keys:
            assert isinstance(await client.keys_claim(client.get_users_for_key_claiming()), nio.KeysClaimResponse)
        await client.send_to_device_messages()

    async def until(self, holds: Callable[[], Any]) -> None:
        for _ in range(TURNS):
            if holds():
                return
            await self.turn()
        raise AssertionError(f"It did not come in {TURNS} syncs: read {self.read}, locked {self.locked}")

    async def say(self, room: str, body: str) -> None:
        content = {"msgtype": "m.text", "body": body}
        sent = await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(sent, nio.RoomSendResponse), sent

    def knows(self, other: Phone) -> bool:
        devices: Any = self.client.device_store[other.client.user_id]
        return other.client.device_id in devices

    def device(self, other: Phone) -> Any:
        return self.client.device_store[other.client.user_id][other.client.device_id]


def _run(hearth: Any, tmp_path: Path, story: Callable[[Callable[[str], Awaitable[Phone]]], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:

            async def start(name: str) -> Phone:
                """The user's first device makes the account, the others log in."""
                phone = Phone(hearth.url, name, tmp_path / f"{name} {len(list(tmp_path.iterdir()))}")
                stack.push_async_callback(phone.client.close)
                await (phone.log_in() if name in known else phone.sign_up())
                known.add(name)
                return phone

            await story(start)

    known: set[str] = set()
    asyncio.run(run())


async def _talk(alice: Phone, bob: Phone) -> str:
    """Messages both ways in a new encrypted room; the room."""
    created = await alice.client.room_create(is_direct=True, invite=[bob.client.user_id], initial_state=[ENCRYPTED])
    room: str = created.room_id
    await bob.until(lambda: room in bob.client.invited_rooms)
    assert isinstance(await bob.client.join(room), nio.JoinResponse)
    await alice.until(lambda: alice.knows(bob))
    await alice.say(room, "hello")
    await bob.until(lambda: bob.read == ["hello"] and bob.knows(alice))
    await bob.say(room, "and to you")
    await alice.until(lambda: "and to you" in alice.read)
    assert not alice.locked and not bob.locked
    return room


def test_encrypted_messages_go_both_ways(hearth: Any, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        alice, bob = await start("alice"), await start("bob")
        room = await _talk(alice, bob)
        for n in range(5):
            await alice.say(room, f"again {n}")
        await bob.until(lambda: bob.read[-5:] == [f"again {n}" for n in range(5)])
        assert not bob.locked

    _run(hearth, tmp_path, story)


async def _verify(new: Phone, old: Phone) -> None:
    """By short authentication string: both show the same emoji."""
    begun: list[Any] = []

    async def on_start(event: Any) -> None:
        begun.append(event.transaction_id)

    old.client.add_to_device_callback(on_start, nio.KeyVerificationStart)
    await old.until(lambda: old.knows(new))
    await new.until(lambda: new.knows(old))
    assert isinstance(await new.client.start_key_verification(new.device(old)), nio.ToDeviceResponse)
    await old.until(lambda: begun)
    [transaction] = begun
    await old.client.accept_key_verification(transaction)
    sas, other = new.client.key_verifications[transaction], old.client.key_verifications[transaction]
    shown: set[Phone] = set()

    def show(phone: Phone) -> Callable[[Any], Awaitable[None]]:
        async def on_key(_event: Any) -> None:
            shown.add(phone)

        return on_key

    for phone in (new, old):
        phone.client.add_to_device_callback(show(phone), nio.KeyVerificationKey)
    await new.turn()  # the acceptance came: sends its key
    await old.until(lambda: old in shown)
    await new.until(lambda: new in shown)
    assert sas.get_emoji() == other.get_emoji()
    for phone in (new, old):
        assert isinstance(await phone.client.confirm_short_auth_string(transaction), nio.ToDeviceResponse)
    await new.until(lambda: sas.verified)
    await old.until(lambda: other.verified)


def test_new_device_gets_keys_from_the_old_one(hearth: Any, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        alice, bob = await start("alice"), await start("bob")
        room = await _talk(alice, bob)
        new = await start("bob")
        await new.until(lambda: len(new.locked) == 2)
        assert new.read == []
        await _verify(new, bob)
        for event in new.locked:
            assert isinstance(await new.client.request_room_key(event), nio.RoomKeyRequestResponse)
        sessions = new.client.olm.inbound_group_store
        for event in new.locked:
            await bob.turn()  # claims a key for a session with the new device, and sends with the next
            await bob.turn()
            await new.until(lambda event=event: sessions.get(room, event.sender_key, event.session_id))
        unlocked = [new.client.decrypt_event(event).body for event in new.locked]
        assert unlocked == ["hello", "and to you"]
        await alice.until(lambda: alice.knows(new))
        await alice.say(room, "and you, too")
        await new.until(lambda: new.read == ["and you, too"])

    _run(hearth, tmp_path, story)


async def _send_while_away(alice: Phone, room: str) -> None:
    """MISSED messages, and a new session for each PER_SESSION of them."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=20)) as http:

        async def send(number: int) -> None:
            text = {"msgtype": "m.text", "body": f"missed {number}"}
            encrypted = alice.client.encrypt(room, "m.room.message", text)
            method, path, body = nio.Api.room_send(alice.client.access_token, room, *encrypted, f"missed{number}")
            headers = {"Authorization": f"Bearer {alice.client.access_token}"}
            async with http.request(method, alice.client.homeserver + path, data=body, headers=headers) as answer:
                assert answer.status == 200, await answer.text()

        for first in range(0, MISSED, PER_SESSION):
            alice.client.invalidate_outbound_session(room)
            shared = await alice.client.share_group_session(room, ignore_unverified_devices=True)
            assert isinstance(shared, nio.ShareGroupSessionResponse)
            await asyncio.gather(*(send(number) for number in range(first, first + PER_SESSION)))


async def _take_keys(phone: Phone) -> list[str]:
    """The sessions whose keys waited for it."""
    found: list[str] = []
    while True:
        synced = await phone.client.sync(timeout=0)
        assert isinstance(synced, nio.SyncResponse)
        keys = [event for event in synced.to_device_events if isinstance(event, nio.RoomKeyEvent)]
        if not keys:
            return found
        found += [key.session_id for key in keys]


async def _page_back(phone: Phone, room: str) -> list[Json]:
    """All encrypted events, the newest first; read past nio, which takes long to look at each."""
    found: list[Json] = []
    client = phone.client
    token: str | None = client.next_batch
    while token:
        method, path = nio.Api.room_messages(client.access_token, room, start=token, limit=500)
        answer = await client.send(method, path, headers={"Authorization": f"Bearer {client.access_token}"})
        page = await answer.json()
        found += [event for event in page["chunk"] if event["type"] == "m.room.encrypted"]
        token = page.get("end")
    return found


def test_a_device_that_was_away_reads_what_it_missed(start_subprocess: Any, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        alice, bob = await start("alice"), await start("bob")
        room = await _talk(alice, bob)
        await _send_while_away(alice, room)
        sessions = await _take_keys(bob)
        assert len(sessions) == len(set(sessions)) == MISSED // PER_SESSION
        events = await _page_back(bob, room)
        texts = ["hello", "and to you", *(f"missed {n}" for n in range(MISSED))]
        assert len({event["content"]["ciphertext"] for event in events}) == len(events) == len(texts)
        assert {event["content"]["session_id"] for event in events} >= set(sessions)
        sample = events[:: PER_SESSION // 2]
        read = [bob.client.decrypt_event(nio.Event.parse_encrypted_event({**e, "room_id": room})).body for e in sample]
        assert len(set(read)) == len(read)
        assert set(read) <= set(texts)

    _run(start_subprocess(), tmp_path, story)
