"""mautrix-python with its encryption (libolm) against a running server, or two that federate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from itertools import count
from typing import Any

import pytest
from mautrix.api import Method, Path
from mautrix.client import Client, DecryptionDispatcher, InternalEventType, MembershipEventDispatcher
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.crypto.signature import sign_olm
from mautrix.errors import SessionNotFound
from mautrix.types import (
    EncryptionAlgorithm,
    EncryptionKeyAlgorithm,
    EventType,
    Membership,
    RoomEncryptionStateEventContent,
    RoomID,
    TrustState,
    UserID,
)

from tests.kit.client import Client as Account
from tests.kit.peers import PAIRS, Pair

PASSWORD = "password of the tests"
WAIT_S = 120


class Rooms(MemoryStateStore):
    """Also a state store of the encryption's: it wants one method more."""

    async def find_shared_rooms(self, user_id: Any) -> list[RoomID]:
        return [
            room_id for room_id, members in self.members.items() if user_id in members and room_id in self.encryption
        ]


class PatientDispatcher(DecryptionDispatcher):
    """Waits for the key, as bridges do.

    That of a message from another server may come after it; and where both come at once, they are looked at side by side.
    """

    async def handle(self, event: Any) -> None:
        crypto, session = self.client.crypto, event.content.session_id
        if not await crypto.crypto_store.has_group_session(event.room_id, session):
            await crypto.wait_for_session(event.room_id, session, WAIT_S)
        await super().handle(event)


class User:
    """A client that joins where it is invited, and keeps the bodies that it could read."""

    def __init__(self, account: Account) -> None:
        self.account = account
        self.rooms: Any = Rooms()
        self.client = Client(base_url=account.base_url, state_store=self.rooms)
        self.read: asyncio.Queue[str] = asyncio.Queue()
        self.joined: asyncio.Queue[Any] = asyncio.Queue()
        self.withheld: asyncio.Queue[str] = asyncio.Queue()
        self.client.add_dispatcher(MembershipEventDispatcher)
        self.client.add_event_handler(EventType.ROOM_MESSAGE, self._on_message)
        self.client.add_event_handler(EventType.ROOM_MEMBER, self._on_member)
        self.client.add_event_handler(EventType.ROOM_KEY_WITHHELD, self._on_withheld)
        self.client.add_event_handler(InternalEventType.INVITE, self._on_invite)

    async def start(self, *, patient: bool) -> None:
        await self.client.login(identifier=UserID(self.account.user_id), password=PASSWORD)
        machine = OlmMachine(self.client, MemoryCryptoStore(self.client.mxid, "key"), self.rooms)
        machine.share_keys_min_trust = machine.send_keys_min_trust = TrustState.UNVERIFIED
        await machine.crypto_store.put_device_id(self.client.device_id)
        await machine.load()
        await machine.share_keys()
        self.client.crypto = machine
        if patient:
            self.client.remove_dispatcher(DecryptionDispatcher)
            self.client.add_dispatcher(PatientDispatcher)
        self.client.start(None)

    async def stop(self) -> None:
        self.client.stop()
        await self.client.api.session.close()

    async def _on_message(self, event: Any) -> None:
        if event.sender != self.client.mxid:
            assert event.content.msgtype.value == "m.text"
            self.read.put_nowait(event.content.body)

    async def _on_member(self, event: Any) -> None:
        if event.content.membership == Membership.JOIN:
            self.joined.put_nowait(event.state_key)

    async def _on_withheld(self, event: Any) -> None:
        self.withheld.put_nowait(event.content.code.value)

    async def _on_invite(self, event: Any) -> None:
        await self.client.join_room(event.room_id)

    async def reads(self, body: str) -> None:
        assert await asyncio.wait_for(self.read.get(), WAIT_S) == body

    async def sees_join(self, user: User) -> None:
        while await asyncio.wait_for(self.joined.get(), WAIT_S) != user.client.mxid:
            pass


Story = Callable[[Callable[[Account], Any]], Any]


def _run(story: Story, *, patient: bool = True) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:

            async def start(account: Account) -> User:
                """A new device of the user."""
                user = User(account)
                stack.push_async_callback(user.stop)
                await user.start(patient=patient)
                return user

            await story(start)

    asyncio.run(run())


async def _meet(alice: User, bob: User, **about: Any) -> RoomID:
    """A new encrypted room of both."""
    content = RoomEncryptionStateEventContent(EncryptionAlgorithm.MEGOLM_V1, **about).serialize()
    encrypted = {"type": "m.room.encryption", "state_key": "", "content": content}
    room = await alice.client.create_room(invitees=[bob.client.mxid], is_direct=True, initial_state=[encrypted])
    await alice.sees_join(bob)
    assert await alice.rooms.is_encrypted(room)
    return room


def _talk(of_alice: Account, of_bob: Account) -> Story:
    async def story(start: Any) -> None:
        alice, bob = await start(of_alice), await start(of_bob)
        room = await _meet(alice, bob)
        for n in range(3):
            await alice.client.send_text(room, f"hello {n}")
            await bob.reads(f"hello {n}")
            await bob.client.send_text(room, f"and to you {n}")
            await alice.reads(f"and to you {n}")

    return story


