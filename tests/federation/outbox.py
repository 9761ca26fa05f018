"""A server whose transactions go to peers in memory, which a test takes away and brings back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from threading import Condition
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from federation.errors import BackingOff, NotAllowed, RemoteRefused, RemoteUnreachable
from homeserver.main.outbound import OutboundServices, build_outbound
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.rooms.writer import Draft
from tests.kit.reactor import get_reactor, run_in_reactor

PEER = ServerName("peer.example")
TIMEOUT_S = 120


@define(eq=False)
class Peers:
    """A client of federation. Servers in `away` can't be reached, those in `hanging` never answer, those in `refusing`
    answer with an error for the transactions that their function says it of."""

    away: set[str] = field(factory=set)
    backing_off: set[str] = field(factory=set)
    hanging: set[str] = field(factory=set)
    forbidden: set[str] = field(factory=set)
    refusing: dict[str, Callable[[dict[str, Any]], int | None]] = field(factory=dict)
    transactions: dict[str, list[tuple[str, dict[str, Any]]]] = field(factory=dict)
    attempts: int = 0
    at_once: int = 0
    most_at_once: int = 0
    changed: Condition = field(factory=Condition)
    _hung: list[tuple[str, Deferred[None]]] = field(factory=list)

    async def put(
        self, server: ServerName, path: str, body: Any, *, timeout_ms: int, max_bytes: int, patient: bool
    ) -> Any:
        self.at_once += 1
        self.attempts += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await self._arrive(server)
            status = self.refusing.get(server, lambda _body: None)(body)
            if status is not None:
                raise RemoteRefused(server, status, {"errcode": "M_UNKNOWN", "error": "no"})
        finally:
            self.at_once -= 1
            with self.changed:
                self.changed.notify_all()
        with self.changed:
            self.transactions.setdefault(server, []).append((path.rpartition("/")[2], body))
            self.changed.notify_all()
        return {"pdus": {}}

    async def _arrive(self, server: ServerName) -> None:
        turn: Deferred[None] = Deferred()
        if server in self.hanging:
            self._hung.append((server, turn))
        else:
            get_reactor().callLater(0, turn.callback, None)
        await turn
        if server in self.away:
            self.backing_off.add(server)
            raise RemoteUnreachable(server, "it is away")

    def check(self, server: ServerName) -> None:
        if server in self.forbidden:
            raise NotAllowed(server)
        if server in self.backing_off:
            raise BackingOff(server, 2**53)

    def end_hanging(self, server: str) -> None:
        """What hangs is answered. In the reactor's thread."""
        self.hanging.discard(server)
        mine = [each for each in self._hung if each[0] == server]
        self._hung = [each for each in self._hung if each[0] != server]
        for _, turn in mine:
            turn.callback(None)

    # -- what arrived ------------------------------------------------------------------------------------------------

    def pdus(self, server: str = PEER) -> list[dict[str, Any]]:
        return [pdu for _, body in self.transactions.get(server, ()) for pdu in body["pdus"]]

    def edus(self, server: str = PEER) -> list[dict[str, Any]]:
        return [edu for _, body in self.transactions.get(server, ()) for edu in body["edus"]]

    def contents(self, edu_type: str, server: str = PEER) -> list[dict[str, Any]]:
        """Of the EDUs of a type."""
        return [edu["content"] for edu in self.edus(server) if edu["edu_type"] == edu_type]

    def bodies(self, server: str = PEER) -> list[str]:
        """Of the messages that came, in their order."""
        return [pdu["content"]["body"] for pdu in self.pdus(server) if pdu["type"] == "m.room.message"]

    def wait_for(self, condition: Callable[[], object]) -> None:
        """Looks whenever something arrived or failed to."""
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), f"it never came to that: {self.transactions}"


@define(eq=False)
class Outbox:
    """A server, what it sends with, and a room of alice's with users of other servers."""

    server: Any
    peers: Peers = field(factory=Peers)
    alice: Any = None
    room_id: RoomId = field(default="")
    outbound: OutboundServices = field(init=False)
    running: bool = False

    def start(self) -> None:
        async def start() -> None:
            services = self.server.running.services
            self.outbound = build_outbound(
                services.core, self.peers, services.rooms, services.encryption, services.sync.presence
            )
            self._follow_progress()
            await self.outbound.start()

        run_in_reactor(start)
        self.running = True

    def _follow_progress(self) -> None:
        distributor = self.outbound.distributor
        on_progress = distributor.on_progress

        def tell(position: int) -> None:
            on_progress(position)
            with self.peers.changed:
                self.peers.changed.notify_all()

        distributor.on_progress = tell

    def stop(self) -> None:
        if self.running:
            run_in_reactor(self.outbound.stop)
        self.running = False

    def crash(self) -> None:
        """Everything in memory is gone, nothing is saved any more; then it starts anew."""

        def lose() -> None:
            self.outbound.distributor.stop()
            self.outbound.upkeep.stop()
            self.outbound.backlog._stopped = True
            self.outbound.sender._stopped = True
            for destination in self.outbound.sender._destinations.values():
                self.outbound.sender._stop_timer(destination)
            if self.outbound.backlog._timer is not None:
                self.outbound.backlog._timer.cancel()

        run_in_reactor(lose)
        self.running = False
        self.server.restart()
        self.alice.base_url = self.server.url

    def make_room(self, servers: Iterable[str] = (PEER,)) -> RoomId:
        self.alice = self.alice or self.server.register("alice")
        room_id = RoomId(self.alice.post("/createRoom", {"preset": "public_chat"})["room_id"])
        self.room_id = self.room_id or room_id
        for server in servers:
            self.join(UserId(f"@bob:{server}"), room_id)
        self.settle()
        return room_id

    def settle(self) -> None:
        """Waits until it is known whom everything written so far concerns: before, the answer depends on what comes next."""
        distributor = self.outbound.distributor
        written = distributor.seen
        self.peers.wait_for(lambda: not self.running or distributor.position >= written)

    def join(self, user_id: UserId, room_id: RoomId | None = None, membership: str = "join") -> EventId:
        draft = Draft("m.room.member", user_id, {"membership": membership}, user_id)
        return self.write(draft, room_id)

    def write(self, draft: Draft, room_id: RoomId | None = None) -> EventId:
        """An event of anybody's, as if it had come from their server."""
        self.settle()
        writer = self.server.running.services.core.writer
        events = run_in_reactor(writer.write, room_id or self.room_id, lambda _head: [draft])
        return EventId(events[0].event_id)

    def say(self, *texts: str, room_id: RoomId | None = None) -> None:
        for text in texts:
            self.alice.send(room_id or self.room_id, text)

    def receive(self, edu_type: str, content: Any, origin: str = PEER) -> None:
        """An EDU of another server."""
        run_in_reactor(self.outbound.receivers[edu_type], origin, content)

    def flush(self) -> None:
        run_in_reactor(self.outbound.backlog.flush)

    def wake(self, server: str = PEER) -> None:
        self.peers.away.discard(server)
        self.peers.backing_off.discard(server)
        run_in_reactor(self.outbound.sender.wake, server)

    def expect(self, texts: Collection[str], server: str = PEER) -> None:
        """Waits until as many messages came, and checks which."""
        self.peers.wait_for(lambda: len(self.peers.bodies(server)) >= len(texts))
        assert self.peers.bodies(server) == list(texts)
