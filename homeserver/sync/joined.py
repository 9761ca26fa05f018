"""The joined rooms of a response.

Three kinds, by what the client has of the room:
- it has it up to `since`: the new events, and what of the state changed before them (or, after them);
- it never had it, or asked for all of the state: the end of the timeline and the whole state;
- it had some of it once (the user left and came back, or an invite was withdrawn, which is told as the end of a
  timeline): the whole state, the timeline from `since`, always `limited`, so that the client knows that there is a gap.

Spec: client-server-api#syncing
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import orjson
from attrs import define, field

from homeserver.accounts.ignored_users import Unwanted
from homeserver.folds.histories import UserHistory
from homeserver.folds.memberships import UserRooms
from homeserver.matrix.filters import RoomEventFilter
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.sticky import names_sticky
from homeserver.rooms.client_events import NO_RELATED, Reader
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.store.account_data import AccountDataRow, load_room_account_data
from homeserver.store.events import StoredEvent
from homeserver.store.memberships import MembershipRow
from homeserver.store.sync import Gap
from homeserver.sync.encoding import (
    EMPTY_LIST,
    MembershipAt,
    encode_account_data,
    encode_counts,
    encode_event,
    encode_typing,
    events_json,
    joined_at,
)
from homeserver.sync.members_sent import MembersSent
from homeserver.sync.request import StateKind, SyncRequest
from homeserver.sync.segments import (
    Segment,
    Segments,
    build_segment,
    personal_timeline,
    receipts_of,
    segment_key,
    told_members,
    visible_receipts,
    wanted_events,
)
from homeserver.sync.summary import encode_summary, get_heroes
from homeserver.sync.view import Lookup, View
from homeserver.sync.window import changed, state_after, state_before

# The memberships that come with events of the room's timeline.
_TOLD_OF_TIMELINE = frozenset({"join", "leave", "ban"})


@define(eq=False)
class Build:
    """One attempt at a response: what all its rooms share."""

    view: View
    request: SyncRequest
    rooms: UserRooms
    unwanted: Unwanted
    segments: Segments
    members: MembersSent
    # Rooms in which typing changed, and the encoded account data of rooms.
    typing_changed: Collection[RoomId] = ()
    account_data: Mapping[str, list[bytes]] = field(factory=dict)
    # Members that go out with this response: to be remembered if it is sent.
    sent: list[tuple[RoomId, dict[UserId, EventId]]] = field(factory=list)

    @property
    def ignored(self) -> frozenset[str]:
        return self.unwanted.users

    @property
    def reader(self) -> Reader:
        return Reader(self.request.user_id, self.request.device_id)

    @property
    def is_lazy(self) -> bool:
        return self.request.filter.lazy_load_members

    def sees(self, history: UserHistory | None, event: StoredEvent) -> bool:
        """The event is for the reader: visible by the room's history, and of nobody whom they ignore.

        Spec: client-server-api#ignoring-users
        """
        if event.pdu.sender in self.ignored and event.pdu.state_key is None:
            return False
        return history is None or history.can_see(event)


def build_joined(build: Build, room_id: RoomId, membership: MembershipRow) -> bytes | None:
    """The room's object; None if there is nothing to tell, or something has to be loaded first."""
    request, view = build.request, build.view
    if request.since is not None and not request.full_state and membership.position <= request.after:
        return _build_known(build, room_id)
    if request.since is None:
        return _build_whole(build, room_id, membership, None, after=0)
    history = view.get_history(room_id)
    if history is None:
        return None
    if history.membership_at(request.after) == "join":
        if request.full_state:
            return _build_whole(build, room_id, membership, history, after=request.after)
        return _build_changed(build, room_id, history)
    was_told = any(value in _TOLD_OF_TIMELINE and at <= request.after for at, value in history.memberships)
    return _build_whole(build, room_id, membership, history, after=request.after if was_told else 0, limited=was_told)


# -- rooms that the client has up to `since` -----------------------------------------------------------------


def _build_known(build: Build, room_id: RoomId) -> bytes | None:
    """For a reader who was joined all the time since."""
    segment = _shared_segment(build, room_id)
    if segment is None:
        return None
    if build.ignored and not build.ignored.isdisjoint(segment.senders):
        return _build_changed(build, room_id, None)
    return _assemble(build, room_id, segment, joined_at, is_new=False, limited=None)


