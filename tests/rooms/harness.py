"""The room services on a real database, and their endpoints behind the real HTTP parser. A token is a user ID."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homeserver.accounts.requester import Requester
from homeserver.clientapi.reporting import ReportingEndpoints
from homeserver.clientapi.room_aliases import RoomAliasEndpoints
from homeserver.clientapi.room_creation import RoomCreationEndpoints
from homeserver.clientapi.room_directory import RoomDirectoryEndpoints
from homeserver.clientapi.room_membership import RoomMembershipEndpoints
from homeserver.clientapi.room_summary import RoomSummaryEndpoints
from homeserver.clientapi.room_upgrades import RoomUpgradeEndpoints
from homeserver.folds.events import EventCache
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.matrix.signing import SigningKey
from homeserver.rooms.address_invites import AddressInvites
from homeserver.rooms.aliases import Aliases
from homeserver.rooms.config import RoomsConfig
from homeserver.rooms.creation import RoomCreation
from homeserver.rooms.departures import RoomDepartures
from homeserver.rooms.directory import RoomDirectory
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.member_content import MemberContents
from homeserver.rooms.membership import RoomMembership
from homeserver.rooms.ports import NoFederation
from homeserver.rooms.profile_propagation import RoomProfiles
from homeserver.rooms.public_rooms import PublicRooms
from homeserver.rooms.reports import Reports
from homeserver.rooms.state_policy import StatePolicy
from homeserver.rooms.summary import RoomSummaries
from homeserver.rooms.upgrade import RoomUpgrades
from homeserver.rooms.writer import Draft, RoomWriter
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.db import Database, engine_url, make_engine
from homeserver.runtime.http.router import Router
from homeserver.runtime.http.site import App, Site
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogWriter
from homeserver.store.migrations import upgrade
from tests.accounts.harness import Answer, Pump, exchange

SERVER_NAME = ServerName("test.example")
V3 = "/_matrix/client/v3"
ALICE = UserId("@alice:test.example")
BOB = UserId("@bob:test.example")
CAROL = UserId("@carol:test.example")
GUEST = UserId("@guest:test.example")


class TokensAreUsers:
    """Whoever claims to be somebody is."""

    def get_requester(self, token: str) -> Requester:
        return Requester(UserId(token), is_guest=token == GUEST, is_suspended=token.startswith("@suspended"))

    async def authenticate(self, request: Any, auth: Any) -> Requester | None:
        return None


class Profiles:
    """Profiles as they were set by a test; who has none does not exist."""

    def __init__(self) -> None:
        self.known: dict[str, dict[str, Any]] = {}

    async def load_profile(self, user_id: UserId) -> dict[str, Any]:
        if user_id not in self.known:
            raise NotFound("Profile not found")
        return self.known[user_id]


class NoPush:
    def outcome(self, head: Any, pdu: Any) -> int:
        return 0


class RoomsServer:
    def __init__(self, url: str, data_dir: Path, **config: Any) -> None:
        self.pump = Pump()
        self.wait = self.pump.wait
        self.clock = ManualClock()
        self.database = Database(make_engine(engine_url(url, data_dir)), self.pump)  # type: ignore[arg-type]
        self.wait(self.database.run(upgrade))
        self.rows: list[LogRow] = []
        self._build(RoomsConfig(**config))

    def _build(self, config: RoomsConfig) -> None:
        database, remote = self.database, NoFederation()
        self.log = LogWriter(database)
        self.events = EventCache(database, 10_000_000)
        self.heads = RoomHeads(database, self.events, 100_000)
        self.memberships = Memberships(database, 1000)
        key = SigningKey("1", bytes(32))
        self.writer = RoomWriter(SERVER_NAME, key, self.clock, self.heads, self.events, self.log, NoPush())
        self.profiles = Profiles()
        self.contents = MemberContents(SERVER_NAME, database, self.profiles, remote)
        self.membership = RoomMembership(self.writer, self.memberships, self.contents, remote)
        self.addresses = AddressInvites(self.writer, self.membership)
        self.creation = RoomCreation(config, self.writer, self.contents, self.addresses)
        self.aliases = Aliases(config, database, self.writer, remote)
        self.policy = StatePolicy(self.aliases)
        self.directory = RoomDirectory(config, database, self.heads, self.log)
        self.public_rooms = PublicRooms(database)
        self.summaries = RoomSummaries(SERVER_NAME, self.heads, self.events, self.memberships, remote)
        self.upgrades = RoomUpgrades(self.creation)
        self.room_profiles = RoomProfiles(self.writer, self.memberships, self.contents)
        self.departures = RoomDepartures(self.membership)
        self.reports = Reports(self.clock, self.heads, self.events, self.log)
        self.log.observe_rooms(self.heads)
        followers = (
            self.events.on_rows,
            self.memberships.on_rows,
            self.public_rooms.on_rows,
            self.rows.extend,
        )
        for follower in followers:
            self.log.follow(follower)
        self._serve(config, remote)

    def _serve(self, config: RoomsConfig, remote: NoFederation) -> None:
        router = Router()
        for endpoints in (
            RoomCreationEndpoints(self.creation),
            RoomAliasEndpoints(self.aliases),
            RoomMembershipEndpoints(self.membership, self.addresses, self.aliases, self.memberships),
            RoomDirectoryEndpoints(config, SERVER_NAME, self.directory, self.public_rooms, remote),
            RoomSummaryEndpoints(self.summaries, self.aliases),
            RoomUpgradeEndpoints(self.upgrades),
            ReportingEndpoints(self.reports),
        ):
            router.add(endpoints)
        self.site = Site(App(self.pump, router, TokensAreUsers(), None))

    # -- over HTTP ---------------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, user_id: str | None, body: Any = None) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        head = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(content)}"]
        if user_id is not None:
            head.append(f"Authorization: Bearer {user_id}")
        return exchange(self.site, self.pump, head, content)

    def get(self, path: str, user_id: str | None = ALICE) -> Answer:
        return self.request("GET", path, user_id)

    def post(self, path: str, body: Any = None, user_id: str = ALICE) -> Answer:
        return self.request("POST", V3 + path, user_id, {} if body is None else body)

    def put(self, path: str, body: Any, user_id: str = ALICE) -> Answer:
        return self.request("PUT", V3 + path, user_id, body)

    def delete(self, path: str, user_id: str = ALICE) -> Answer:
        return self.request("DELETE", V3 + path, user_id)

    def create(self, user_id: str = ALICE, **body: Any) -> RoomId:
        answer = self.post("/createRoom", body, user_id)
        assert answer.status == 200, answer
        return RoomId(answer.json["room_id"])

    def act(self, verb: str, room_id: str, target: str, user_id: str = ALICE, **more: Any) -> Answer:
        """invite, kick, ban, unban."""
        return self.post(f"/rooms/{in_path(room_id)}/{verb}", {"user_id": target, **more}, user_id)

    def do(self, verb: str, room_id: str, user_id: str, **body: Any) -> Answer:
        """join, leave, forget: about oneself."""
        return self.post(f"/rooms/{in_path(room_id)}/{verb}", body, user_id)

    def site_requester(self, user_id: str) -> Requester:
        return TokensAreUsers().get_requester(user_id)

    # -- straight from the services ----------------------------------------------------------------------------------

    def timeline(self, room_id: RoomId) -> list[StoredEvent]:
        return [row.event for row in self.rows if row.key == room_id and row.event is not None]

    def state(self, room_id: RoomId, type_: str, state_key: str = "") -> dict[str, Any] | None:
        head = self.wait(self.heads.load(room_id))
        event_id = head.state.get((type_, state_key))
        if event_id is None:
            return None
        content: dict[str, Any] = self.wait(self.events.load(event_id, room_id, head.version)).pdu.content
        return content

    def member(self, room_id: RoomId, user_id: str) -> dict[str, Any] | None:
        return self.state(room_id, "m.room.member", user_id)

    def membership_of(self, room_id: RoomId, user_id: str) -> str | None:
        found: str | None = self.wait(self.heads.load(room_id)).membership(UserId(user_id))
        return found

    def send_state(
        self,
        room_id: RoomId,
        type_: str,
        content: dict[str, Any],
        user_id: UserId = ALICE,
        state_key: str = "",
    ) -> None:
        self.wait(self.writer.write(room_id, lambda _: [Draft(type_, user_id, content, state_key)]))

    def close(self) -> None:
        self.wait(self.database.close())


def in_path(value: str) -> str:
    return quote(value, safe="")
