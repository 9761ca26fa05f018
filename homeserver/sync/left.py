"""Rooms that the user left or was removed from, and those to which they are invited or at which they
knock.
"""

from __future__ import annotations

from homeserver.folds.histories import UserHistory
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.format import stripped_state
from homeserver.matrix.ids import EventId, RoomId
from homeserver.matrix.state_map import CREATE, JOIN_RULES, StateKey
from homeserver.rooms.client_events import NO_RELATED
from homeserver.rooms.head import MEMBER
from homeserver.store.events import StoredEvent
from homeserver.store.memberships import MembershipRow
from homeserver.store.outside_rooms import OutsideRoom
from homeserver.store.sync import Gap
from homeserver.sync.encoding import EMPTY_LIST, encode_event, encode_stripped, events_json
from homeserver.sync.joined import Build, state_events
from homeserver.sync.segments import build_segment, personal_timeline, timeline_json, wanted_events

# Spec: client-server-api#stripped-state
STRIPPED: tuple[StateKey, ...] = (
    CREATE,
    JOIN_RULES,
    ("m.room.name", ""),
    ("m.room.avatar", ""),
    ("m.room.topic", ""),
    ("m.room.canonical_alias", ""),
    ("m.room.encryption", ""),
)
_IN_CONTACT = frozenset({"join", "invite", "knock"})


def build_left(build: Build, room_id: RoomId, membership: MembershipRow) -> bytes | None:
    """The timeline up to where the user left, and the state there. None: nothing to tell, or something to
    load.

    Spec: client-server-api#get_matrixclientv3sync
    """
    request, view = build.request, build.view
    outside = view.get_outside_room(membership)
    if outside is not None:
        return _build_ended(build, outside)
    history = view.get_history(room_id)
    head = view.get_head(room_id)
    if history is None or head is None:
        return None
    after = request.after
    was = history.membership_at(after) if request.since is not None else None
    until = left_at(history, after, membership.position)
    joined = any(value == "join" and after < at <= until for at, value in history.memberships)
    has_state = was == "join"
    log = view.get_room_log(Gap(room_id, after, until, wanted_events(request), has_state))
    if log is None:
        return None

    def membership_at(event: StoredEvent) -> str:
        return history.membership_around(event)

    segment = build_segment(
        view,
        head,
        log,
        request,
        after=after,
        upto=until,
        sees=lambda event: build.sees(history, event),
        history=history,
        membership_at=membership_at,
    )
    if segment is None:
        return None
    state = state_events(build, head, segment, is_whole=joined and not has_state, heroes=None)
    if not has_state and not joined:
        state = []  # never in the room: its state is none of theirs
    if state is None or not (segment.encoded or state or was in _IN_CONTACT or request.since is None):
        return None
    timeline = personal_timeline(
        segment, build.reader, view.now_ms, request.filter, segment.window.limited, membership_at
    )
    account_data = build.account_data.get(room_id)
    return b'{"timeline":%b,"%b":%b,"account_data":%b}' % (
        timeline,
        request.state_kind.value,
        events_json(state),
        events_json(account_data) if account_data else EMPTY_LIST,
    )


def _build_ended(build: Build, outside: OutsideRoom) -> bytes:
    """An invite or a knock that ended, in a room that this server is not in: the event by which it did."""
    event, request = StoredEvent(outside.event), build.request
    membership = outside.event.membership
    encoded = encode_event(
        event, build.reader, build.view.now_ms, request.filter, membership=membership, related=NO_RELATED
    )
    return b'{"timeline":%b,"%b":%b,"account_data":%b}' % (
        timeline_json([encoded], False, request.after),
        request.state_kind.value,
        EMPTY_LIST,
        EMPTY_LIST,
    )


def left_at(history: UserHistory, after: int, position: int) -> int:
    """Where the user left, behind `after`; `position`, of their newest membership, if they were not in the
    room.
    """
    joins = [at for at, value in history.memberships if value == "join"]
    if not joins:
        return position
    left = next((at for at, _ in history.memberships if at > joins[-1]), position)
    return left if left > after else position


def build_stripped(build: Build, room_id: RoomId, membership: MembershipRow, name: bytes) -> bytes | None:
    """An invite or a knock: the little of the state that somebody outside may know, under `name`."""
    view = build.view
    outside = view.get_outside_room(membership)
    if outside is not None:
        told = [*outside.state, stripped_state(outside.event)]
        return b'{"%b":%b}' % (name, events_json(encode_json(entry) for entry in told))
    head = view.get_head(room_id)
    if head is None:
        return None
    wanted: list[EventId] = [head.state[key] for key in STRIPPED if key in head.state]
    sender = head.state.get((MEMBER, membership.sender))
    if sender is not None and membership.sender != membership.user_id:
        wanted.append(sender)
    wanted.append(membership.event_id)
    missing = view.missing_events
    events = [view.get_event(event_id, head) for event_id in wanted]
    if view.missing_events != missing:
        return None
    return b'{"%b":%b}' % (name, encode_stripped([event for event in events if event is not None]))