def _check_all_was_encrypted(account: Account) -> None:
    [room] = account.get("/joined_rooms")["joined_rooms"]
    messages = [e["type"] for e in account.messages(room, limit=100)["chunk"] if e.get("state_key") is None]
    assert messages == ["m.room.encrypted"] * 6


def test_encrypted_messages_go_both_ways(alice: Account, bob: Account) -> None:
    """On one server no message comes before its key."""
    _run(_talk(alice, bob), patient=False)
    _check_all_was_encrypted(bob)


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_encrypted_messages_go_both_ways_between_servers(pair: Pair) -> None:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    _run(_talk(alice, bob))
    _check_all_was_encrypted(alice)
    _check_all_was_encrypted(bob)


def _sign(of_alice: Account, of_bob: Account) -> Story:
    """Alice talks only to devices that their owner has signed."""

    async def story(start: Any) -> None:
        alice, bob = await start(of_alice), await start(of_bob)
        recovery_key = await bob.client.crypto.generate_recovery_key()
        alice.client.crypto.send_keys_min_trust = TrustState.CROSS_SIGNED_TOFU
        room = await _meet(alice, bob, rotation_period_msgs=1)
        await alice.client.send_text(room, "to whom I trust")
        await bob.reads("to whom I trust")

        tablet = await start(of_bob)
        unsigned = await _say_until(alice, room, "unsigned", bob, tablet.withheld)
        assert tablet.read.empty()
        assert tablet.withheld.get_nowait() == "m.unverified"
        event = await tablet.client.get_event(room, unsigned)
        with pytest.raises(SessionNotFound):
            await tablet.client.crypto.decrypt_megolm_event(event)

        await tablet.client.crypto.verify_with_recovery_key(recovery_key)
        await _say_until(alice, room, "signed", bob, tablet.read)
        await tablet.client.send_text(room, "from the tablet")
        await alice.reads("from the tablet")

    return story


async def _say_until(alice: User, room: RoomID, body: str, bob: User, hears: asyncio.Queue[str]) -> Any:
    """Until the others have heard something; the event that did it. Each message has a key of its own."""
    deadline = time.monotonic() + WAIT_S
    for number in count():
        assert time.monotonic() < deadline
        event = await alice.client.send_text(room, f"{body} {number}")
        await bob.reads(f"{body} {number}")
        if not hears.empty():
            return event


def test_a_device_reads_what_signed_ones_are_told_once_it_is_signed(alice: Account, bob: Account) -> None:
    _run(_sign(alice, bob))


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_device_of_another_server_reads_what_signed_ones_are_told_once_it_is_signed(pair: Pair) -> None:
    _run(_sign(pair.near.person("alice"), pair.far.person("bob")))


async def _upload_fallback_key(user: User) -> Any:
    """Of the library's own encryption, which can make one; mautrix-python does not upload it."""
    client, account = user.client, user.client.crypto.account
    account.generate_fallback_key()
    [(key_id, public)] = account.fallback_key["curve25519"].items()
    key: dict[str, Any] = {"key": public, "fallback": True}
    key["signatures"] = {client.mxid: {f"ed25519:{client.device_id}": sign_olm(key, account)}}
    upload = {"fallback_keys": {f"signed_curve25519:{key_id}": key}}
    await client.api.request(Method.POST, Path.v3.keys.upload, upload)
    return key


async def _claim(user: User, other: User) -> Any:
    """A key of the other's device."""
    user_id, device_id = other.client.mxid, other.client.device_id
    claimed = await user.client.claim_keys({user_id: {device_id: EncryptionKeyAlgorithm.SIGNED_CURVE25519}})
    [key] = claimed.one_time_keys[user_id][device_id].values()
    return key


def _use_up_keys(of_alice: Account, of_bob: Account) -> Story:
    async def story(start: Any) -> None:
        alice, bob = await start(of_alice), await start(of_bob)
        room = await _meet(alice, bob)
        bob.client.stop()
        fallback = await _upload_fallback_key(bob)
        given = [await _claim(alice, bob)]
        while not given[-1].get("fallback"):
            given.append(await _claim(alice, bob))
        assert given[-1] == await _claim(alice, bob) == fallback
        assert len({key["key"] for key in given}) == len(given) > 2
        await alice.client.send_text(room, "hello")
        bob.client.start(None)
        await bob.reads("hello")
        await bob.client.send_text(room, "and to you")
        await alice.reads("and to you")

    return story


def test_a_message_arrives_when_all_one_time_keys_are_used_up(alice: Account, bob: Account) -> None:
    _run(_use_up_keys(alice, bob))


@pytest.mark.parametrize("pair", PAIRS, indirect=True)
def test_a_message_to_another_server_arrives_when_all_one_time_keys_are_used_up(pair: Pair) -> None:
    _run(_use_up_keys(pair.near.person("alice"), pair.far.person("bob")))
