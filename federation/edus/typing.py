"""m.typing: who of our users types, to the servers in the room; and who of theirs.

Spec: server-server-api#typing-notifications
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Any, Final

from attrs import define, field

from federation.outbound.sender import Sender
from homeserver.folds.room_servers import RoomServers
from homeserver.matrix.errors import Forbidden
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of, is_user_of
from homeserver.rooms.typing import Typing
from homeserver.rooms.view import RoomViews
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock

TYPING: Final = "m.typing"
# Other servers forget who types after a time of theirs, and so do we.
REPEAT_MS: Final = 40_000
LIFETIME_MS: Final = 60_000


@define(eq=False)
class TypingSender:
    """Follows changes of who types; says them again while they last."""

    server_name: ServerName
    clock: Clock
    typing: Typing
    servers: RoomServers
    sender: Sender
    background: Background
    _told: dict[RoomId, frozenset[UserId]] = field(factory=dict, init=False)
    _timer: Any = field(default=None, init=False)

    def on_typing(self, room_ids: Collection[RoomId]) -> None:
        for room_id in room_ids:
            members = self.servers.get(room_id)
            if members is None:
                self.background.run(self._tell_later(room_id), "Other servers could not be told who types")
            elif members.servers or room_id in self._told:
                self._tell(room_id, list(members.servers))

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _tell_later(self, room_id: RoomId) -> None:
        members = await self.servers.load(room_id)
        self._tell(room_id, list(members.servers))

    def _tell(self, room_id: RoomId, servers: Collection[ServerName]) -> None:
        now = frozenset(user for user in self.typing.typing(room_id)[1] if domain_of(user) == self.server_name)
        told = self._told.pop(room_id, frozenset())
        for user_id in now ^ told:
            self._send(room_id, user_id, user_id in now, servers)
        if now and servers:
            self._told[room_id] = now
            if self._timer is None:
                self._timer = self.clock.call_later(REPEAT_MS, self._repeat)

    def _repeat(self) -> None:
        self._timer = None
        for room_id, users in self._told.items():
            members = self.servers.get(room_id)
            for user_id in users if members is not None else ():
                self._send(room_id, user_id, True, list(members.servers) if members is not None else ())
        if self._told:
            self._timer = self.clock.call_later(REPEAT_MS, self._repeat)

    def _send(self, room_id: RoomId, user_id: UserId, is_typing: bool, servers: Collection[ServerName]) -> None:
        content = {"room_id": room_id, "user_id": user_id, "typing": is_typing}
        key = (TYPING, room_id, user_id)
        self.sender.send_ephemeral(servers, key, {"edu_type": TYPING, "content": content}, LIFETIME_MS)


@define(eq=False)
class TypingReceiver:
    """Takes in what other servers say of their users who are in the room."""

    views: RoomViews
    typing: Typing

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """What is not well-formed, or not the origin's to say, is passed over.

        Spec: server-server-api#definition-mtyping
        """
        room_id, user_id, is_typing = content.get("room_id"), content.get("user_id"), content.get("typing")
        if not isinstance(room_id, str) or not isinstance(user_id, str) or not is_user_of(user_id, origin):
            return
        if is_typing is False:
            self.typing.stop(RoomId(room_id), UserId(user_id))
        elif is_typing is True:
            with suppress(Forbidden):
                await self.views.load_joined(RoomId(room_id), UserId(user_id))
                self.typing.start(RoomId(room_id), UserId(user_id), LIFETIME_MS)
