"""Which events of timelines came while events before them were missing; of those that are stored, where they still are.

The first event of a timeline (a join) is none of them, nor is one before which nothing is missing but what is missing before an
earlier one, too.
"""

from __future__ import annotations

from sqlalchemy import Connection

_STATEMENTS = (
    "ALTER TABLE events ADD COLUMN follows_gap BOOLEAN NOT NULL DEFAULT FALSE",
    """
UPDATE events SET follows_gap = TRUE
WHERE timeline_order > 0 AND (event_id, room_id) IN (
    SELECT g.event_id, g.room_id
    FROM event_gaps g
    JOIN events follower ON follower.event_id = g.event_id AND follower.room_id = g.room_id
    WHERE EXISTS (
        SELECT 1 FROM events before
        WHERE before.room_id = g.room_id
        AND before.timeline_order > 0
        AND before.timeline_order < follower.timeline_order
    )
    AND NOT EXISTS (
        SELECT 1 FROM event_gaps known
        WHERE known.room_id = g.room_id AND known.missing_id = g.missing_id AND EXISTS (
            SELECT 1 FROM events named
            WHERE named.event_id = known.event_id
            AND named.room_id = known.room_id
            AND named.timeline_order < follower.timeline_order
        )
    )
)
""",
)


def upgrade(connection: Connection) -> None:
    for statement in _STATEMENTS:
        connection.exec_driver_sql(statement)
