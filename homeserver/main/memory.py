"""How much memory the caches may take."""

from __future__ import annotations

from homeserver.runtime.config import section, setting


@section("caches")
class MemoryConfig:
    """Bounds of what is kept in memory. The defaults suit a server of some hundred users."""

    events_bytes: int = setting(48 * 1024 * 1024, help="Memory for events, in bytes.", minimum=1024 * 1024)
    room_state_entries: int = setting(
        400_000, help="Entries of room state in memory (about 250 bytes each).", minimum=1000
    )
    users: int = setting(20_000, help="Users whose room lists are in memory.", minimum=100)
    histories: int = setting(50_000, help="(Room, user) pairs whose view of the history is in memory.", minimum=100)
    unread: int = setting(100_000, help="(User, room) pairs whose unread counts are in memory.", minimum=100)
    recent_rows: int = setting(
        4_000, help="Newest rows of the log in memory, from which /sync is answered.", minimum=100
    )
