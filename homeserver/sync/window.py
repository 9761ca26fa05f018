"""What a response tells of a room's timeline and of its state. Pure: rows of the log in, events and keys
out.

A client takes for granted that nothing is between the events of one timeline, nor before them where it is not limited. So none
goes over a gap: an event that came while events before it were missing begins it anew. It does so for ever, also when they have
been fetched: they stand before it then, where whoever has read on does not look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

from homeserver.matrix.ids import EventId
from homeserver.matrix.state_map import StateKey
from homeserver.store.events import StoredEvent
from homeserver.store.log import LogRow
from homeserver.sync.view import RoomLog, is_live

# The state as it became: the event of each key, None where the key was removed.
Changes = dict[StateKey, EventId | None]


@frozen
class Window:
    """The part of a timeline that a response has: `events`, all in (start, upto].

    limited: there are, or in a gap there may be, more events between what the client has and the first one. changes: what of the
    state in (after, start] is at `start`; untold: what changed in (start, upto] without an event in the window that
    says so, as it is at `upto`; final: all that changed in (after, upto], as it is at `upto`. at_start: for
    keys that changed behind `start`, what they were there; at_end: the same for `upto`.
    """

    events: Sequence[StoredEvent]
    limited: bool
    start: int
    at_start: Changes
    at_end: Changes
    changes: Changes
    untold: Changes
    final: Changes

    @property
    def prev_batch(self) -> int:
        """The order from which to page backwards to what comes before the window."""
        return self.events[0].order - 1 if self.events else self.start


def pick_window(
    log: RoomLog,
    state: Mapping[StateKey, EventId],
    *,
    after: int,
    upto: int,
    limit: int,
    matches: Callable[[StoredEvent], bool] | None,
) -> Window:
    """The newest `limit` matching events in (after, upto]. `state`: the room's current state (behind all
    rows).

    `matches` None: every event does. Spec: client-server-api#syncing
    """
    live = [
        event for row in log.rows if after < row.position <= upto and is_live(row) and (event := row.event) is not None
    ]
    unbroken = _behind_gaps(live)
    matching = [event for event in unbroken if matches is None or matches(event)]
    events = matching[-limit:] if limit else []
    has_gap = bool(unbroken) and unbroken[0].follows_gap
    limited = len(matching) > len(events) or has_gap or log.events_floor > after
    start_if_limited = events[0].order - 1 if events else upto
    start = start_if_limited if limited else after
    window = _with_changes(log.rows, state, events, limited, after, start, upto)
    while (wrong := _last_wrong(window)) is not None:
        # A client would fold this event over the state that we tell, and believe what is no longer true: the
        # window has to begin behind it.
        events = [event for event in events if event.order > wrong]
        window = _with_changes(log.rows, state, events, True, after, wrong, upto)
    return window


def _behind_gaps(events: Sequence[StoredEvent]) -> Sequence[StoredEvent]:
    """From the newest event on that follows a gap; all, if none does."""
    first = next((index for index in range(len(events) - 1, 0, -1) if events[index].follows_gap), 0)
    return events[first:] if first else events


def pick_end(log: RoomLog, *, upto: int, limit: int, matches: Callable[[StoredEvent], bool] | None) -> Window:
    """The newest `limit` matching events up to `upto`, for a client that does not fold them over the state: nothing is said
    of the state's changes.
    """
    events: list[StoredEvent] = []
    limited = log.events_floor > 0
    for row in reversed(log.rows):
        event = row.event
        if event is None or row.position > upto or not is_live(row):
            continue
        if matches is None or matches(event):
            if len(events) == limit:
                limited = True
                break
            events.append(event)
        if event.follows_gap:
            limited = True
            break
    events.reverse()
    start = events[0].order - 1 if events else upto
    return Window(events, limited, start if limited else 0, {}, {}, {}, {}, {})


def _last_wrong(window: Window) -> int | None:
    """The place of the newest event in the window that tells of a key what a later, hidden change made untrue."""
    if not window.untold:
        return None
    told = [event.order for event in window.events if _key(event) in window.untold]
    return max(told, default=None)


def _key(event: StoredEvent) -> StateKey | None:
    return event.pdu.key if event.pdu.state_key is not None else None


def _with_changes(
    rows: Sequence[LogRow],
    state: Mapping[StateKey, EventId],
    events: Sequence[StoredEvent],
    limited: bool,
    after: int,
    start: int,
    upto: int,
) -> Window:
    at_end: Changes = {}
    at_start: Changes = {}
    changed_in_window: set[StateKey] = set()
    changed_before: set[StateKey] = set()
    for row in reversed(rows):
        for delta in reversed(row.deltas):
            if row.position > upto:
                at_end[delta.key] = at_start[delta.key] = delta.prev_event_id
            elif row.position > start:
                at_start[delta.key] = delta.prev_event_id
                changed_in_window.add(delta.key)
            elif row.position > after:
                changed_before.add(delta.key)
    if not changed_in_window and not changed_before:
        return Window(events, limited, start, at_start, at_end, {}, {}, {})

    def value_at(moment: Changes, key: StateKey) -> EventId | None:
        return moment[key] if key in moment else state.get(key)

    told = {event.pdu.key: event.event_id for event in events if event.pdu.state_key is not None}
    final = {key: value_at(at_end, key) for key in changed_in_window | changed_before}
    return Window(
        events,
        limited,
        start,
        at_start,
        at_end,
        {key: value_at(at_start, key) for key in changed_before},
        {key: final[key] for key in changed_in_window if told.get(key) != final[key]},
        final,
    )


def state_before(window: Window, state: Mapping[StateKey, EventId]) -> dict[StateKey, EventId]:
    """The whole state to tell before the window: that at its start, and what the window doesn't tell."""
    return _overlaid(state, {**window.at_start, **window.untold})


def state_after(window: Window, state: Mapping[StateKey, EventId]) -> dict[StateKey, EventId]:
    """The whole state at the window's end."""
    return _overlaid(state, window.at_end)


def _overlaid(state: Mapping[StateKey, EventId], changes: Changes) -> dict[StateKey, EventId]:
    whole = dict(state)
    for key, event_id in changes.items():
        if event_id is None:
            whole.pop(key, None)
        else:
            whole[key] = event_id
    return whole


def changed(changes: Changes) -> dict[StateKey, EventId]:
    """The keys that have an event; a removed key can't be told."""
    return {key: event_id for key, event_id in changes.items() if event_id is not None}
