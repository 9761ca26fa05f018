"""Events as clients get them, spliced from bytes.

An event's client JSON is encoded once and kept with the event; what differs by time and reader (`unsigned`) is put behind
it as bytes. So an event that goes to a thousand clients costs one encoding and a thousand concatenations.

Spec: client-server-api#room-event-format
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import orjson
from attrs import frozen

from homeserver.folds.events import EventCache
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.format import client_event_json, federation_event, splice_unsigned
from homeserver.matrix.ids import DeviceId, EventId, RoomId, UserId
from homeserver.matrix.sticky import names_sticky, sticky_until_ms
from homeserver.matrix.versions import RoomVersion
from homeserver.store.events import StoredEvent


@frozen
class Reader:
    """For whom an event is written: the transaction id is only for the device that sent it, a delay id for its user."""

    user_id: UserId
    device_id: DeviceId | None


# Events that `unsigned` quotes: replaced state and redactions.
Related = Mapping[EventId, StoredEvent]
NO_RELATED: Related = {}


def base_json(event: StoredEvent) -> bytes:
    """The event's client JSON without room_id and unsigned."""
    encoded = event.client_json
    if encoded is None:
        encoded = event.client_json = client_event_json(event.pdu, with_room_id=False)
    return encoded


def encode(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    *,
    membership: str | None = None,
    related: Related = NO_RELATED,
    with_room_id: bool = False,
    bundle: bytes | None = None,
) -> bytes:
    """One event for a reader. membership: what the reader was to the room after the event; None where that is not known.

    bundle: what relates to the event, as JSON (rooms/relations.py).

    Spec: client-server-api#definition-clientevent
    """
    room = b',"room_id":%b' % orjson.dumps(event.pdu.room_id) if with_room_id else b""
    unsigned = _unsigned(event, reader, now_ms, membership, related, with_room_id, bundle)
    return b'%b%b,"unsigned":%b}' % (base_json(event)[:-1], room, unsigned)


class Written(NamedTuple):
    """An event for a reader, all but its age, which changes all the time."""

    base: bytes
    sent_ts_ms: int
    behind_age: bytes


def encode_written(events: Iterable[Written], now_ms: int) -> list[bytes]:
    """As `encode` has them, at that time."""
    return [
        b'%b,"unsigned":{"age":%d%b}' % (base[:-1], max(0, now_ms - sent_ts_ms), behind_age)
        for base, sent_ts_ms, behind_age in events
    ]


@frozen
class WrittenList:
    """A JSON list of events for a reader, all but their ages: in the template there is a %d for each.

    PERF(a tenth of the CPU of a connection's first response): the ages of a list are put in together.
    """

    template: bytes
    sent_ts_ms: Sequence[int]

    @classmethod
    def of(cls, events: Sequence[Written]) -> WrittenList:
        parts = [
            b'%b,"unsigned":{"age":%%d%b}' % (base[:-1].replace(b"%", b"%%"), behind_age.replace(b"%", b"%%"))
            for base, _, behind_age in events
        ]
        return cls(b"[%b]" % b",".join(parts), [event.sent_ts_ms for event in events])

    def encode(self, now_ms: int) -> bytes:
        """The list of what `encode` has, at that time."""
        ages = [now_ms - sent_ts_ms if sent_ts_ms < now_ms else 0 for sent_ts_ms in self.sent_ts_ms]
        return self.template % tuple(ages)


def write(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    *,
    membership: str | None = None,
    related: Related = NO_RELATED,
    bundle: bytes | None = None,
) -> Written:
    """The event as `encode` has it, to be encoded more than once; one with a sticky key only now, as that has a time, too."""
    behind = _behind_age(event, reader, now_ms, membership, related, False, bundle)
    return Written(base_json(event), event.pdu.origin_server_ts, behind)


def encode_for_federation_format(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    *,
    membership: str | None = None,
    related: Related = NO_RELATED,
    bundle: bytes | None = None,
) -> bytes:
    """As `encode`, for a reader whose filter asks for event_format "federation": only the event itself has another form, what
    `unsigned` quotes is in that of clients.

    Spec: client-server-api#filtering
    """
    unsigned = _unsigned(event, reader, now_ms, membership, related, True, bundle)
    return splice_unsigned(encode_json(federation_event(event.pdu)), unsigned)


