"""What a sliding sync response tells beside rooms: messages to the device, encryption, account data, receipts, typing.

Spec: MSC3885, MSC3884, MSC3959, MSC3960, MSC3961
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import orjson
from attrs import define

from homeserver.accounts.account_data import ACCOUNT_DATA, PUSH_RULES, kind_changed_by
from homeserver.folds.memberships import UserRooms
from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.ids import RoomId
from homeserver.store.account_data import AccountDataRow, load_account_data_between
from homeserver.store.sync import Receipt
from homeserver.sync.encoding import encode_account_data, encode_typing
from homeserver.sync.encryption import SIGNED_CURVE25519, EncryptionExtension
from homeserver.sync.segments import receipts_of, visible_receipts
from homeserver.sync.service import PUSH_RULES_TYPE
from homeserver.sync.sliding.beginnings import Beginning
from homeserver.sync.sliding.connections import ConnectionState, SentRoom
from homeserver.sync.sliding.lists import Windows
from homeserver.sync.sliding.request import STICKY_EVENTS, THREAD_SUBSCRIPTIONS, Extension, SlidingRequest
from homeserver.sync.sliding.rooms import RoomPart
from homeserver.sync.sliding.sticky_events import tell_sticky_events
from homeserver.sync.sliding.thread_subscriptions import tell_thread_subscriptions
from homeserver.sync.tokens import SyncToken
from homeserver.sync.view import Lookup, View

MAX_TO_DEVICE = 100
_ALL = "*"
_OF_ROOMS = ("account_data", "receipts", "typing")
_NO_PARTS: Mapping[RoomId, RoomPart] = {}
# Of a room of which the client has events already, at most so many receipts of others are told at once.
MAX_RECEIPTS_LATER = 500
_KINDS = frozenset({ACCOUNT_DATA, PUSH_RULES})


@define
class Told:
    """The `extensions` of a response, and whether anything in it is news."""

    json: dict[str, Any]
    is_news: bool


@define(eq=False)
class SlidingExtensions:
    encryption: EncryptionExtension

    async def acknowledge(self, request: SlidingRequest) -> None:
        """Delete the messages that the request's `since` stands behind. Raises: InvalidParam."""
        since = _to_device_since(request)
        if since:
            await self.encryption.to_device.acknowledge(request.user_id, request.device_id, since)

    def tell(
        self,
        view: View,
        request: SlidingRequest,
        state: ConnectionState | None,
        rooms: UserRooms,
        windows: Windows,
        parts: Mapping[RoomId, RoomPart],
        ignored: frozenset[str],
    ) -> Told | None:
        """None where the view notes needs."""
        found: dict[str, Any] = {}
        news = False

        def told(name: str) -> int | None:
            return state.told_upto(name) if state is not None else None

        def joined(name: str) -> dict[RoomId, SentRoom | None]:
            room_ids = _joined_rooms(request.extension(name), windows, rooms)
            return _sent_rooms(name, room_ids, state, parts)

        steps: tuple[tuple[str, Callable[[], tuple[Any, bool]]], ...] = (
            ("to_device", lambda: self._to_device(view, request, is_begin=told("to_device") is None)),
            ("e2ee", lambda: self._e2ee(view, request, state, rooms)),
            ("account_data", lambda: _account_data(view, request, state, windows)),
            ("receipts", lambda: _receipts(view, joined("receipts"), parts, ignored)),
            ("typing", lambda: _typing(view, joined("typing"), state, ignored)),
            (STICKY_EVENTS, lambda: tell_sticky_events(view, request, state, rooms, windows.matched, parts, ignored)),
            *(
                (name, partial(tell_thread_subscriptions, view, request.extension(name), told(name) or 0))
                for name in THREAD_SUBSCRIPTIONS
            ),
        )
        for name, step in steps:
            if request.extension(name).enabled:
                value, is_news = step()
                if value is not None:
                    found[name] = value
                news = news or is_news
        return Told(found, news) if view.is_complete else None

    def _to_device(self, view: View, request: SlidingRequest, *, is_begin: bool) -> tuple[Any, bool]:
        limit = max(1, min(request.extension("to_device").limit, MAX_TO_DEVICE))
        messages = self.encryption.get_messages(view, request.device_id, _to_device_since(request), limit)
        upto = messages[-1][0] if len(messages) == limit else view.now
        events = [orjson.Fragment(json) for _, json in messages]
        if not events and not is_begin:
            return None, False
        return {"next_batch": str(upto), "events": events}, bool(events)

    def _e2ee(
        self, view: View, request: SlidingRequest, state: ConnectionState | None, rooms: UserRooms
    ) -> tuple[Any, bool]:
        counts = self.encryption.counts.get(view, request.device_id)
        told_upto = state.told_upto("e2ee") if state is not None else None
        since = SyncToken(told_upto, state.ephemeral) if state is not None and told_upto is not None else None
        changes = self.encryption.device_lists.get_changes(view, rooms, since.position) if since is not None else None
        if counts is None or not view.is_complete:
            return None, False
        found: dict[str, Any] = {
            "device_one_time_keys_count": {SIGNED_CURVE25519: 0, **counts.one_time},
            "device_unused_fallback_key_types": list(counts.unused_fallback),
        }
        news = self.encryption.is_count_news(view, request.device_id, since)
        news = news or (since is not None and self.encryption.sessions.newest(view.user_id) > since.position)
        if changes is not None and (changes.changed or changes.left):
            found["device_lists"] = {"changed": sorted(changes.changed), "left": sorted(changes.left)}
            news = True
        return found, news


