"""Events, state and receipts as the bytes that responses are spliced from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson

from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.filters import Filter
from homeserver.matrix.format import stripped_state
from homeserver.matrix.ids import UserId
from homeserver.rooms.client_events import Reader, Related, encode, encode_for_federation_format
from homeserver.rooms.unread import Counts
from homeserver.store.events import StoredEvent
from homeserver.store.sync import Receipt

EMPTY_LIST = b'{"events":[]}'


def events_json(events: Iterable[bytes]) -> bytes:
    return b'{"events":[%b]}' % b",".join(events)


def encode_event(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    filter: Filter,
    *,
    membership: str | None,
    related: Related,
    bundle: bytes | None = None,
) -> bytes:
    """The event in the form that the filter asks for."""
    to_json = encode_for_federation_format if filter.event_format == "federation" else encode
    encoded = to_json(event, reader, now_ms, membership=membership, related=related, bundle=bundle)
    if filter.event_fields is not None:
        encoded = encode_json(filter.prune(decode_json(encoded)))
    return encoded


def encode_stripped(events: Sequence[StoredEvent]) -> bytes:
    """Spec: client-server-api#stripped-state"""
    return events_json(encode_json(stripped_state(event.pdu)) for event in events)


def encode_receipts(receipts: Iterable[Receipt]) -> bytes | None:
    """One m.receipt event; None for no receipts. Of two receipts of a user for one event it has room for one: the unthreaded
    one, which says more (MSC4102).

    Spec: client-server-api#mreceipt
    """
    content: dict[str, dict[str, dict[str, dict[str, object]]]] = {}
    for receipt in receipts:
        entry: dict[str, object] = {"ts": receipt.ts_ms}
        if receipt.thread_id:
            entry["thread_id"] = receipt.thread_id
        of_type = content.setdefault(receipt.event_id, {}).setdefault(receipt.receipt_type, {})
        known = of_type.get(receipt.user_id)
        if known is None or "thread_id" in known:
            of_type[receipt.user_id] = entry
    return orjson.dumps({"type": "m.receipt", "content": content}) if content else None


def encode_typing(users: Iterable[UserId]) -> bytes:
    """Spec: client-server-api#mtyping"""
    return orjson.dumps({"type": "m.typing", "content": {"user_ids": sorted(users)}})


def encode_counts(counts: Counts, *, by_thread: bool) -> bytes:
    """The unread counts of a room, as the members that follow others in its object.

    Spec: client-server-api#receiving-notifications
    """
    if not by_thread:
        return b',"unread_notifications":%b' % _count(*counts.total)
    main = b',"unread_notifications":%b' % _count(counts.notifications, counts.highlights)
    if not counts.threads:
        return main
    threads = [b"%b:%b" % (orjson.dumps(root), _count(*pair)) for root, pair in counts.threads.items()]
    return b'%b,"unread_thread_notifications":{%b}' % (main, b",".join(threads))


def _count(notifications: int, highlights: int) -> bytes:
    return b'{"highlight_count":%d,"notification_count":%d}' % (highlights, notifications)


def encode_account_data(type_: str, content: bytes) -> bytes:
    return b'{"type":%b,"content":%b}' % (orjson.dumps(type_), content)


MembershipAt = Callable[[StoredEvent], str | None]


def joined_at(_event: StoredEvent) -> str:
    """For a reader who was joined at all of the events."""
    return "join"


def rooms_json(sections: Mapping[bytes, Mapping[str, bytes]]) -> bytes | None:
    """The `rooms` object; None if there is nothing in it."""
    parts = [
        b'"%b":{%b}' % (name, b",".join(b"%b:%b" % (orjson.dumps(room_id), room) for room_id, room in rooms.items()))
        for name, rooms in sections.items()
        if rooms
    ]
    return b"{%b}" % b",".join(parts) if parts else None
