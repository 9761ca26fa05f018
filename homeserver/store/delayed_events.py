"""Delayed events, until they are sent or cancelled; and for a while, what became of them."""

from __future__ import annotations

from typing import Final

from attrs import asdict, frozen
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update

from homeserver.matrix.ids import DeviceId, EventId, RoomId, UserId
from homeserver.store.room_writes import Transaction, load_transactions
from homeserver.store.tables.delayed_events import delayed_events as d
from homeserver.store.tables.delayed_events import finalised_delayed_events as f
from homeserver.store.tables.rooms import event_transactions

# When that is due which is being sent, or was when the process ended: it is sent, and nobody takes it back any more.
_BEING_SENT: Final = 0


@frozen
class DelayedEvent:
    """content: JSON. state_key: None for a message event."""

    user_id: UserId
    delay_id: str
    device_id: DeviceId | None
    room_id: RoomId
    type: str
    state_key: str | None
    content: bytes
    delay_ms: int
    running_since_ms: int
    due_ts_ms: int
    sticky_ms: int | None = None


@frozen
class FinalisedEvent:
    """What became of a delayed event: event_id when it was sent, error (JSON) when it could not be, neither when it was
    cancelled.
    """

    delay_id: str
    user_id: UserId
    room_id: RoomId
    type: str
    state_key: str | None
    content: bytes
    delay_ms: int
    running_since_ms: int
    finalised_ts_ms: int
    event_id: EventId | None
    error: str | None


_COLUMNS = tuple(d.c[name] for name in DelayedEvent.__annotations__)
# What both tables have.
_SHARED = ("delay_id", "user_id", "room_id", "type", "state_key", "content", "delay_ms", "running_since_ms")
_OUTCOME = ("finalised_ts_ms", "event_id", "error")


@frozen
class Retention:
    """How many finalised events of a user are kept, and until when those of all."""

    before_ts_ms: int
    of_user: int


def save_delayed_event(conn: Connection, event: DelayedEvent, limit: int, transaction: Transaction | None) -> str | int:
    """The event's delay id, or that of the event which the transaction made when it came first. When the user has `limit`
    already, when the next of theirs is due.
    """
    if transaction is not None:
        known = load_transactions(conn, [transaction])
        if known:
            return known[transaction]
    count: int = conn.scalar(select(func.count()).where(d.c.user_id == event.user_id)) or 0
    if count >= limit:
        return conn.scalar(select(func.min(d.c.due_ts_ms)).where(d.c.user_id == event.user_id)) or 0
    conn.execute(insert(d).values(**asdict(event)))
    if transaction is not None:
        conn.execute(insert(event_transactions).values(**asdict(transaction), event_id=event.delay_id))
    return event.delay_id


def load_delayed_events(conn: Connection, user_id: UserId) -> list[DelayedEvent]:
    rows = conn.execute(select(*_COLUMNS).where(d.c.user_id == user_id).order_by(d.c.due_ts_ms))
    return [DelayedEvent(*row) for row in rows]


def load_delayed_event(conn: Connection, delay_id: str) -> DelayedEvent | FinalisedEvent | None:
    row = conn.execute(select(*_COLUMNS).where(d.c.delay_id == delay_id)).first()
    return DelayedEvent(*row) if row is not None else load_finalised_event(conn, delay_id)


def load_finalised_event(conn: Connection, delay_id: str) -> FinalisedEvent | None:
    row = conn.execute(select(*(f.c[name] for name in (*_SHARED, *_OUTCOME))).where(f.c.delay_id == delay_id)).first()
    return FinalisedEvent(*row) if row is not None else None


def load_due(conn: Connection, now_ms: int, limit: int) -> tuple[list[DelayedEvent], int | None]:
    """Those whose time has come and that nobody sends yet, and when the next one's time does."""
    is_due = (d.c.due_ts_ms > _BEING_SENT, d.c.due_ts_ms <= now_ms)
    due = conn.execute(select(*_COLUMNS).where(*is_due).order_by(d.c.due_ts_ms).limit(limit))
    following: int | None = conn.scalar(select(func.min(d.c.due_ts_ms)).where(d.c.due_ts_ms > now_ms))
    return [DelayedEvent(*row) for row in due], following


def load_begun(conn: Connection) -> list[DelayedEvent]:
    """Those that are being sent, or were when the process ended that did."""
    return [DelayedEvent(*row) for row in conn.execute(select(*_COLUMNS).where(d.c.due_ts_ms == _BEING_SENT))]


