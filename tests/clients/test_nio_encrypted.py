"""matrix-nio with its encryption (vodozemac) against a running server, or two that federate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import nio
import pytest
from attrs import frozen
from nio.crypto import SasState

from tests.kit.peers import PAIRS, Pair
from tests.kit.servers import SERVER_NAME

Json = dict[str, Any]
PASSWORD = "password of the tests"
ENCRYPTED = {"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}
WAIT_S = 90
MISSED = 5_000
PER_SESSION = 40  # so that more keys wait for the device than one response brings


@frozen
class Account:
    url: str
    user_id: str
    exists: bool


class Phone:
    """One device of a user. `read` is what it could read, `locked` what it could not.

    What it could read only when the key came, after the message, is in `unlocked` as well.
    """

    def __init__(self, url: str, user_id: str, folder: Path) -> None:
        folder.mkdir()
        settings = nio.AsyncClientConfig(encryption_enabled=True, store_sync_tokens=False)
        self.client = nio.AsyncClient(url, user_id, store_path=str(folder), config=settings)
        self.read: list[str] = []
        self.locked: list[nio.MegolmEvent] = []
        self.unlocked: list[str] = []
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
        self._unlock()

    def _unlock(self) -> None:
        sessions = self.client.olm.inbound_group_store
        for event in self.locked[:]:
            if sessions.get(event.room_id, event.sender_key, event.session_id):
                self.locked.remove(event)
                self.unlocked.append(self.client.decrypt_event(event).body)
                self.read.append(self.unlocked[-1])

    async def until(self, holds: Callable[[], Any]) -> None:
        deadline = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < deadline, f"It did not come: read {self.read}, locked {self.locked}"
            await self.turn()

    async def say(self, room: str, body: str) -> None:
        content = {"msgtype": "m.text", "body": body}
        sent = await self.client.room_send(room, "m.room.message", content, ignore_unverified_devices=True)
        assert isinstance(sent, nio.RoomSendResponse), sent

    def knows(self, other: Phone) -> bool:
        devices: Any = self.client.device_store[other.client.user_id]
        return other.client.device_id in devices

    def device(self, other: Phone) -> Any:
        return self.client.device_store[other.client.user_id][other.client.device_id]


def _on_one(server: Any) -> dict[str, Account]:
    """Accounts that the clients make themselves."""
    return {name: Account(server.url, f"@{name}:{SERVER_NAME}", exists=False) for name in ("alice", "bob")}


def _on_two(pair: Pair) -> dict[str, Account]:
    people = {"alice": pair.near.person("alice"), "bob": pair.far.person("bob")}
    return {name: Account(person.base_url, person.user_id, exists=True) for name, person in people.items()}


def _run(
    accounts: Mapping[str, Account],
    tmp_path: Path,
    story: Callable[[Callable[[str], Awaitable[Phone]]], Awaitable[None]],
) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:

            async def start(name: str) -> Phone:
                """The user's first device makes the account where there is none, the others log in."""
                account = accounts[name]
                phone = Phone(account.url, account.user_id, tmp_path / f"{name} {len(list(tmp_path.iterdir()))}")
                stack.push_async_callback(phone.client.close)
                await (phone.log_in() if account.exists or name in known else phone.sign_up())
                known.add(name)
                return phone

            await story(start)

    known: set[str] = set()
    asyncio.run(run())


async def _meet(alice: Phone, bob: Phone) -> str:
    """A new encrypted room of both."""
    created = await alice.client.room_create(is_direct=True, invite=[bob.client.user_id], initial_state=[ENCRYPTED])
    room: str = created.room_id
    await bob.until(lambda: room in bob.client.invited_rooms)
    assert isinstance(await bob.client.join(room), nio.JoinResponse)
    await alice.until(lambda: alice.knows(bob))
    return room


async def _talk(alice: Phone, bob: Phone) -> str:
    """Messages both ways in a new encrypted room; the room."""
    room = await _meet(alice, bob)
    await alice.say(room, "hello")
    await bob.until(lambda: bob.read == ["hello"] and bob.knows(alice))
    await bob.say(room, "and to you")
    await alice.until(lambda: "and to you" in alice.read)
    assert not alice.locked and not bob.locked
    return room


async def _talk_more(start: Any) -> tuple[Phone, Phone]:
    alice, bob = await start("alice"), await start("bob")
    room = await _talk(alice, bob)
    for n in range(5):
        await alice.say(room, f"again {n}")
    await bob.until(lambda: bob.read[-5:] == [f"again {n}" for n in range(5)])
    assert not bob.locked
    return alice, bob


