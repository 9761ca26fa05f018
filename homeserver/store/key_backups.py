"""Key backups: versions of each user, and the sessions in them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, func, insert, select, tuple_, update

from homeserver.store.events import chunked
from homeserver.store.tables.e2ee import key_backup_sessions as s
from homeserver.store.tables.e2ee import key_backups as b
from homeserver.store.upsert import upsert


@frozen
class BackupVersion:
    version: int
    algorithm: str
    auth_data: bytes  # JSON
    etag: int  # raised whenever the keys in it change
    key_count: int


@frozen
class BackedUpSession:
    room_id: str
    session_id: str
    first_message_index: int
    forwarded_count: int
    is_verified: bool
    session_data: bytes  # JSON

    def is_better_than(self, other: BackedUpSession) -> bool:
        """Whether it replaces the other in a backup.

        Spec: client-server-api#server-side-key-backups
        """
        if self.is_verified != other.is_verified:
            return self.is_verified
        if self.first_message_index != other.first_message_index:
            return self.first_message_index < other.first_message_index
        return self.forwarded_count < other.forwarded_count


_VERSION_COLUMNS = (b.c.version, b.c.algorithm, b.c.auth_data, b.c.etag, b.c.key_count)
_SESSION_COLUMNS = (
    s.c.room_id,
    s.c.session_id,
    s.c.first_message_index,
    s.c.forwarded_count,
    s.c.is_verified,
    s.c.session_data,
)
_LIVE = select(*_VERSION_COLUMNS).where(b.c.user_id == bindparam("user"), b.c.is_deleted.is_(False))
_LATEST = _LIVE.order_by(b.c.version.desc()).limit(1)
_ONE = _LIVE.where(b.c.version == bindparam("version"))
_NEXT = select(func.coalesce(func.max(b.c.version), 0) + 1).where(b.c.user_id == bindparam("user"))
_UPSERT_SESSION = upsert(s)


def load_latest_version(conn: Connection, user_id: str) -> BackupVersion | None:
    row = conn.execute(_LATEST, {"user": user_id}).first()
    return BackupVersion(*row) if row is not None else None


def load_version(conn: Connection, user_id: str, version: int) -> BackupVersion | None:
    row = conn.execute(_ONE, {"user": user_id, "version": version}).first()
    return BackupVersion(*row) if row is not None else None


def create_version(conn: Connection, user_id: str, algorithm: str, auth_data: bytes) -> int:
    """Versions count up from 1 and are never used again."""
    version: int = conn.execute(_NEXT, {"user": user_id}).scalar_one()
    values = {"user_id": user_id, "version": version, "algorithm": algorithm, "auth_data": auth_data}
    conn.execute(insert(b).values(**values, etag=0, key_count=0, is_deleted=False))
    return version


def save_auth_data(conn: Connection, user_id: str, version: int, auth_data: bytes) -> bool:
    """False where the version is gone."""
    where = (b.c.user_id == user_id, b.c.version == version, b.c.is_deleted.is_(False))
    return conn.execute(update(b).where(*where).values(auth_data=auth_data)).rowcount == 1


def delete_version(conn: Connection, user_id: str, version: int) -> bool:
    """The row stays, so that its number is not used again; False where there is none to delete."""
    _lock(conn, user_id, version)  # what is being saved into it goes with it
    conn.execute(delete(s).where(s.c.user_id == user_id, s.c.version == version))
    where = (b.c.user_id == user_id, b.c.version == version, b.c.is_deleted.is_(False))
    return conn.execute(update(b).where(*where).values(is_deleted=True, auth_data=b"{}", key_count=0)).rowcount == 1


def delete_backups(conn: Connection, user_id: str) -> None:
    """All of the user's."""
    conn.execute(delete(s).where(s.c.user_id == user_id))
    conn.execute(delete(b).where(b.c.user_id == user_id))


