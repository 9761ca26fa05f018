"""What a response says of one room's timeline and state, encoded; shared among the clients to whom it says
the same.

A message wakes everybody in the room, and nearly all of them get the same bytes: they were joined all the
time, ignore none of the senders, and have filters that differ in nothing that matters to one room. What
differs by reader (the transaction id of one's own events, members that are sent lazily, counts) is added
afterwards.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial

from attrs import frozen

from homeserver.folds.histories import UserHistory
from homeserver.matrix.filters import Filter, RoomEventFilter
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.client_events import Reader, Related, is_sender
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.sync import PRIVATE_RECEIPT, Receipt
from homeserver.sync.encoding import MembershipAt, encode_event, encode_receipts, joined_at
from homeserver.sync.request import MAX_TIMELINE_LIMIT, StateKind, SyncRequest
from homeserver.sync.summary import ALIAS, NAME, redacted_keys
from homeserver.sync.view import RoomLog, View
from homeserver.sync.window import Changes, Window, pick_window

MAX_SEGMENTS = 2000
# How many events are looked through when a filter leaves out some.
SCANNED_EVENTS = 300

NOBODY = UserId("")
_NO_BUNDLES: Mapping[EventId, bytes] = {}

SegmentKey = tuple[RoomId, int, int, str, bool, bool]


@frozen(eq=False)
class Segment:
    """`encoded` are the window's events for a reader who sent none of them. deltas: the keys of the state that changed since
    the client was told of the room, without regard to the state filter; empty where it never was. summary_changed: it is to be
    told anew.
    """

    window: Window
    encoded: Sequence[bytes]
    timeline: bytes
    senders: frozenset[str]
    has_transactions: bool
    related: Related
    bundles: Mapping[EventId, bytes]
    deltas: Changes
    summary_changed: bool
    receipts: Sequence[Receipt] = ()
    public_receipts: bytes | None = None
    has_private_receipts: bool = False


class Segments:
    """The latest shared segments."""

    def __init__(self, max_segments: int = MAX_SEGMENTS) -> None:
        self._max = max_segments
        self._segments: OrderedDict[SegmentKey, Segment] = OrderedDict()

    def get(self, key: SegmentKey) -> Segment | None:
        return self._segments.get(key)

    def put(self, key: SegmentKey, segment: Segment) -> None:
        self._segments[key] = segment
        if len(self._segments) > self._max:
            self._segments.popitem(last=False)


def segment_key(room_id: RoomId, rows: Sequence[LogRow], request: SyncRequest) -> SegmentKey:
    """The same rows, seen through filters that mean the same for one room, make the same segment."""
    is_after = request.state_kind is not StateKind.BEFORE
    has_timeline = request.filter.room.timeline.rooms.matches(room_id)
    return room_id, rows[0].position, rows[-1].position, request.filter.sync_key, is_after, has_timeline


def wanted_events(request: SyncRequest) -> int:
    """How many events have to be at hand to fill a timeline and to know whether there are more."""
    if request.filter.room.timeline.matches_all_in_room:
        return request.timeline_limit + 1
    return max(SCANNED_EVENTS, MAX_TIMELINE_LIMIT + 1)


def build_segment(
    view: View,
    head: RoomHead,
    log: RoomLog,
    request: SyncRequest,
    *,
    after: int,
    upto: int,
    limited: bool | None = None,
    receipts: Sequence[Receipt] = (),
    sees: Callable[[StoredEvent], bool] | None = None,
    history: UserHistory | None = None,
    membership_at: MembershipAt = joined_at,
    with_bundles: bool = False,
) -> Segment | None:
    """None while something has to be loaded. limited: say so whatever the window says.

    sees: whether the reader may have an event; None for one who may have all. history: the reader's, if they were not in the
    room at all of the events. with_bundles: the reader may have missed relations of the events, although there is no gap.

    Spec: client-server-api#aggregations-of-child-events
    """
    matches = _matcher(request.filter.room.timeline, head.room_id, sees)
    window = pick_window(log, head.state, after=after, upto=upto, limit=request.timeline_limit, matches=matches)
    missing = view.missing_events
    related = view.get_related(window.events, head, history)
    if view.missing_events != missing:
        return None
    bundles = view.get_bundles(window.events, head, log.rows) if with_bundles or window.limited else _NO_BUNDLES
    if bundles is None:
        return None
    view.sources.sticky.note_until(window.events)
    encoded = []
    for event in window.events:
        membership = membership_at(event)
        shown = view.sources.erased.shown(event, membership)
        bundle = bundles.get(event.event_id)
        encoded.append(
            encode_event(
                shown, None, view.now_ms, request.filter, membership=membership, related=related, bundle=bundle
            )
        )
    deltas = window.final if request.state_kind is not StateKind.BEFORE else {**window.changes, **window.untold}
    if after == 0:
        deltas = {}
    is_limited = window.limited if limited is None else limited
    return Segment(
        window,
        encoded,
        timeline_json(encoded, is_limited, window.prev_batch),
        frozenset(event.pdu.sender for event in window.events),
        any(event.txn_id is not None for event in window.events),
        related,
        bundles,
        deltas,
        any(_concerns_summary(key) for key in window.final)
        or (after > 0 and bool(redacted_keys(log.rows, after, head))),
        receipts,
        visible_receipts(receipts, NOBODY),
        any(receipt.receipt_type == PRIVATE_RECEIPT for receipt in receipts),
    )


def timeline_json(encoded: Sequence[bytes], limited: bool, prev_batch: int) -> bytes:
    return b'{"events":[%b],"limited":%b,"prev_batch":"t%d"}' % (
        b",".join(encoded),
        b"true" if limited else b"false",
        prev_batch,
    )


def _concerns_summary(key: StateKey) -> bool:
    return key[0] == MEMBER or key in (NAME, ALIAS)


def _matcher(
    filter: RoomEventFilter, room_id: RoomId, sees: Callable[[StoredEvent], bool] | None
) -> Callable[[StoredEvent], bool] | None:
    if not filter.rooms.matches(room_id):
        return lambda _event: False
    if filter.matches_all_in_room:
        return sees
    if sees is None:
        return partial(_matches, filter)
    return lambda event: _matches(filter, event) and sees(event)


def _matches(filter: RoomEventFilter, event: StoredEvent) -> bool:
    pdu = event.pdu
    return filter.matches_in_room(pdu.type, pdu.sender, pdu.content)


def personal_timeline(
    segment: Segment, reader: Reader, now_ms: int, filter: Filter, limited: bool, membership_at: MembershipAt
) -> bytes:
    """The timeline for a reader who may have sent some of the events: those get their transaction id."""
    if not segment.has_transactions or reader.user_id not in segment.senders:
        return segment.timeline
    encoded = list(segment.encoded)
    for index, event in enumerate(segment.window.events):
        if event.txn_id is not None and is_sender(event, reader):
            encoded[index] = encode_event(
                event,
                reader,
                now_ms,
                filter,
                membership=membership_at(event),
                related=segment.related,
                bundle=segment.bundles.get(event.event_id),
            )
    return timeline_json(encoded, limited, segment.window.prev_batch)


def receipts_of(rows: Sequence[LogRow]) -> list[Receipt]:
    """The receipts among a room's rows, oldest first."""
    return [
        Receipt(
            RoomId(row.key),
            UserId(row.data["user_id"]),
            row.data["receipt_type"],
            row.data.get("thread_id") or "",
            EventId(row.data["event_id"]),
            row.data["ts_ms"],
        )
        for row in rows
        if row.kind == "receipt"
    ]


def visible_receipts(
    receipts: Sequence[Receipt], user_id: UserId, ignored: Collection[str] = frozenset()
) -> bytes | None:
    """As an m.receipt event: of each user's receipts of one kind the newest; private ones only for their
    owner, and none of users who are ignored.
    """
    newest: dict[tuple[str, str, str], Receipt] = {}
    for receipt in receipts:
        if receipt.user_id in ignored:
            continue
        if receipt.receipt_type != PRIVATE_RECEIPT or receipt.user_id == user_id:
            newest[receipt.user_id, receipt.receipt_type, receipt.thread_id] = receipt
    return encode_receipts(newest.values())


def told_members(window: Window) -> dict[UserId, EventId]:
    """The member events in the timeline: whoever gets it has them."""
    return {
        UserId(event.pdu.state_key): event.event_id
        for event in window.events
        if event.pdu.type == MEMBER and event.pdu.state_key is not None
    }