def _to_device_since(request: SlidingRequest) -> int:
    since = request.extension("to_device").since
    if since is None or not request.extension("to_device").enabled:
        return 0
    if not since.isascii() or not since.isdigit() or len(since) > 18:
        raise InvalidParam("extensions.to_device.since", "not a token of this server")
    return int(since)


def _wanted_rooms(extension: Extension, windows: Windows) -> Iterable[RoomId]:
    """The rooms of the response's windows that the extension is asked about."""
    for room_id in windows.configs:
        lists = windows.lists.get(room_id, ())
        by_list = bool(lists) and (
            extension.lists is None or _ALL in extension.lists or any(x in extension.lists for x in lists)
        )
        is_named = extension.rooms is None or _ALL in extension.rooms or room_id in extension.rooms
        if by_list or (room_id in windows.subscribed and is_named):
            yield room_id


def extensions_of_all(request: SlidingRequest) -> frozenset[str]:
    """Those by which the response tells of each of its rooms."""
    return _named(*(name for name in _OF_ROOMS if request.extension(name).enabled and not _is_picky(request, name)))


def extensions_of_some(request: SlidingRequest, windows: Windows) -> Mapping[RoomId, frozenset[str]]:
    """By which extensions the response tells of each room, where it does not do so by the same for all of them."""
    picky = [name for name in _OF_ROOMS if request.extension(name).enabled and _is_picky(request, name)]
    if not picky:
        return {}
    rooms = {name: set(_wanted_rooms(request.extension(name), windows)) for name in picky}
    common = extensions_of_all(request)
    return {
        room_id: _named(*common, *(name for name in picky if room_id in rooms[name])) for room_id in windows.configs
    }


def _is_picky(request: SlidingRequest, name: str) -> bool:
    extension = request.extension(name)
    return extension.lists is not None or extension.rooms is not None


@cache
def _named(*names: str) -> frozenset[str]:
    """PERF: one for all rooms of all connections."""
    return frozenset(names)


def _joined_rooms(extension: Extension, windows: Windows, rooms: UserRooms) -> list[RoomId]:
    """Those of them in which the user is: what others do in the rest is not for them."""
    return [room_id for room_id in _wanted_rooms(extension, windows) if rooms[room_id].membership == "join"]


def _sent_rooms(
    name: str,
    room_ids: Iterable[RoomId],
    state: ConnectionState | None,
    parts: Mapping[RoomId, RoomPart] = _NO_PARTS,
) -> dict[RoomId, SentRoom | None]:
    """What the client has of the rooms by the extension. None where the response begins a room (anew), or where the extension
    told nothing of it the last time: it was off then, or about other rooms.
    """
    if state is None:
        return dict.fromkeys(room_ids)
    found: dict[RoomId, SentRoom | None] = {}
    for room_id in room_ids:
        sent, part = state.rooms.get(room_id), parts.get(room_id)
        is_begun = sent is None or name not in sent.extensions or (part is not None and part.is_initial)
        found[room_id] = None if is_begun else sent
    return found


def _load_account_data(view: View, after: int) -> Sequence[AccountDataRow] | None:
    if after == 0:
        return view.get_account_data(0)
    user_id, database = view.user_id, view.sources.database

    async def load() -> Sequence[AccountDataRow]:
        return await database.read(load_account_data_between, user_id, after, 2**62)

    rows: Sequence[AccountDataRow] | None = view.get_value(Lookup("account_data", user_id, (after,), load))
    return rows


