"""m.presence: how present our users are, to the servers that share a room with them; and theirs.

Changes are gathered for a moment, and only the newest of each user is told. Other servers take a user of whom they hear
nothing for half an hour as offline, so who stays present is told of again before that.

Spec: server-server-api#presence
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from attrs import define, field

from federation.outbound.sender import Sender
from homeserver.folds.memberships import Memberships
from homeserver.folds.room_servers import RoomServers
from homeserver.matrix.errors import BadJson
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of, is_user_of
from homeserver.presence.presence import OFFLINE, Presence
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.runtime.background import Background
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.outbound import load_joined_somewhere

PRESENCE: Final = "m.presence"
GATHER_MS: Final = 1_000
REPEAT_MS: Final = 20 * 60_000
LOOK_MS: Final = 60_000
LIFETIME_MS: Final = 60_000
MAX_USERS: Final = 1_000  # in one EDU that comes, and told of at once
MAX_INTRODUCED: Final = 100  # users of whom a server that comes into a room is told
MAX_REMEMBERED: Final = 100_000
MAX_EARLY: Final = 10_000  # users of whom it is not known yet whether a room is shared


@define(eq=False)
class PresenceSender:
    """Follows presence, and the log."""

    server_name: ServerName
    clock: Clock
    presence: Presence
    memberships: Memberships
    servers: RoomServers
    heads: RoomHeads
    sender: Sender
    background: Background
    _changed: dict[UserId, None] = field(factory=dict, init=False)
    _told: OrderedDict[UserId, int] = field(factory=OrderedDict, init=False)  # who is present: when it was said last
    _gathering: Any = field(default=None, init=False)
    _repeating: Any = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def on_presence(self, user_id: UserId) -> None:
        if domain_of(user_id) == self.server_name:
            self._changed[user_id] = None
            self._gather()

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Tell a server that comes into a room who is present there."""
        for row in rows:
            change = row.membership
            if change is not None and change.membership == "join" and domain_of(change.user_id) != self.server_name:
                members = self.servers.get(RoomId(row.key))
                server = domain_of(change.user_id)
                if members is not None and members.users.get(server, {change.user_id}) == {change.user_id}:
                    self._introduce(RoomId(row.key), server)

    def stop(self) -> None:
        self._stopped = True
        for timer in (self._gathering, self._repeating):
            if timer is not None:
                timer.cancel()
        self._gathering = self._repeating = None

    def _introduce(self, room_id: RoomId, server: ServerName) -> None:
        head = self.heads.get(room_id)
        if head is not None:
            present = (user for user in self.presence.present_users() if domain_of(user) == self.server_name)
            for user_id in islice((user for user in present if head.is_joined(user)), MAX_INTRODUCED):
                self._send(user_id, {server})

    def _gather(self) -> None:
        if self._gathering is None and not self._stopped:
            self._gathering = self.clock.call_later(GATHER_MS, self._on_gathered)

    def _on_gathered(self) -> None:
        self._gathering = None
        self.background.run(self._tell(), "Presence could not be told to other servers")

    async def _tell(self) -> None:
        users = list(self._changed)[:MAX_USERS]
        for user_id in users:
            del self._changed[user_id]
        if self._changed:
            self._gather()
        for user_id, rooms in (await self.memberships.load_many(users)).items():
            joined = [room_id for room_id, row in rooms.items() if row.membership == "join"]
            known = await self.servers.load_many(joined)
            self._send(user_id, {server for members in known.values() for server in members.servers})

    def _repeat(self) -> None:
        """Look who has not been told of for long."""
        self._repeating = None
        long_ago_ms = self.clock.monotonic_ms() - REPEAT_MS
        while self._told and next(iter(self._told.values())) <= long_ago_ms:
            self._changed[self._told.popitem(last=False)[0]] = None
            self._gather()
        self._remember_to_repeat()

    def _remember_to_repeat(self) -> None:
        if self._told and self._repeating is None and not self._stopped:
            self._repeating = self.clock.call_later(LOOK_MS, self._repeat)

    def _send(self, user_id: UserId, servers: set[ServerName]) -> None:
        now = self.presence.get(user_id)
        self._told.pop(user_id, None)
        if not servers:
            return
        if now.presence != OFFLINE:
            self._told[user_id] = self.clock.monotonic_ms()
            if len(self._told) > MAX_REMEMBERED:
                self._told.popitem(last=False)
            self._remember_to_repeat()
        content = {"user_id": user_id, **now.content(self.clock.time_ms())}
        content.setdefault("last_active_ago", 0)
        edu = {"edu_type": PRESENCE, "content": {"push": [content]}}
        self.sender.send_ephemeral(servers, (PRESENCE, user_id), edu, LIFETIME_MS, is_urgent=False)


@define(eq=False)
class PresenceReceiver:
    """Takes in what other servers say of users of theirs with whom a room is shared; follows the log for those of whom that is
    not known yet, as their room's members are still on their way.
    """

    presence: Presence
    database: Database
    partial: PartialStates
    background: Background
    _early: OrderedDict[UserId, Mapping[str, Any]] = field(factory=OrderedDict, init=False)

    async def receive(self, origin: ServerName, content: Mapping[str, Any]) -> None:
        """What is not well-formed, or not the origin's to say, is passed over. Raises: BadJson.

        Spec: server-server-api#definition-mpresence
        """
        pushed = content.get("push")
        if not isinstance(pushed, list):
            raise BadJson("push: must be a list")
        updates = {
            UserId(update["user_id"]): update
            for update in pushed[:MAX_USERS]
            if isinstance(update, dict) and is_user_of(update.get("user_id"), origin)
        }
        known = await self._take(updates)
        if self.partial.is_server_in_any(origin):
            self._keep({user_id: update for user_id, update in updates.items() if user_id not in known})

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        """Follow the log."""
        if self._early and any(row.is_state_alone for row in rows):
            early, self._early = self._early, OrderedDict()
            self.background.run(self._take_early(early), "Presence that came early could not be taken in")

    async def _take_early(self, early: Mapping[UserId, Mapping[str, Any]]) -> None:
        known = await self._take(early)
        unknown = {user_id: update for user_id, update in early.items() if user_id not in known}
        self._keep({each: unknown[each] for each in unknown if self.partial.is_server_in_any(domain_of(each))})

    async def _take(self, updates: Mapping[UserId, Mapping[str, Any]]) -> Collection[UserId]:
        """Those of the users with whom a room is shared, as far as is known."""
        # No cache: what another server names may be anything.
        known = await self.database.read(load_joined_somewhere, updates)
        for user_id in known:
            self.presence.receive(user_id, updates[user_id])
        return known

    def _keep(self, updates: Mapping[UserId, Mapping[str, Any]]) -> None:
        for user_id, update in updates.items():
            self._early[user_id] = update
            if len(self._early) > MAX_EARLY:
                self._early.popitem(last=False)