def _shared_segment(build: Build, room_id: RoomId) -> Segment | None:
    view, request = build.view, build.request
    recent = view.sources.recent
    after = request.after
    if after < recent.floor:
        return _segment(build, room_id, None)
    rows = recent.rows_after(room_id, after)
    if not rows:
        return _segment(build, room_id, None)
    key = segment_key(room_id, rows, request)
    segment = build.segments.get(key)
    if segment is None:
        segment = _segment(build, room_id, None)
        if segment is not None and _is_everybodys(build, segment):
            build.segments.put(key, segment)
    return segment


def _is_everybodys(build: Build, segment: Segment) -> bool:
    """What remains of stickiness is told as of now, and what is bundled is the reader's."""
    is_sticky = any(names_sticky(event.pdu) for event in segment.window.events)
    return not (is_sticky or segment.bundles or (segment.window.limited and build.ignored))


def _build_changed(build: Build, room_id: RoomId, history: UserHistory | None) -> bytes | None:
    """For a reader who was away in between, or ignores somebody: nothing to share."""
    segment = _segment(build, room_id, history, personal=True)
    if segment is None:
        return None
    return _assemble(build, room_id, segment, _membership_at(history), is_new=False, limited=None)


def _segment(
    build: Build,
    room_id: RoomId,
    history: UserHistory | None,
    *,
    personal: bool = False,
) -> Segment | None:
    """What happened in the room since `since`."""
    view, request = build.view, build.request
    recent = view.sources.recent
    rows = recent.rows_after(room_id, request.after) if request.after >= recent.floor else []
    head = view.get_head(room_id)
    log = view.get_room_log(Gap(room_id, request.after, None, wanted_events(request), True))
    if head is None or log is None:
        return None
    return build_segment(
        view,
        head,
        log,
        request,
        receipts=receipts_of(rows),
        after=request.after,
        upto=view.now,
        sees=(lambda event: build.sees(history, event)) if personal else None,
        history=history,
        membership_at=_membership_at(history),
        with_bundles=request.after < recent.floor,
    )


# -- rooms that are new to the client ------------------------------------------------------------------------


def _build_whole(
    build: Build,
    room_id: RoomId,
    membership: MembershipRow,
    history: UserHistory | None,
    *,
    after: int,
    limited: bool | None = None,
) -> bytes | None:
    """With the whole state, and the timeline behind `after`."""
    view, request = build.view, build.request
    head = view.get_head(room_id)
    log = view.get_room_log(Gap(room_id, after, None, wanted_events(request), build.is_lazy and after > 0))
    if head is None or log is None:
        return None
    if history is None and any(row.position < membership.position for row in log.rows):
        history = view.get_history(room_id)
        if history is None:
            return None
    sees_all = history is None or history.sees_all
    segment = build_segment(
        view,
        head,
        log,
        request,
        after=after,
        upto=view.now,
        limited=limited or None,
        sees=None if sees_all and not build.ignored else (lambda event: build.sees(history, event)),
        history=history,
        membership_at=_membership_at(history),
        with_bundles=True,
    )
    if segment is None:
        return None
    return _assemble(build, room_id, segment, _membership_at(history), is_new=True, limited=limited or None)


def _membership_at(history: UserHistory | None) -> MembershipAt:
    """What the reader was to the room at an event; "leave" before they had anything to do with it."""
    if history is None:
        return joined_at
    return lambda event: history.membership_at(event.order) or "leave"


# -- the parts of a room -------------------------------------------------------------------------------------


