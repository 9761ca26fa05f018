"""mautrix-python with its encryption (libolm) against a running server."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from mautrix.client import Client, InternalEventType, MembershipEventDispatcher
from mautrix.client.state_store import MemoryStateStore
from mautrix.crypto import MemoryCryptoStore, OlmMachine
from mautrix.types import (
    EncryptionAlgorithm,
    EventType,
    Membership,
    RoomEncryptionStateEventContent,
    RoomID,
    TrustState,
    UserID,
)

PASSWORD = "password of the tests"
WAIT_S = 120


class Rooms(MemoryStateStore):
    """Also a state store of the encryption's: it wants one method more."""

    async def find_shared_rooms(self, user_id: Any) -> list[RoomID]:
        return [
            room_id for room_id, members in self.members.items() if user_id in members and room_id in self.encryption
        ]


class User:
    """A client that joins where it is invited, and keeps the bodies that it could read."""

    def __init__(self, url: str) -> None:
        self.rooms: Any = Rooms()
        self.client = Client(base_url=url, state_store=self.rooms)
        self.read: asyncio.Queue[str] = asyncio.Queue()
        self.joined: asyncio.Queue[Any] = asyncio.Queue()
        self.client.add_dispatcher(MembershipEventDispatcher)
        self.client.add_event_handler(EventType.ROOM_MESSAGE, self._on_message)
        self.client.add_event_handler(EventType.ROOM_MEMBER, self._on_member)
        self.client.add_event_handler(InternalEventType.INVITE, self._on_invite)

    async def start(self, name: str) -> None:
        await self.client.login(identifier=UserID(name), password=PASSWORD)
        machine = OlmMachine(self.client, MemoryCryptoStore(self.client.mxid, "key"), self.rooms)
        machine.share_keys_min_trust = machine.send_keys_min_trust = TrustState.UNVERIFIED
        await machine.crypto_store.put_device_id(self.client.device_id)
        await machine.load()
        await machine.share_keys()
        self.client.crypto = machine
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

    async def _on_invite(self, event: Any) -> None:
        await self.client.join_room(event.room_id)

    async def reads(self, body: str) -> None:
        assert await asyncio.wait_for(self.read.get(), WAIT_S) == body

    async def sees_join(self, user: User) -> None:
        while await asyncio.wait_for(self.joined.get(), WAIT_S) != user.client.mxid:
            pass


async def _talk(url: str) -> None:
    async with AsyncExitStack() as stack:
        alice, bob = User(url), User(url)
        for user, name in ((alice, "alice"), (bob, "bob")):
            stack.push_async_callback(user.stop)
            await user.start(name)
        encrypted = {
            "type": "m.room.encryption",
            "state_key": "",
            "content": RoomEncryptionStateEventContent(EncryptionAlgorithm.MEGOLM_V1).serialize(),
        }
        room = await alice.client.create_room(invitees=[bob.client.mxid], is_direct=True, initial_state=[encrypted])
        await alice.sees_join(bob)
        assert await alice.rooms.is_encrypted(room)
        for n in range(3):
            await alice.client.send_text(room, f"hello {n}")
            await bob.reads(f"hello {n}")
            await bob.client.send_text(room, f"and to you {n}")
            await alice.reads(f"and to you {n}")


def test_encrypted_messages_go_both_ways(hearth: Any) -> None:
    hearth.register("alice")
    bob = hearth.register("bob")
    asyncio.run(_talk(hearth.url))
    [room] = bob.get("/joined_rooms")["joined_rooms"]
    messages = [e["type"] for e in bob.messages(room, limit=100)["chunk"] if e.get("state_key") is None]
    assert messages == ["m.room.encrypted"] * 6