def load_session(conn: Connection, user_id: str, version: int, room_id: str, session_id: str) -> BackedUpSession | None:
    where = (s.c.user_id == user_id, s.c.version == version, s.c.room_id == room_id, s.c.session_id == session_id)
    row = conn.execute(select(*_SESSION_COLUMNS).where(*where)).first()
    return BackedUpSession(*row[:4], bool(row[4]), row[5]) if row is not None else None


def load_session_page(
    conn: Connection, user_id: str, version: int, after: tuple[str, str] | None, limit: int, room_id: str | None = None
) -> list[BackedUpSession]:
    """The next of a version's sessions, or of a room's in it, behind one (room id, session id); ordered by these."""
    statement = select(*_SESSION_COLUMNS).where(s.c.user_id == user_id, s.c.version == version)
    if room_id is not None:
        statement = statement.where(s.c.room_id == room_id)
        if after is not None:  # PERF: of a room, the comparison of pairs would read it from its beginning
            statement = statement.where(s.c.session_id > after[1])
    elif after is not None:
        statement = statement.where(tuple_(s.c.room_id, s.c.session_id) > tuple_(*after))
    rows = conn.execute(statement.order_by(s.c.room_id, s.c.session_id).limit(limit))
    return [BackedUpSession(*row[:4], bool(row[4]), row[5]) for row in rows]


def save_sessions(
    conn: Connection, user_id: str, version: int, sessions: Iterable[BackedUpSession]
) -> BackupVersion | None:
    """Add sessions, or put them in the place of worse ones; the version after it, None when it is gone."""
    if _lock(conn, user_id, version) is None:
        return None
    wanted = {(session.room_id, session.session_id): session for session in sessions}
    known = _load_named(conn, user_id, version, {session_id for _, session_id in wanted})
    better = [new for name, new in wanted.items() if name not in known or new.is_better_than(known[name])]
    added = sum(1 for new in better if (new.room_id, new.session_id) not in known)
    if better:
        conn.execute(
            _UPSERT_SESSION, [{"user_id": user_id, "version": version, **asdict(session)} for session in better]
        )
        _count(conn, user_id, version, added)
    return load_version(conn, user_id, version)


def delete_sessions(
    conn: Connection, user_id: str, version: int, room_id: str | None, session_id: str | None
) -> BackupVersion | None:
    """Delete all of a version, of a room in it, or one; the version after it, None when it is gone."""
    if _lock(conn, user_id, version) is None:
        return None
    where = [s.c.user_id == user_id, s.c.version == version]
    where += [s.c.room_id == room_id] if room_id is not None else []
    where += [s.c.session_id == session_id] if session_id is not None else []
    deleted = conn.execute(delete(s).where(*where)).rowcount
    if deleted:
        _count(conn, user_id, version, -deleted)
    return load_version(conn, user_id, version)


def _lock(conn: Connection, user_id: str, version: int) -> int | None:
    statement = select(b.c.version).where(b.c.user_id == user_id, b.c.version == version, b.c.is_deleted.is_(False))
    return conn.scalar(statement.with_for_update())


def _count(conn: Connection, user_id: str, version: int, added: int) -> None:
    conn.execute(
        update(b)
        .where(b.c.user_id == user_id, b.c.version == version)
        .values(etag=b.c.etag + 1, key_count=b.c.key_count + added)
    )


def _load_named(
    conn: Connection, user_id: str, version: int, session_ids: Collection[str]
) -> dict[tuple[str, str], BackedUpSession]:
    found: dict[tuple[str, str], BackedUpSession] = {}
    for chunk in chunked(session_ids):
        rows: Sequence[BackedUpSession] = [
            BackedUpSession(*row[:4], bool(row[4]), row[5])
            for row in conn.execute(
                select(*_SESSION_COLUMNS).where(
                    s.c.user_id == user_id, s.c.version == version, s.c.session_id.in_(list(chunk))
                )
            )
        ]
        found.update({(session.room_id, session.session_id): session for session in rows})
    return found
