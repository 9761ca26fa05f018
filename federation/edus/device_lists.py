"""m.device_list_update and m.signing_key_update: our users' devices and keys, to the servers that share a room with them.

A stream id is the position of a user's newest change in the log. An update names the one before it, so that a server
which missed one sees that and asks for the whole list; after an outage, therefore, a user's newest update is enough. That
of signing keys alone names none, and so does not stand for the user's devices: it is kept beside their newest update. A
server that comes to share a room with a user by the user's join gets an update which names none before it.

Spec: server-server-api#device-management
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from attrs import define, field, frozen

from federation.outbound.items import EVENT, Item
from homeserver.e2ee.queries import KeyQueries, QueriedKeys
from homeserver.e2ee.uploads import DEVICE_LIST
from homeserver.folds.events import EventCache
from homeserver.folds.memberships import Memberships
from homeserver.folds.room_servers import RemoteMembers, RoomServers
from homeserver.matrix.ids import DeviceId, EventId, RoomId, ServerName, UserId, domain_of
from homeserver.runtime.db import Database
from homeserver.store.device_lists import load_list_positions
from homeserver.store.log import LogRow
from homeserver.store.outbound import load_log_rows

DEVICE: Final = "device"
USER: Final = "user"
MAX_DEVICES: Final = 3  # told of one by one; of more, one update that makes the server ask for all
_SIGNING: Final = ("master", "self_signing")
_KEYS_OF: Final = "signing keys of "


@define(eq=False)
class DeviceListSource:
    server_name: ServerName
    database: Database
    events: EventCache
    memberships: Memberships
    servers: RoomServers
    queries: KeyQueries
    kind: str = DEVICE_LIST
    log_kinds: Sequence[str] = (DEVICE_LIST, DEVICE, USER, EVENT)
    most_edus: int = MAX_DEVICES + 1
    newest_first: bool = True
    _loaded: tuple[int, set[ServerName]] = field(
        default=(0, set()), init=False
    )  # what load_missing found, of which row

    def get_addressed(self, row: LogRow) -> tuple[Item, Sequence[ServerName]] | None:
        user_id = _user_of(row)
        item = Item(row.position, DEVICE_LIST, _item_key(row, user_id), edus=self.most_edus)
        if user_id is None or domain_of(user_id) != self.server_name:
            return item, ()
        position, servers = self._loaded
        if position != row.position:
            known = self._get_introduced(row, user_id) if row.kind == EVENT else self._get_servers(user_id)
            if known is None:
                return None
            servers = known
        return item, list(servers)

    async def load_missing(self, row: LogRow) -> None:
        """Works it out from what is loaded, which may be more than memory keeps."""
        user_id = UserId(_user_of(row) or row.key)
        if row.kind == EVENT and await self._load_was_joined(row, user_id):
            self._loaded = row.position, set()
            return
        rooms = await self.memberships.load(user_id)
        joined = {room_id for room_id, known in rooms.items() if known.membership == "join" and room_id != row.key}
        servers = _union((await self.servers.load_many(joined)).values())
        if row.kind == EVENT:
            servers = set((await self.servers.load(RoomId(row.key))).servers) - servers
        self._loaded = row.position, servers

    def _get_servers(self, user_id: UserId, but_for: str = "") -> set[ServerName] | None:
        """The servers that the user shares a room with; None when memory lacks them."""
        rooms = self.memberships.get(user_id)
        if rooms is None:
            return None
        found: list[RemoteMembers] = []
        for room_id, membership in rooms.items():
            if membership.membership == "join" and room_id != but_for:
                members = self.servers.get(room_id)
                if members is None:
                    return None
                found.append(members)
        return _union(found)

    def _get_introduced(self, row: LogRow, user_id: UserId) -> set[ServerName] | None:
        """Those in the room that the user joins with whom the user shared none."""
        here = self.servers.get(RoomId(row.key))
        if here is not None and not here.servers:
            return set()
        before_id = _membership_before(row, user_id)
        if before_id is not None:
            before = self.events.get(before_id)
            if before is None:
                return None
            if before.pdu.membership == "join":
                return set()
        elsewhere = self._get_servers(user_id, but_for=row.key)
        return None if here is None or elsewhere is None else set(here.servers) - elsewhere

    async def _load_was_joined(self, row: LogRow, user_id: UserId) -> bool:
        before_id = _membership_before(row, user_id)
        version = row.event.pdu.version if row.event is not None else None
        if before_id is None or version is None:
            return False
        before = await self.events.load(before_id, RoomId(row.key), version)
        return before is not None and before.pdu.membership == "join"

    # -- bodies ------------------------------------------------------------------------------------------------------

    async def load_bodies(self, items: Sequence[Item]) -> Sequence[dict[str, Any]]:
        rows = await self.database.read(load_log_rows, [item.position for item in items])
        found = [(_user_of_item(item), rows[item.position]) for item in items if item.position in rows]
        introduced = {user_id for user_id, row in found if row.kind == EVENT}
        wanted: dict[UserId, list[DeviceId]] = {}
        for user_id, row in found:
            wanted.setdefault(user_id, []).extend(_device_ids(row))
        wanted.update((user_id, []) for user_id in introduced)  # that is: all
        keys = await self.queries.load_local(wanted)
        positions = await self.database.read(load_list_positions, introduced) if introduced else {}
        return [
            edu
            for user_id, row in found
            for edu in (
                _introductions(user_id, positions.get(user_id, row.position), keys)
                if row.kind == EVENT
                else _updates(row, keys)
            )
        ]


def _user_of(row: LogRow) -> UserId | None:
    """Whose devices, as others see them, the row changed; or who joined a room."""
    if row.kind == EVENT:
        change = row.membership
        return change.user_id if change is not None and change.membership == "join" else None
    is_seen = bool(row.data.get("device_ids") or row.data.get("signing_keys"))
    if row.kind == DEVICE:
        is_seen = is_seen and bool(row.data.get("deleted") or row.data.get("renamed"))
    elif row.kind == USER:
        is_seen = is_seen and row.data.get("change") == "deactivated"
    return UserId(row.key) if is_seen else None


def _item_key(row: LogRow, user_id: UserId | None) -> str:
    if user_id is None:
        return row.key
    return user_id if row.kind == EVENT or row.data.get("device_ids") else f"{_KEYS_OF}{user_id}"


def _user_of_item(item: Item) -> UserId:
    return UserId(item.key.removeprefix(_KEYS_OF))


def _membership_before(row: LogRow, user_id: UserId) -> EventId | None:
    return next((delta.prev_event_id for delta in row.deltas if delta.key == ("m.room.member", user_id)), None)


def _union(rooms: Iterable[RemoteMembers]) -> set[ServerName]:
    return {server for members in rooms for server in members.servers}


def _device_ids(row: LogRow) -> list[DeviceId]:
    return [DeviceId(device_id) for device_id in row.data.get("device_ids", ())]


def _updates(row: LogRow, keys: QueriedKeys) -> list[dict[str, Any]]:
    user_id = UserId(row.key)
    devices = keys.device_keys.get(user_id, {})
    device_ids = _device_ids(row)
    previous = row.data.get("prev") if len(device_ids) <= MAX_DEVICES else None
    step = _Step(user_id, row.position, previous)
    edus = [_update(step, device_id, devices.get(device_id)) for device_id in device_ids[:MAX_DEVICES]]
    if row.data.get("signing_keys"):
        signing = {
            f"{usage}_key": key
            for usage in _SIGNING
            if (key := keys.cross_signing.get(usage, {}).get(user_id)) is not None
        }
        edus.append({"edu_type": "m.signing_key_update", "content": {"user_id": user_id, **signing}})
    return edus


def _introductions(user_id: UserId, stream_id: int, keys: QueriedKeys) -> list[dict[str, Any]]:
    devices = keys.device_keys.get(user_id, {})
    step = _Step(user_id, stream_id, None)
    return [_update(step, device_id, device) for device_id, device in islice(devices.items(), MAX_DEVICES)]


@frozen
class _Step:
    """Of a user's list of devices: from the stream id before, None where it begins, to the next."""

    user_id: UserId
    stream_id: int
    before: int | None


def _update(step: _Step, device_id: DeviceId, keys: Mapping[str, Any] | None) -> dict[str, Any]:
    """keys: None where there is no such device any more."""
    content: dict[str, Any] = {
        "user_id": step.user_id,
        "device_id": device_id,
        "stream_id": step.stream_id,
        "prev_id": [step.before] if step.before is not None else [],
    }
    if keys is None:
        content["deleted"] = True
    else:
        name = keys.get("unsigned", {}).get("device_display_name")
        if name is not None:
            content["device_display_name"] = name
        content["keys"] = {field: value for field, value in keys.items() if field != "unsigned"}
    return {"edu_type": "m.device_list_update", "content": content}