def test_encrypted_messages_go_both_ways(hearth: Any, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        alice, bob = await _talk_more(start)
        # On one server no message comes before its key.
        assert not alice.unlocked and not bob.unlocked

    _run(_on_one(hearth), tmp_path, story)


def test_keys_pass_where_the_server_checks_signatures(start_local: Any, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        await _talk(await start("alice"), await start("bob"))

    _run(_on_one(start_local({"encryption": {"check_key_signatures": True}})), tmp_path, story)


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_users_of_two_servers_talk_and_verify_each_other(pair: Pair, tmp_path: Path) -> None:
    async def story(start: Any) -> None:
        alice, bob = await _talk_more(start)
        await _verify(alice, bob)
        assert alice.device(bob).verified and bob.device(alice).verified

    _run(_on_two(pair), tmp_path, story)


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
    await new.until(lambda: sas.state == SasState.accepted)  # and has sent its key
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
        for left in (1, 0):
            await bob.turn()  # claims a key for a session with the new device, and sends with the next
            await bob.turn()
            await new.until(lambda left=left: len(new.locked) <= left)
        assert sorted(new.unlocked) == ["and to you", "hello"]
        await alice.until(lambda: alice.knows(new))
        await alice.say(room, "and you, too")
        await new.until(lambda: new.read[2:] == ["and you, too"])

    _run(_on_one(hearth), tmp_path, story)


async def _lose_a_device(start: Any) -> None:
    alice, bob = await start("alice"), await start("bob")
    room = await _talk(alice, bob)
    tablet = await start("bob")
    await alice.until(lambda: alice.knows(tablet))
    with pytest.raises(nio.OlmUnverifiedDeviceError):
        await alice.client.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "to those I verified"})
    assert alice.client.blacklist_device(alice.device(tablet))
    await alice.say(room, "not for the tablet")
    await bob.until(lambda: bob.read[-1] == "not for the tablet")
    assert alice.client.unblacklist_device(alice.device(tablet))
    await alice.say(room, "for both")
    await bob.until(lambda: bob.read[-1] == "for both")
    await tablet.until(lambda: tablet.read == ["for both"])
    assert len(tablet.locked) == 3  # two are from before it was there

    assert isinstance(await tablet.client.logout(), nio.LogoutResponse)
    await alice.until(lambda: alice.device(tablet).deleted)
    await alice.say(room, "for who is left")
    await bob.until(lambda: bob.read[-1] == "for who is left")
    newest, *_ = await _page_back(bob, room)
    event = nio.Event.parse_encrypted_event({**newest, "room_id": room})
    assert bob.client.decrypt_event(event).body == "for who is left"
    with pytest.raises(nio.EncryptionError):
        tablet.client.decrypt_event(event)


def test_a_device_that_is_refused_or_logged_out_reads_no_more(hearth: Any, tmp_path: Path) -> None:
    _run(_on_one(hearth), tmp_path, _lose_a_device)


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_device_of_another_server_that_is_refused_or_logged_out_reads_no_more(pair: Pair, tmp_path: Path) -> None:
    _run(_on_two(pair), tmp_path, _lose_a_device)


async def _upload_fallback_key(phone: Phone) -> Json:
    """Of the library's own encryption, which can make one; matrix-nio does not upload it."""
    client = phone.client
    account = client.olm.account._account
    account.generate_fallback_key()
    [(key_id, public)] = account.fallback_key.items()
    key: Json = {"key": public.to_base64(), "fallback": True}
    key["signatures"] = {client.user_id: {f"ed25519:{client.device_id}": client.olm.sign_json(key)}}
    account.mark_keys_as_published()
    upload = {"fallback_keys": {f"signed_curve25519:{key_id}": key}}
    answer = await client.send(*nio.Api.keys_upload(client.access_token, upload))
    assert answer.status == 200
    return key


async def _claim(phone: Phone, other: Phone) -> Json:
    """A key of the other's device."""
    user_id, device_id = other.client.user_id, other.client.device_id
    answer = await phone.client.send(*nio.Api.keys_claim(phone.client.access_token, {user_id: [device_id]}))
    [key] = (await answer.json())["one_time_keys"][user_id][device_id].values()
    return key


async def _use_up_keys(start: Any) -> None:
    alice, bob = await start("alice"), await start("bob")
    room = await _meet(alice, bob)
    fallback = await _upload_fallback_key(bob)
    given = [await _claim(alice, bob)]
    while not given[-1].get("fallback"):
        given.append(await _claim(alice, bob))
    assert given[-1] == await _claim(alice, bob) == fallback
    keys = {key["key"] for key in given}
    assert len(keys) == len(given) > 2

    # Bob, who was away, reads what was begun with the fallback key, and makes new one-time keys.
    await alice.say(room, "hello")
    await bob.until(lambda: bob.read == ["hello"] and bob.knows(alice))
    bob.client.olm.uploaded_key_count = 0  # matrix-nio does not heed it when /sync says so
    await bob.turn()
    fresh = await _claim(alice, bob)
    assert not fresh.get("fallback") and fresh["key"] not in keys
    await bob.say(room, "and to you")
    await alice.until(lambda: "and to you" in alice.read)


def test_a_message_arrives_when_all_one_time_keys_are_used_up(hearth: Any, tmp_path: Path) -> None:
    _run(_on_one(hearth), tmp_path, _use_up_keys)


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_message_to_another_server_arrives_when_all_one_time_keys_are_used_up(pair: Pair, tmp_path: Path) -> None:
    _run(_on_two(pair), tmp_path, _use_up_keys)


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
        answer = await client.send(method, path)
        page = await answer.json()
        assert answer.status == 200, page
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

    _run(_on_one(start_subprocess()), tmp_path, story)