def _assemble(
    build: Build,
    room_id: RoomId,
    segment: Segment,
    membership_at: MembershipAt,
    *,
    is_new: bool,
    limited: bool | None,
) -> bytes | None:
    view, request = build.view, build.request
    head = view.get_head(room_id)
    if head is None:
        return None
    told = is_new or segment.summary_changed
    missing = view.missing_events
    heroes = get_heroes(view, head, request.user_id) if told else None
    state = state_events(build, head, segment, is_whole=is_new, heroes=heroes)
    ephemeral = _ephemeral(build, room_id, segment, is_new)
    counts = view.get_counts(room_id)
    account_data = _room_account_data(build, room_id, is_new)
    is_complete = view.missing_events == missing
    if state is None or ephemeral is None or counts is None or account_data is None or not is_complete:
        return None
    sticky = _sticky(build, room_id, segment, is_new)
    has_news = sticky or told or segment.encoded or segment.window.limited or state or ephemeral or account_data
    if not has_news and not _has_own_receipt(build, room_id, segment):
        return None
    is_limited = segment.window.limited if limited is None else limited
    timeline = personal_timeline(segment, build.reader, view.now_ms, request.filter, is_limited, membership_at)
    return b'{"timeline":%b,"%b":%b,"ephemeral":%b,"account_data":%b%b%b%b}' % (
        timeline,
        request.state_kind.value,
        events_json(state) if state else EMPTY_LIST,
        events_json(ephemeral) if ephemeral else EMPTY_LIST,
        events_json(account_data) if account_data else EMPTY_LIST,
        encode_counts(counts, by_thread=request.filter.unread_thread_notifications),
        encode_summary(head, heroes) if told else b"",
        b',"msc4354_sticky":%b' % events_json(sticky) if sticky else b"",
    )


def _sticky(build: Build, room_id: RoomId, segment: Segment, is_new: bool) -> list[bytes]:
    """The sticky events that are new to the client, but for those in the timeline. Spec: MSC4354"""
    view, request = build.view, build.request
    found = view.sources.sticky.get(room_id, 0 if is_new else request.after)
    if not found:
        return []
    shown = {event.event_id for event in segment.window.events}
    membership = None if is_new else "join"  # they may be older than the reader's membership
    return [
        encode_event(one.event, build.reader, view.now_ms, request.filter, membership=membership, related=NO_RELATED)
        for one in found
        if one.event.event_id not in shown and one.event.pdu.sender not in build.ignored
    ]


def account_data_by_room(request: SyncRequest, rows: Collection[AccountDataRow]) -> Mapping[str, list[bytes]]:
    """The account data of rooms that the filter wants, encoded."""
    found: dict[str, list[bytes]] = {}
    wanted = request.filter.room.account_data
    for row in rows:
        if row.room_id and wanted.rooms.matches(row.room_id):
            content = {} if wanted.contains_url is None else orjson.loads(row.content)
            if wanted.matches_in_room(row.type, None, content):
                found.setdefault(row.room_id, []).append(encode_account_data(row.type, row.content))
    return found


def _room_account_data(build: Build, room_id: RoomId, is_new: bool) -> Sequence[bytes] | None:
    """What changed, or in a room that is new to the client all; None while it has to be loaded.

    The user may have set some of it before they joined, when no response told of it.
    """
    if not is_new or build.request.since is None:
        return build.account_data.get(room_id, ())
    user_id, database = build.request.user_id, build.view.sources.database
    lookup = Lookup(
        "room account data", user_id, (room_id,), lambda: database.read(load_room_account_data, user_id, room_id)
    )
    rows = build.view.get_value(lookup)
    return None if rows is None else account_data_by_room(build.request, rows).get(room_id, ())


def _has_own_receipt(build: Build, room_id: RoomId, segment: Segment) -> bool:
    """The reader has read on, elsewhere: the counts are others. False also where the view notes a need."""
    request, view = build.request, build.view
    is_known = request.after >= view.sources.recent.floor
    receipts = segment.receipts if is_known else view.get_receipts(room_id, request.after)
    return any(receipt.user_id == request.user_id for receipt in receipts or ())


def _ephemeral(build: Build, room_id: RoomId, segment: Segment, is_new: bool) -> list[bytes] | None:
    """Receipts and typing; None while something has to be loaded."""
    view, request = build.view, build.request
    wanted = request.filter.room.ephemeral
    if wanted.matches_none or not wanted.rooms.matches(room_id):
        return []
    found = []
    if wanted.types.matches("m.receipt"):
        if is_new or request.after < view.sources.recent.floor:
            receipts = view.get_receipts(room_id, 0 if is_new else request.after)
            if receipts is None:
                return None
            encoded = visible_receipts(receipts, request.user_id, build.ignored)
        elif segment.has_private_receipts or build.ignored:
            encoded = visible_receipts(segment.receipts, request.user_id, build.ignored)
        else:
            encoded = segment.public_receipts
        if encoded is not None:
            found.append(encoded)
    has_changed = room_id in build.typing_changed
    if has_changed or is_new:
        _, users = view.sources.typing.typing(room_id)
        shown = [user for user in users if user not in build.ignored]
        if wanted.types.matches("m.typing") and (shown or has_changed):
            found.append(encode_typing(shown))
    return found