def restart_delayed_event(conn: Connection, delay_id: str, now_ms: int) -> int | None:
    """Begin its time anew; when it is due then, None if there is none that is still waiting."""
    values = {"running_since_ms": now_ms, "due_ts_ms": d.c.delay_ms + now_ms}
    if not conn.execute(update(d).where(*_waiting(delay_id)).values(values)).rowcount:
        return None
    return conn.scalar(select(d.c.due_ts_ms).where(d.c.delay_id == delay_id))


def cancel_delayed_event(conn: Connection, delay_id: str, now_ms: int, retention: Retention) -> bool:
    """Whether it was still waiting."""
    if conn.execute(select(d.c.delay_id).where(*_waiting(delay_id)).with_for_update()).first() is None:
        return False
    finalise_delayed_event(conn, delay_id, now_ms, retention)
    return True


def _waiting(delay_id: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return d.c.delay_id == delay_id, d.c.due_ts_ms != _BEING_SENT


def begin_sending(conn: Connection, delay_id: str, now_ms: int) -> bool:
    """From here on it is sent; False if it was taken back since it was found due, its time began anew, or another process
    sends it.
    """
    due = update(d).where(d.c.delay_id == delay_id, d.c.due_ts_ms > _BEING_SENT, d.c.due_ts_ms <= now_ms)
    return conn.execute(due.values(due_ts_ms=_BEING_SENT)).rowcount == 1


def hasten_delayed_event(conn: Connection, delay_id: str) -> DelayedEvent | None:
    """It is sent from here on, even if the process ends now."""
    conn.execute(update(d).where(d.c.delay_id == delay_id).values(due_ts_ms=_BEING_SENT))
    row = conn.execute(select(*_COLUMNS).where(d.c.delay_id == delay_id)).first()
    return DelayedEvent(*row) if row is not None else None


def keep_waiting(conn: Connection, delay_id: str) -> int | None:
    """It could not be sent before its time: it waits for that again. When it is due."""
    conn.execute(update(d).where(d.c.delay_id == delay_id).values(due_ts_ms=d.c.running_since_ms + d.c.delay_ms))
    return conn.scalar(select(d.c.due_ts_ms).where(d.c.delay_id == delay_id))


def finalise_delayed_event(
    conn: Connection,
    delay_id: str,
    now_ms: int,
    retention: Retention,
    *,
    event_id: EventId | None = None,
    error: str | None = None,
) -> None:
    """It is no longer waited for; what became of it is kept. Nothing happens when it isn't there any more."""
    row = conn.execute(select(*(d.c[name] for name in _SHARED)).where(d.c.delay_id == delay_id)).first()
    if row is None or not conn.execute(delete(d).where(d.c.delay_id == delay_id)).rowcount:
        return
    outcome = {"finalised_ts_ms": now_ms, "event_id": event_id, "error": error}
    conn.execute(insert(f).values(**dict(zip(_SHARED, row, strict=True)), **outcome))
    _forget_finalised(conn, row[1], retention)


def _forget_finalised(conn: Connection, user_id: UserId, retention: Retention) -> None:
    conn.execute(delete(f).where(f.c.finalised_ts_ms < retention.before_ts_ms))
    of_user = select(f.c.finalised_ts_ms).where(f.c.user_id == user_id).order_by(f.c.finalised_ts_ms.desc())
    last_ts_ms = conn.scalar(of_user.offset(retention.of_user).limit(1))
    if last_ts_ms is not None:
        conn.execute(delete(f).where(f.c.user_id == user_id, f.c.finalised_ts_ms <= last_ts_ms))


def load_state_keys(conn: Connection) -> set[tuple[RoomId, str, str]]:
    """Room, type and state key of all that would change state."""
    rows = conn.execute(select(d.c.room_id, d.c.type, d.c.state_key).where(d.c.state_key.is_not(None)).distinct())
    return {(row[0], row[1], row[2]) for row in rows}


def finalise_outdated(
    conn: Connection,
    room_id: RoomId,
    type_: str,
    state_key: str,
    sender: UserId,
    now_ms: int,
    retention: Retention,
    error: str,
) -> bool:
    """Give up what users other than the sender would set this state to, but for what is being sent. Whether anybody has some
    still."""
    of_key = (d.c.room_id == room_id, d.c.type == type_, d.c.state_key == state_key)
    waiting = select(d.c.delay_id).where(*of_key, d.c.user_id != sender, d.c.due_ts_ms != _BEING_SENT)
    outdated = conn.execute(waiting).scalars().all()
    for delay_id in outdated:  # as a rule there is none
        finalise_delayed_event(conn, delay_id, now_ms, retention, error=error)
    return conn.execute(select(d.c.delay_id).where(*of_key).limit(1)).first() is not None