def _account_data(
    view: View, request: SlidingRequest, state: ConnectionState | None, windows: Windows
) -> tuple[Any, bool]:
    """What changed since the last response; of each room, since the last one in whose windows it was. What there was while the
    extension was off is told when it is on.
    """
    after = (state.told_upto("account_data") or 0) if state is not None else 0
    wanted = _wanted_rooms(request.extension("account_data"), windows)
    has = _sent_rooms("account_data", wanted, state)
    told_upto = {room_id: sent.position if sent is not None else 0 for room_id, sent in has.items()}
    kinds = _changed_kinds(view, after)
    is_changed = ACCOUNT_DATA in kinds or ACCOUNT_DATA in _changed_kinds(view, min(told_upto.values(), default=after))
    # All that there is was loaded for the rooms already.
    rows = _load_account_data(view, 0 if told_upto else after) if is_changed else ()
    rules = view.get_push_rules() if PUSH_RULES in kinds else None
    found: list[orjson.Fragment] = []
    rooms: dict[str, list[orjson.Fragment]] = {}
    for row in rows or ():
        if not row.room_id and row.type != PUSH_RULES_TYPE and row.position > after and (after or not row.is_removed):
            found.append(_fragment(row))
        elif row.room_id in told_upto and row.position > told_upto[RoomId(row.room_id)]:
            rooms.setdefault(row.room_id, []).append(_fragment(row))
    if rules is not None:
        found.append(orjson.Fragment(encode_account_data(PUSH_RULES_TYPE, rules)))
    return ({"global": found, "rooms": rooms}, True) if found or rooms else (None, False)


def _changed_kinds(view: View, after: int) -> Collection[str | None]:
    """Which of the user's data may have changed behind a position."""
    recent = view.sources.recent
    if after == 0 or after < recent.floor:
        return _KINDS
    return {kind_changed_by(row) for row in recent.rows_after(view.user_id, after)}


def _fragment(row: AccountDataRow) -> orjson.Fragment:
    return orjson.Fragment(encode_account_data(row.type, row.content))


def _receipts(
    view: View,
    rooms: Mapping[RoomId, SentRoom | None],
    parts: Mapping[RoomId, RoomPart],
    ignored: frozenset[str],
) -> tuple[Any, bool]:
    """Of rooms that are new, those of the reader and those at events of the timeline; of others, the new ones."""
    found: dict[str, orjson.Fragment] = {}
    for room_id, sent in rooms.items():
        part = parts.get(room_id)
        if sent is None and part is not None and part.beginning is not None:
            encoded = _begun_receipts(view, room_id, part.beginning, ignored)
        else:
            receipts = _room_receipts(view, room_id, sent, part)
            encoded = visible_receipts(receipts, view.user_id, ignored) if receipts else None
        if encoded:
            found[room_id] = orjson.Fragment(encoded)
    return ({"rooms": found}, True) if found else (None, False)


def _begun_receipts(view: View, room_id: RoomId, beginning: Beginning, ignored: frozenset[str]) -> bytes | None:
    """None where the view notes a need."""
    if beginning.receipts is None:
        receipts = view.get_receipts(room_id, 0)
        if receipts is None:
            return None
        shown = {event.event_id for event in beginning.events}
        told = [receipt for receipt in receipts if receipt.user_id == view.user_id or receipt.event_id in shown]
        encoded = visible_receipts(told, view.user_id, ignored) or b""
        beginning.keep_receipts(encoded)
        return encoded
    return beginning.receipts


def _room_receipts(
    view: View, room_id: RoomId, sent: SentRoom | None, part: RoomPart | None
) -> Sequence[Receipt] | None:
    recent = view.sources.recent
    if sent is not None and sent.position >= recent.floor:
        return receipts_of(recent.rows_after(room_id, sent.position))
    receipts = view.get_receipts(room_id, sent.position if sent is not None else 0)
    if receipts is None or sent is not None:
        return receipts
    own = [receipt for receipt in receipts if receipt.user_id == view.user_id]
    if part is None:
        return own
    # Only the extension begins.
    return [*sorted(receipts, key=lambda receipt: -receipt.ts_ms)[:MAX_RECEIPTS_LATER], *own]


def _typing(
    view: View,
    rooms: Mapping[RoomId, SentRoom | None],
    state: ConnectionState | None,
    ignored: frozenset[str],
) -> tuple[Any, bool]:
    """Who types where that changed since the client was told of the room; of rooms that are new, where anybody does, and where
    the client may have been told otherwise.
    """
    found: dict[str, orjson.Fragment] = {}
    for room_id, sent in rooms.items():
        serial, typing = view.sources.typing.typing(room_id)
        users = [user for user in typing if user not in ignored]
        is_known = state is not None and room_id in state.rooms
        if users or (is_known and serial) if sent is None else serial > sent.ephemeral:
            found[room_id] = orjson.Fragment(encode_typing(users))
    return ({"rooms": found}, True) if found else (None, False)
