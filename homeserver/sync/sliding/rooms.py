"""One room of a sliding sync response.

Spec: MSC4186
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from heapq import nsmallest
from typing import Any

import orjson
from attrs import define, evolve, field, frozen

from homeserver.folds.histories import UserHistory
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.format import client_event, stripped_state
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.state_map import StateKey
from homeserver.matrix.sticky import names_sticky
from homeserver.rooms.client_events import Reader, Written, WrittenList, encode_written, related_ids, write
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.store.memberships import MembershipRow
from homeserver.store.outside_rooms import OutsideRoom
from homeserver.store.sync import Gap
from homeserver.sync.left import STRIPPED, left_at
from homeserver.sync.segments import receipts_of
from homeserver.sync.sliding.beginnings import Beginning, Beginnings, Wish
from homeserver.sync.sliding.connections import SentRoom
from homeserver.sync.sliding.lists import direct_rooms
from homeserver.sync.sliding.request import RoomConfig, Shape, SlidingRequest
from homeserver.sync.summary import AVATAR, MAX_HEROES, NAME, get_text, pick_heroes, redacted_keys
from homeserver.sync.view import View
from homeserver.sync.window import Window, pick_end, pick_window, state_after

MAX_LAZY_MEMBERS = 2_000


@define
class RoomPart:
    """A room's object (None: nothing to tell), and how far the client has the room then."""

    json: dict[str, Any] | None
    sent: SentRoom
    timeline: Sequence[StoredEvent] = ()
    is_initial: bool = False
    beginning: Beginning | None = None


@frozen(eq=False)
class _Windows:
    """shown: the timeline to tell, of `rows`; changes: what happened behind `after`, which is the same but for expansions."""

    shown: Window
    changes: Window
    after: int
    rows: Sequence[LogRow]