def state_events(
    build: Build, head: RoomHead, segment: Segment, *, is_whole: bool, heroes: list[UserId] | None
) -> list[bytes] | None:
    """The encoded state to tell beside the timeline; None while something has to be loaded."""
    view, request = build.view, build.request
    keys = _state_keys(build, head, segment, is_whole)
    if build.is_lazy:
        keys = _with_lazy_members(build, head, segment, keys, is_whole, heroes)
    elif not keys:
        return []
    wanted = request.filter.room.state
    if wanted.matches_none or not wanted.rooms.matches(head.room_id):
        return []
    events = []
    missing = view.missing_events
    for key, event_id in keys.items():
        if wanted.types.matches_all or wanted.types.matches(key[0]):
            event = view.get_event(event_id, head)
            if event is not None and wanted.matches_in_room(key[0], event.pdu.sender, event.pdu.content):
                events.append(event)
    if not events:
        return [] if view.missing_events == missing else None
    related = view.get_redactions(events, head)
    history = view.get_history(head.room_id)
    if history is None or view.missing_events != missing:
        return None
    reader, now_ms, filter = build.reader, view.now_ms, build.request.filter
    return [
        encode_event(event, reader, now_ms, filter, membership=history.membership_around(event), related=related)
        for event in events
    ]


def _state_keys(build: Build, head: RoomHead, segment: Segment, is_whole: bool) -> Mapping[StateKey, EventId]:
    is_after = build.request.state_kind is not StateKind.BEFORE
    if not is_whole:
        return changed(segment.deltas) if segment.deltas else {}
    if is_after:
        return state_after(segment.window, head.state)
    return state_before(segment.window, head.state)


def _with_lazy_members(
    build: Build,
    head: RoomHead,
    segment: Segment,
    keys: Mapping[StateKey, EventId],
    is_whole: bool,
    heroes: list[UserId] | None,
) -> Mapping[StateKey, EventId]:
    """Of the members those whose membership or profile changed since the reader was told of the room, and whom the reader
    needs for the timeline and has not been sent.

    Spec: client-server-api#lazy-loading-room-members, client-server-api#get_matrixclientv3sync
    """
    request, room_id = build.request, head.room_id
    device = (request.user_id, request.device_id)
    sent = None if is_whole else build.members.get_sent(device, room_id)
    # With the state after the timeline, clients take no state from the timeline.
    told = told_members(segment.window) if request.state_kind is StateKind.BEFORE else {}
    needed = {*segment.senders, *(heroes or ())}
    if is_whole:
        needed.add(request.user_id)
    picked: dict[StateKey, EventId] = {}
    members: dict[UserId, EventId] = dict(told)
    for key, event_id in keys.items():
        if key[0] != MEMBER:
            picked[key] = event_id
        elif not is_whole or key in segment.deltas:
            # The client may have an older one, also from elsewhere (/members): tell it what it is now.
            picked[key] = event_id
            members.setdefault(UserId(key[1]), event_id)
    redundant = request.filter.include_redundant_members
    for user in sorted(needed):
        user_id = UserId(user)
        member = _member_event(segment, head, user_id, request.state_kind)
        if member is None:
            continue
        has = sent.get(user_id) if sent is not None else None
        if redundant or has is None or has[0] != member:
            picked[MEMBER, user_id] = member
            members.setdefault(user_id, member)
    if (members or is_whole) and _wants_members(request.filter.room.state):
        build.sent.append((room_id, members))
    return picked


def _wants_members(wanted: RoomEventFilter) -> bool:
    """The filter leaves out no members that are told of."""
    return wanted.types.matches(MEMBER) and wanted.senders.matches_all and wanted.contains_url is None


def _member_event(segment: Segment, head: RoomHead, user_id: UserId, kind: StateKind) -> EventId | None:
    """The user's member event at the place to which the response's state belongs."""
    key = (MEMBER, user_id)
    window = segment.window
    moment = window.at_start if kind is StateKind.BEFORE else window.at_end
    if kind is StateKind.BEFORE and key in window.untold:
        return window.untold[key]
    return moment[key] if key in moment else head.state.get(key)
