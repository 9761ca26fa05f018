"""Leases: work that one process at a time may do, whichever that is.

A lease is a row with an owner, a time at which it ends, and a fence that grows with each change of hands. The owner renews
it; one that dies loses it. Whatever the work writes under the lease checks the fence in the same transaction, so an owner
that was only slow can't write after another has taken over.
"""

from __future__ import annotations

from attrs import frozen
from sqlalchemy import Connection, bindparam, select, text, update

from homeserver.store.tables.log import leases as t


class LostLease(Exception):
    """Another process has the lease now, or nobody."""


@frozen
class Lease:
    name: str
    owner: str
    fence: int
    expires_ts_ms: int


# Takes a lease that is free, expired, or one's own already; the fence grows when it changes hands.
_TAKE = text(
    """
    INSERT INTO leases (name, owner, fence, expires_ts_ms) VALUES (:name, :owner, 1, :expires)
    ON CONFLICT (name) DO UPDATE SET
        fence = leases.fence + CASE WHEN leases.owner = excluded.owner THEN 0 ELSE 1 END,
        owner = excluded.owner,
        expires_ts_ms = excluded.expires_ts_ms
    WHERE leases.owner = excluded.owner OR leases.expires_ts_ms <= :now
    RETURNING fence
    """
)
_OWN = (t.c.name == bindparam("lease"), t.c.owner == bindparam("own"), t.c.fence == bindparam("held"))
_RENEW = update(t).where(*_OWN, t.c.expires_ts_ms > bindparam("now")).values(expires_ts_ms=bindparam("expires"))
_HELD = select(t.c.name).where(*_OWN).with_for_update()


def take_lease(conn: Connection, name: str, owner: str, now_ms: int, duration_ms: int) -> Lease | None:
    """None while another owner has it."""
    expires = now_ms + duration_ms
    fence = conn.scalar(_TAKE, {"name": name, "owner": owner, "expires": expires, "now": now_ms})
    return Lease(name, owner, fence, expires) if fence is not None else None


def renew_lease(conn: Connection, lease: Lease, now_ms: int, duration_ms: int) -> Lease:
    """Raises: LostLease; a lease that ran out has to be taken anew, for others may have had it."""
    expires = now_ms + duration_ms
    if conn.execute(_RENEW, {**_named(lease), "now": now_ms, "expires": expires}).rowcount != 1:
        raise LostLease(lease.name)
    return Lease(lease.name, lease.owner, lease.fence, expires)


def check_lease(conn: Connection, lease: Lease) -> None:
    """In the transaction of what is written under the lease. Raises: LostLease, when it has changed hands."""
    if conn.scalar(_HELD, _named(lease)) is None:
        raise LostLease(lease.name)


def release_lease(conn: Connection, lease: Lease) -> None:
    """Let the next one have it at once. The row stays, with its fence."""
    conn.execute(_RENEW, {**_named(lease), "now": 0, "expires": 0})


def _named(lease: Lease) -> dict[str, object]:
    return {"lease": lease.name, "own": lease.owner, "held": lease.fence}