@define(eq=False)
class RoomBuilder:
    """Builds the rooms of one response. The methods answer None where the view notes needs.

    since: where the connection's last response stood: events behind it are live, whether the client has their room or not.
    """

    view: View
    request: SlidingRequest
    ignored: frozenset[str]
    ephemeral: int
    extensions: frozenset[str]  # those that tell of all rooms
    since: int | None
    beginnings: Beginnings
    _reader: Reader = field(init=False)
    _wishes: dict[RoomConfig, Wish] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._reader = Reader(self.request.user_id, self.request.device_id)

    def build(
        self, membership: MembershipRow, config: RoomConfig, sent: SentRoom | None, lists: Sequence[str], bump: int
    ) -> RoomPart | None:
        part = self._picked_part(membership, config, sent)
        if part is not None and membership.membership == "join":
            part = self._with_directness(part, membership.room_id, sent)
        if part is None or part.json is None:
            return part
        room = {**part.json, "bump_stamp": bump}
        if part.timeline and self.since is not None:
            room["num_live"] = sum(1 for event in part.timeline if event.order > self.since)
        if self.request.shape is Shape.STABLE:
            room["membership"] = membership.membership
            if lists:
                room["lists"] = sorted(lists)
        return RoomPart(room, part.sent, part.timeline, part.is_initial, part.beginning)

    def _with_directness(self, part: RoomPart, room_id: RoomId, sent: SentRoom | None) -> RoomPart | None:
        """With is_dm where the room is direct, and where that changed, though nothing else may have."""
        was_direct = sent is not None and sent.is_dm
        is_known = sent is not None and not part.is_initial and sent.position >= self._user_changed
        is_direct = was_direct if is_known else room_id in self._direct
        if is_direct == was_direct and not (is_direct and part.json is not None):
            return part
        room = part.json if part.json is not None else self._unread(room_id)
        if room is None:
            return None
        return evolve(part, json={**room, "is_dm": is_direct}, sent=evolve(part.sent, is_dm=is_direct))

    @cached_property
    def _direct(self) -> set[str]:
        return direct_rooms(self.view)

    @cached_property
    def _user_changed(self) -> int:
        """A position behind which nothing happened to the user, so that no room became direct or stopped being so."""
        return self.view.sources.recent.last_position(self.request.user_id)

    def _unread(self, room_id: RoomId) -> dict[str, Any] | None:
        """The stable shape has none. None where the view notes a need."""
        if self.request.shape is Shape.STABLE:
            return {}
        counts = self.view.get_counts(room_id)
        if counts is None:
            return None
        notifications, highlights = counts.total
        return {"notification_count": notifications, "highlight_count": highlights}

    def _picked_part(self, membership: MembershipRow, config: RoomConfig, sent: SentRoom | None) -> RoomPart | None:
        """Built once for all attempts at a response, if nothing happens in the room meanwhile."""
        if sent is None and membership.membership == "join":
            beginning = self.beginnings.get(membership.room_id, self._wish(config))
            if beginning is not None:
                return self._tell_beginning(membership.room_id, beginning, config)
        key = (membership.room_id, "part")
        known: tuple[RoomConfig, RoomPart] | None = self.view.picked.get(key)
        if known is not None and known[0] is config:
            return known[1]
        if membership.membership in ("invite", "knock"):
            part = self._build_stripped(membership, config, sent)
        elif membership.membership == "join":
            part = self._build_joined(membership, config, sent)
        else:
            part = self._build_left(membership, config, sent)
        if part is not None:
            self.view.picked.put_all({key: (config, part)}, self.view.now)
        return part

    def _sent(
        self, config: RoomConfig, members: frozenset[UserId] = frozenset(), before: SentRoom | None = None
    ) -> SentRoom:
        is_dm = before is not None and before.is_dm
        return SentRoom(self.view.now, self.ephemeral, config, members, is_dm, self.extensions)

    def _nothing(self, sent: SentRoom, config: RoomConfig) -> RoomPart:
        """The client has the room as it is."""
        return RoomPart(None, self._sent(config, sent.members, sent))

    # -- rooms that the user is not in -------------------------------------------------------------------------------

    def _build_stripped(self, membership: MembershipRow, config: RoomConfig, sent: SentRoom | None) -> RoomPart | None:
        if sent is not None and membership.position <= sent.position:
            return self._nothing(sent, config)
        now = self._sent(config)
        outside = self.view.get_outside_room(membership)
        if outside is not None:
            return self._build_outside(outside, now)
        head = self.view.get_head(membership.room_id)
        if head is None:
            return None
        wanted = [head.state[key] for key in STRIPPED if key in head.state]
        sender = head.state.get((MEMBER, membership.sender))
        wanted += [] if sender is None or membership.sender == membership.user_id else [sender]
        events = self._events([*wanted, membership.event_id], head)
        if events is None:
            return None
        room: dict[str, Any] = {
            "initial": True,
            self._stripped_name: [stripped_state(event.pdu) for event in events],
            "joined_count": head.joined,
            "invited_count": head.invited,
        }
        _describe(room, {event.pdu.key: event.pdu.content for event in events if event.pdu.is_state})
        return RoomPart(room, now, is_initial=True)

    @property
    def _stripped_name(self) -> str:
        return "stripped_state" if self.request.shape is Shape.STABLE else "invite_state"

    def _build_outside(self, outside: OutsideRoom, now: SentRoom, *, is_initial: bool = True) -> RoomPart:
        """An invite or a knock in a room that this server is not in, or the end of one."""
        told = [*outside.state, stripped_state(outside.event)]
        room: dict[str, Any] = {"initial": is_initial, self._stripped_name: told}
        _describe(room, {(entry["type"], entry["state_key"]): entry["content"] for entry in outside.state})
        return RoomPart(room, now, is_initial=is_initial)

    def _build_left(self, membership: MembershipRow, config: RoomConfig, sent: SentRoom | None) -> RoomPart | None:
        """The client sees the event by which the user went, and what came before it."""
        if sent is not None and membership.position <= sent.position:
            return self._nothing(sent, config)
        outside = self.view.get_outside_room(membership)
        if outside is not None:
            if self.request.shape is Shape.STABLE:
                return self._build_outside(outside, self._sent(config), is_initial=sent is None)
            told = [client_event(outside.event, with_room_id=False)]
            ended = {"initial": sent is None, "timeline": told, "required_state": told, "limited": False, "num_live": 1}
            return RoomPart(ended, self._sent(config), is_initial=sent is None)
        missing = self.view.missing_events
        head, history = self.view.get_head(membership.room_id), self.view.get_history(membership.room_id)
        event = self.view.get_event(membership.event_id, head) if head is not None else None
        if head is None or history is None or event is None:
            return None
        if not history.was_joined and self.request.shape is Shape.STABLE:
            ended = {"initial": sent is None, self._stripped_name: [stripped_state(event.pdu)]}
            return RoomPart(ended, self._sent(config), is_initial=sent is None)
        if history.was_joined and sent is None:
            return self._begin_left(membership, config, head, history)
        related = self.view.get_related([event], head, history)
        if self.view.missing_events != missing:
            return None
        encoded = [self._encode_one(event, membership.membership, related)]
        room = {"initial": sent is None, "timeline": encoded, "required_state": encoded, "limited": sent is not None}
        room |= {"prev_batch": f"t{event.order - 1}", "num_live": 0 if sent is None else 1}
        return RoomPart(room, self._sent(config), [event], sent is None)

    def _begin_left(
        self, membership: MembershipRow, config: RoomConfig, head: RoomHead, history: UserHistory
    ) -> RoomPart | None:
        """The room as it was when the user went, for a client that has nothing of it."""
        view, missing = self.view, self.view.missing_events
        until = left_at(history, 0, membership.position)
        log = view.get_room_log(Gap(head.room_id, 0, until, config.timeline_limit + 1, False))
        if log is None:
            return None
        window = pick_window(
            log, head.state, after=0, upto=until, limit=config.timeline_limit, matches=lambda e: self._sees(history, e)
        )
        current = state_after(window, head.state)
        current[(MEMBER, membership.user_id)] = membership.event_id
        keys = _wanted(config, current)
        members = _timeline_members(window.events) if config.is_lazy else frozenset()
        told = {membership.user_id, *members}
        keys |= {(MEMBER, user): current[(MEMBER, user)] for user in told if (MEMBER, user) in current}
        state = self._events([event_id for event_id in keys.values() if event_id is not None], head)
        related = view.get_related(window.events, head, history)
        redactions = view.get_redactions(state or (), head)
        bundles = view.get_bundles(window.events, head, log.rows)
        named = self._events([current[key] for key in (NAME, AVATAR) if key in current], head)
        heroes = self._events([current[key] for key in _some_members(current, membership.user_id)], head)
        if state is None or bundles is None or named is None or heroes is None or view.missing_events != missing:
            return None
        room: dict[str, Any] = {"initial": True, "prev_batch": f"t{window.prev_batch}", "limited": window.limited}
        _describe(room, {event.pdu.key: event.pdu.content for event in named})
        if "name" not in room:
            present = [event for event in heroes if event.pdu.membership in ("join", "invite")]
            room["heroes"] = [_hero(UserId(event.pdu.key[1]), event) for event in (present or heroes)[:MAX_HEROES]]
        written = self._write_timeline(window.events, related, history, bundles)
        room["timeline"] = [orjson.Fragment(json) for json in encode_written(written, view.now_ms)]
        room["required_state"] = [
            self._encode_one(event, history.membership_around(event), redactions) for event in state
        ]
        room["num_live"] = 0
        return RoomPart(room, self._sent(config, members), window.events, True)

    # -- rooms that the user is in -----------------------------------------------------------------------------------

    def _build_joined(self, membership: MembershipRow, config: RoomConfig, sent: SentRoom | None) -> RoomPart | None:
        view, room_id = self.view, membership.room_id
        if sent is not None and not _is_expanded(config, sent.config) and not self._has_rows(room_id, sent.position):
            return self._nothing(sent, config)
        if sent is None:
            return self._begin(room_id, config)
        head, history = view.get_head(room_id), view.get_history(room_id)
        if head is None or history is None:
            return None
        if self._must_begin_anew(membership, config, sent, history):
            return self._begin(room_id, config)
        changed = self._window(head, history, sent.position, config.timeline_limit, with_state=True)
        shown = changed
        if config.timeline_limit > sent.config.timeline_limit:
            shown = self._window(head, history, 0, config.timeline_limit, with_state=False)
        if changed is None or shown is None:
            return None
        return self._assemble(config, sent, head, _Windows(shown[0], changed[0], sent.position, shown[1]), history)

    def _begin(self, room_id: RoomId, config: RoomConfig) -> RoomPart | None:
        wish = self._wish(config)
        beginning = self.beginnings.get(room_id, wish) or self._build_beginning(room_id, wish)
        return self._tell_beginning(room_id, beginning, config)

    def _wish(self, config: RoomConfig) -> Wish:
        wish = self._wishes.get(config)
        if wish is None:
            wish = Wish(self._reader, self.request.shape, config, self.ignored)
            self._wishes[config] = wish = self.beginnings.intern(wish) if self.request.is_small else wish
        return wish

    def _tell_beginning(self, room_id: RoomId, beginning: Beginning | None, config: RoomConfig) -> RoomPart | None:
        unread = self._unread(room_id)
        if beginning is None or unread is None:
            return None
        room = {**beginning.to_json(self.view.now_ms), **unread}
        return RoomPart(room, self._sent(config, beginning.members), beginning.events, True, beginning)

    def _build_beginning(self, room_id: RoomId, wish: Wish) -> Beginning | None:
        view, config, missing = self.view, wish.config, self.view.missing_events
        head, history = view.get_head(room_id), view.get_history(room_id)
        if head is None or history is None:
            return None
        window = self._window(head, history, 0, config.timeline_limit, with_state=False)
        if window is None:
            return None
        shown, rows = window
        keys, members = self._state(config, None, head, _Windows(shown, shown, 0, rows))
        state = self._events([event_id for event_id in keys.values() if event_id is not None], head)
        related = view.get_related(shown.events, head, history)
        redactions = view.get_redactions(state or (), head)
        bundles = view.get_bundles(shown.events, head, rows)
        room = {"initial": True, "prev_batch": f"t{shown.prev_batch}", "limited": shown.limited, "num_live": 0}
        room |= {"joined_count": head.joined, "invited_count": head.invited}
        is_named = self._add_names(room, head, ())
        if state is None or bundles is None or not is_named or view.missing_events != missing:
            return None
        view.sources.sticky.note_until(shown.events)
        beginning = Beginning(
            room,
            WrittenList.of(self._write_timeline(shown.events, related, history, bundles)),
            WrittenList.of([self._write(event, history.membership_around(event), redactions) for event in state]),
            shown.events,
            members,
        )
        # The rest may change without a row about the room: what relates to events, what they quote, for how long they stick.
        is_whole = len(state) == len(keys) and len(related) == len(related_ids(shown.events))
        # Nor is an event kept that was loaded for this response before it was redacted.
        is_whole = is_whole and view.sources.recent.last_position(room_id) <= view.began
        is_whole = is_whole and len(redactions) == len({event.redacted_by for event in state} - {None})
        is_whole = is_whole and self.request.is_small
        if is_whole and not bundles and not any(names_sticky(event.pdu) for event in (*shown.events, *state)):
            self.beginnings.put(room_id, wish, beginning)
        return beginning

    def _must_begin_anew(
        self, membership: MembershipRow, config: RoomConfig, sent: SentRoom, history: UserHistory
    ) -> bool:
        """The user came (back) into the room since, or wants more of a timeline than memory tells the changes behind."""
        if membership.position > sent.position and history.membership_at(sent.position) != "join":
            return True
        wants_more = config.timeline_limit > sent.config.timeline_limit
        return wants_more and sent.position < self.view.sources.recent.floor

    def _window(
        self, head: RoomHead, history: UserHistory, after: int, limit: int, *, with_state: bool
    ) -> tuple[Window, Sequence[LogRow]] | None:
        """And the rows that it was picked of."""
        key = (head.room_id, after, limit, with_state, self.ignored)
        picked: tuple[Window, Sequence[LogRow]] | None = self.view.picked.get(key)
        if picked is None:
            log = self.view.get_room_log(Gap(head.room_id, after, None, limit + 1, with_state))
            if log is None:
                return None
            sees = None if history.sees_all and not self.ignored else (lambda event: self._sees(history, event))
            upto = self.view.now
            if with_state:
                window = pick_window(log, head.state, after=after, upto=upto, limit=limit, matches=sees)
            else:
                window = pick_end(log, upto=upto, limit=limit, matches=sees)
            picked = window, log.rows
            self.view.picked.put_all({key: picked}, self.view.now)
        return picked

    def _has_rows(self, room_id: RoomId, after: int) -> bool:
        recent = self.view.sources.recent
        return after < recent.floor or recent.last_position(room_id) > after

    def _sees(self, history: UserHistory, event: StoredEvent) -> bool:
        if event.pdu.sender in self.ignored and event.pdu.state_key is None:
            return False
        return history.can_see(event)

    def _assemble(
        self, config: RoomConfig, sent: SentRoom, head: RoomHead, windows: _Windows, history: UserHistory
    ) -> RoomPart | None:
        """What is new of a room that the client has.

        Spec: client-server-api#aggregations-of-child-events
        """
        missing = self.view.missing_events
        keys, members = self._state(config, sent, head, windows)
        state = self._events([event_id for event_id in keys.values() if event_id is not None], head)
        self.view.sources.sticky.note_until(windows.shown.events)
        related = self.view.get_related(windows.shown.events, head, history)
        redactions = self.view.get_redactions(state or (), head)
        has_missed = windows.shown.limited or windows.shown is not windows.changes
        bundles = self.view.get_bundles(windows.shown.events, head, windows.rows) if has_missed else {}
        unread = self._unread(head.room_id)
        if state is None or unread is None or bundles is None or self.view.missing_events != missing:
            return None
        changed = windows.changes.final.keys()
        now = self._sent(config, members, sent)
        has_news = windows.shown.events or keys or changed or windows.changes.limited
        if not has_news:
            has_read = self._has_own_receipt(head.room_id, windows.after)
            if not has_read:
                return None if has_read is None else RoomPart(None, now)
        room: dict[str, Any] = {}
        self._add_timeline(room, windows, self._write_timeline(windows.shown.events, related, history, bundles))
        told = [self._encode_one(event, history.membership_around(event), redactions) for event in state]
        self._add_state(room, keys, told)
        room |= unread
        renamed = {key for key in (NAME, AVATAR) if key in changed} | redacted_keys(windows.rows, windows.after, head)
        if renamed or any(key[0] == MEMBER for key in changed):
            room |= {"joined_count": head.joined, "invited_count": head.invited}
            if not self._add_names(room, head, renamed):
                return None
        return RoomPart(room, now, windows.shown.events)

    def _add_timeline(self, room: dict[str, Any], windows: _Windows, written: Sequence[Written]) -> None:
        shown = windows.shown
        if not shown.events and not shown.limited:
            return
        room["timeline"] = [orjson.Fragment(json) for json in encode_written(written, self.view.now_ms)]
        room["prev_batch"] = f"t{shown.prev_batch}"
        room["limited"] = shown.limited
        room["num_live"] = 0
        if shown is not windows.changes:
            name = "expanded_timeline" if self.request.shape is Shape.STABLE else "unstable_expanded_timeline"
            room[name] = True

    def _add_state(
        self,
        room: dict[str, Any],
        keys: Mapping[StateKey, EventId | None],
        encoded: list[orjson.Fragment],
    ) -> None:
        if self.request.shape is Shape.STABLE:
            gone = [{"type": key[0], "state_key": key[1]} for key, event_id in keys.items() if event_id is None]
            encoded += [orjson.Fragment(encode_json(stub)) for stub in gone]
        if encoded:
            room["required_state"] = encoded

    def _has_own_receipt(self, room_id: RoomId, after: int) -> bool | None:
        """The user has read on, elsewhere: the counts are others. None where the view notes a need."""
        recent = self.view.sources.recent
        is_known = after >= recent.floor
        receipts = (
            receipts_of(recent.rows_after(room_id, after)) if is_known else self.view.get_receipts(room_id, after)
        )
        return None if receipts is None else any(receipt.user_id == self.request.user_id for receipt in receipts)

    # -- state -------------------------------------------------------------------------------------------------------

    def _state(
        self, config: RoomConfig, sent: SentRoom | None, head: RoomHead, windows: _Windows
    ) -> tuple[dict[StateKey, EventId | None], frozenset[UserId]]:
        """The state to tell, and all members that the client then has by way of lazy loading."""
        keys: dict[StateKey, EventId | None] = {}
        changes = windows.changes
        if sent is None:
            keys |= _wanted(config, head.state)
        else:
            if config.states - sent.config.states:
                new = _wanted(config, head.state)
                keys |= {key: event_id for key, event_id in new.items() if not sent.config.wants(key)}
            all_members = config.is_lazy and not changes.limited
            keys |= {
                key: event_id
                for key, event_id in changes.final.items()
                if config.wants(key) or (all_members and key[0] == MEMBER)
            }
        if not config.is_lazy:
            return keys, frozenset()
        # A client flushes its members with every timeline that is limited, because of a gap or because it goes further back.
        is_limited = changes.limited or windows.shown.limited
        has = sent.members if sent is not None and not is_limited else frozenset()
        needed = _timeline_members(windows.shown.events)
        for user_id in needed - has:
            event_id = head.state.get((MEMBER, user_id))
            if event_id is not None:
                keys[(MEMBER, user_id)] = event_id
        has |= needed
        return keys, has if len(has) <= MAX_LAZY_MEMBERS else needed

    def _events(self, event_ids: Sequence[EventId], head: RoomHead) -> list[StoredEvent] | None:
        missing = self.view.missing_events
        events = [self.view.get_event(event_id, head) for event_id in event_ids]
        if self.view.missing_events != missing:
            return None
        return [event for event in events if event is not None]

    def _write_timeline(
        self,
        events: Sequence[StoredEvent],
        related: Mapping[EventId, StoredEvent],
        history: UserHistory,
        bundles: Mapping[EventId, bytes],
    ) -> list[Written]:
        written = []
        for event in events:
            membership = history.membership_around(event)
            shown = self.view.sources.erased.shown(event, membership)
            written.append(self._write(shown, membership, related, bundles.get(event.event_id)))
        return written

    def _write(
        self, event: StoredEvent, membership: str, related: Mapping[EventId, StoredEvent], bundle: bytes | None = None
    ) -> Written:
        return write(event, self._reader, self.view.now_ms, membership=membership, related=related, bundle=bundle)

    def _encode_one(
        self, event: StoredEvent, membership: str, related: Mapping[EventId, StoredEvent]
    ) -> orjson.Fragment:
        [json] = encode_written([self._write(event, membership, related)], self.view.now_ms)
        return orjson.Fragment(json)

    # -- names -------------------------------------------------------------------------------------------------------

    def _add_names(self, room: dict[str, Any], head: RoomHead, changed: Collection[StateKey]) -> bool:
        """Name, avatar and heroes; False where the view notes needs. changed: of name and avatar, null where they are gone."""
        view, missing = self.view, self.view.missing_events
        for part, key in (("name", NAME), ("avatar", AVATAR)):
            value = get_text(view, head, key)
            if value is not None or key in changed:
                room[part] = value
        if view.missing_events != missing:
            return False
        if room.get("name") is not None:
            return True
        users = pick_heroes(head, self.request.user_id)
        found = {user: view.get_event(event_id, head) for user in users if (event_id := head.state.get((MEMBER, user)))}
        if users:
            room["heroes"] = [_hero(user, found.get(user)) for user in users]
        return view.missing_events == missing


