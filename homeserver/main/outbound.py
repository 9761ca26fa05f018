"""Sending to other servers: built here, fed by the log; and EDUs of each kind, which way they may go."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from attrs import define

from federation.edus.device_lists import DeviceListSource
from federation.edus.early_receipts import EarlyReceipts
from federation.edus.presence import PresenceReceiver, PresenceSender
from federation.edus.receipts import ReceiptReceiver, ReceiptSource
from federation.edus.to_device import ToDeviceSource
from federation.edus.typing import TypingReceiver, TypingSender
from federation.outbound.backlog import Backlog
from federation.outbound.distributor import Distributor
from federation.outbound.events import EventSource, Relays
from federation.outbound.items import Source
from federation.outbound.sender import Client, Sender
from federation.outbound.sticky_events import StickySource
from federation.outbound.transactions import TransactionBodies
from federation.outbound.upkeep import MessageUpkeep
from homeserver.folds.room_servers import RoomServers
from homeserver.main.core import Core
from homeserver.main.encryption import EncryptionServices
from homeserver.main.rooms import RoomServices
from homeserver.matrix.ids import ServerName
from homeserver.presence.presence import Presence
from homeserver.store.log import load_cursor
from homeserver.store.outbound import CURSOR

EduHandler = Callable[[ServerName, Mapping[str, Any]], Awaitable[None]]


class EduRegistry(Protocol):
    """What hands out the EDUs that come (federation/inbound/edus.py)."""

    def register(self, edu_type: str, handler: EduHandler, /) -> None: ...


@define(eq=False)
class OutboundServices:
    """`sender.wake` is to be told of servers that call us; `relays` passes on others' events; `servers` knows who is in
    a room. receivers: what takes in the EDUs of each type.
    """

    core: Core
    servers: RoomServers
    backlog: Backlog
    sender: Sender
    distributor: Distributor
    relays: Relays
    receivers: Mapping[str, EduHandler]
    receipts: ReceiptReceiver
    upkeep: MessageUpkeep
    stops: tuple[Callable[[], None], ...]

    def register(self, edus: EduRegistry) -> None:
        """Have the EDUs of others handed to those who take them in."""
        for edu_type, receive in self.receivers.items():
            edus.register(edu_type, receive)

    async def start(self) -> None:
        """Take up where the last run ended. A server that never federated begins with what happens from now on."""
        begin = self.distributor.seen
        cursor = await self.core.database.read(load_cursor, CURSOR)
        await self.sender.start()
        await self.receipts.resume()
        self.distributor.start(begin if cursor is None else cursor)
        self.backlog.schedule()
        self.upkeep.start()

    async def stop(self) -> None:
        for stop in (self.upkeep.stop, self.distributor.stop, *self.stops):
            stop()
        await self.sender.stop()
        await self.backlog.stop()


def build_outbound(
    core: Core, client: Client, rooms: RoomServices, encryption: EncryptionServices, presence: Presence | None
) -> OutboundServices:
    servers = RoomServers(core.server_name, core.database)
    events = EventSource(core.server_name, core.database, core.events, servers)
    sticky = StickySource(
        core.server_name, core.database, core.clock, core.log, core.events, servers, core.sticky, events
    )
    sources: tuple[Source, ...] = (
        events,
        sticky,
        ToDeviceSource(core.database),
        DeviceListSource(core.server_name, core.database, core.events, core.memberships, servers, encryption.queries),
    )
    receipts = ReceiptSource(core.server_name, core.database, servers)
    backlog = Backlog(core.server_name, core.database, core.clock, sources)
    bodies = TransactionBodies(core.server_name, sources)
    sender = Sender(client, core.clock, backlog, bodies, receipts.load_owed)
    distributor = Distributor(
        core.database, core.clock, sender.offer, core.log.position, (*sources, receipts), backlog.note_progress
    )
    backlog.get_cursor = lambda: sender.get_cursor(distributor.position)
    core.log.follow(distributor.on_rows)
    stops = _follow_ephemerals(core, rooms, presence, servers, sender)
    received = ReceiptReceiver(core.clock, rooms.receipts, EarlyReceipts(core.database, core.clock), core.background)
    receivers = _build_receivers(core, rooms, encryption, presence, received)
    upkeep, relays = MessageUpkeep(core.database, core.clock, received.resume), Relays(core.log)
    stops = (*stops, sticky.stop)
    return OutboundServices(core, servers, backlog, sender, distributor, relays, receivers, received, upkeep, stops)


def _follow_ephemerals(
    core: Core, rooms: RoomServices, presence: Presence | None, servers: RoomServers, sender: Sender
) -> tuple[Callable[[], None], ...]:
    """How to stop them."""
    typing = TypingSender(core.server_name, core.clock, rooms.typing, servers, sender, core.background)
    rooms.typing.follow(typing.on_typing)
    if presence is None:
        return (typing.stop,)
    present = PresenceSender(
        core.server_name, core.clock, presence, core.memberships, servers, core.heads, sender, core.background
    )
    core.log.follow(present.on_rows)
    presence.follow(present.on_presence)
    return (typing.stop, present.stop)


def _build_receivers(
    core: Core,
    rooms: RoomServices,
    encryption: EncryptionServices,
    presence: Presence | None,
    receipts: ReceiptReceiver,
) -> Mapping[str, EduHandler]:
    core.log.follow(receipts.on_rows)
    receivers: dict[str, EduHandler] = {
        "m.typing": TypingReceiver(rooms.views, rooms.typing).receive,
        "m.receipt": receipts.receive,
        "m.direct_to_device": encryption.to_device.receive,
        "m.device_list_update": encryption.remote_devices.receive_update,
        "m.signing_key_update": encryption.remote_devices.receive_signing_keys,
    }
    if presence is not None:
        present = PresenceReceiver(presence, core.database, core.partial, core.background)
        core.log.follow(present.on_rows)
        receivers["m.presence"] = present.receive
    return receivers