def _unsigned(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    membership: str | None,
    related: Related,
    with_room_id: bool,
    bundle: bytes | None,
) -> bytes:
    """Spec: client-server-api#definition-clientevent_unsigneddata"""
    age = max(0, now_ms - event.pdu.origin_server_ts)
    return b'{"age":%d%b' % (age, _behind_age(event, reader, now_ms, membership, related, with_room_id, bundle))


def _behind_age(
    event: StoredEvent,
    reader: Reader | None,
    now_ms: int,
    membership: str | None,
    related: Related,
    with_room_id: bool,
    bundle: bytes | None,
) -> bytes:
    """The rest of `unsigned`, with the brace that ends it."""
    pdu = event.pdu
    return b"%b%b%b}" % (
        _by_reader(event, reader, membership, related, with_room_id),
        _sticky(event, now_ms) if names_sticky(pdu) else b"",
        b"" if bundle is None else b',"m.relations":%b' % bundle,
    )


def _by_reader(
    event: StoredEvent, reader: Reader | None, membership: str | None, related: Related, with_room_id: bool
) -> bytes:
    """What stands in `unsigned` behind the age, each key with its comma before it."""
    parts = b"" if membership is None else _MEMBERSHIPS.get(membership, b"")
    if event.txn_id is not None and is_sender(event, reader):
        parts += _transaction(event.txn_id, is_delay_id=event.txn_device_id is None)
    if event.replaces is not None:
        parts += b',"replaces_state":%b' % orjson.dumps(event.replaces)
        replaced = related.get(event.replaces)
        if replaced is not None:
            parts += b',"prev_content":%b,"prev_sender":%b' % (
                encode_json(replaced.pdu.content),
                orjson.dumps(replaced.pdu.sender),
            )
    if event.redacted_by is not None:
        redaction = related.get(event.redacted_by)
        if redaction is not None:
            parts += b',"redacted_because":%b' % client_event_json(redaction.pdu, with_room_id=with_room_id)
    return parts


def _transaction(txn_id: str, *, is_delay_id: bool) -> bytes:
    encoded = orjson.dumps(txn_id)
    if is_delay_id:
        return b',"delay_id":%b,"org.matrix.msc4140.delay_id":%b' % (encoded, encoded)
    return b',"transaction_id":%b' % encoded


def _sticky(event: StoredEvent, now_ms: int) -> bytes:
    """For how long the event remains sticky. Of one whose origin's clock is ahead that is not known in all places."""
    until_ms = event.sticky_until_ms
    if until_ms is None and event.pdu.origin_server_ts <= now_ms:
        until_ms = sticky_until_ms(event.pdu, now_ms)
    return b',"msc4354_sticky_duration_ttl_ms":%d' % (until_ms - now_ms) if until_ms and until_ms > now_ms else b""


_MEMBERSHIPS = {
    membership: b',"membership":"%b"' % membership.encode()
    for membership in ("join", "leave", "invite", "ban", "knock")
}


def is_sender(event: StoredEvent, reader: Reader | None) -> bool:
    """The reader is the device that sent the event; any device of its sender, if the event was sent later (MSC4140)."""
    return (
        reader is not None
        and event.pdu.sender == reader.user_id
        and (event.txn_device_id is None or event.txn_device_id == (reader.device_id or ""))
    )


def related_ids(events: Collection[StoredEvent]) -> dict[EventId, RoomId]:
    """The events that those events' `unsigned` quotes, each with its room."""
    wanted = {}
    for event in events:
        if event.replaces is not None:
            wanted[event.replaces] = event.pdu.room_id
        if event.redacted_by is not None:
            wanted[event.redacted_by] = event.pdu.room_id
    return wanted


async def load_related(
    cache: EventCache, events: Collection[StoredEvent], versions: dict[RoomId, RoomVersion]
) -> Related:
    """What `encode` needs to quote, in one read at most."""
    wanted = related_ids(events)
    return await cache.load_many(wanted, versions) if wanted else NO_RELATED