def _describe(room: dict[str, Any], contents: Mapping[StateKey, Mapping[str, Any]]) -> None:
    for name, key, part in (("name", NAME, "name"), ("avatar", AVATAR, "url")):
        value = contents.get(key, {}).get(part)
        if isinstance(value, str) and value:
            room[name] = value


def _hero(user_id: UserId, event: StoredEvent | None) -> dict[str, Any]:
    content = event.pdu.content if event is not None else {}
    shown = {name: content.get(name) for name in ("displayname", "avatar_url")}
    return {"user_id": user_id, **{name: value for name, value in shown.items() if isinstance(value, str)}}


def _is_expanded(config: RoomConfig, before: RoomConfig) -> bool:
    """More is wanted than what the client was sent by."""
    return config.timeline_limit > before.timeline_limit or bool(config.states - before.states)


def _some_members(current: Mapping[StateKey, EventId], user_id: UserId) -> list[StateKey]:
    """Where the first of the room's members are, as far as they may be among its heroes."""
    others = (key for key in current if key[0] == MEMBER and key[1] != user_id)
    return nsmallest(4 * MAX_HEROES, others)


def _wanted(config: RoomConfig, current: Mapping[StateKey, EventId]) -> dict[StateKey, EventId | None]:
    """Of that state, what the configuration asks for."""
    found: dict[StateKey, EventId | None] = {}
    for state in config.states:
        exact = state.exact_keys
        if exact is None:
            found |= {key: event_id for key, event_id in current.items() if state.matches(key)}
        else:
            found |= {key: event_id for key in exact if (event_id := current.get(key)) is not None}
    return found


def _timeline_members(events: Sequence[StoredEvent]) -> frozenset[UserId]:
    targets = {UserId(event.pdu.state_key) for event in events if event.pdu.type == MEMBER and event.pdu.state_key}
    return frozenset({event.pdu.sender for event in events} | targets)
