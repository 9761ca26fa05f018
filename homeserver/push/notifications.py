"""What notified a user, newest first: judged anew by the user's rules of now, over a bounded part of the log.

Spec: client-server-api#listing-notifications
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, frozen

from homeserver.folds.memberships import Memberships
from homeserver.matrix.ids import UserId
from homeserver.matrix.push_conditions import Reader
from homeserver.matrix.push_evaluation import CompiledRules, Outcome, compile_rules
from homeserver.push.rules import PushRules
from homeserver.rooms.judging import Judge, evaluate
from homeserver.rooms.unread import Reading, Unread
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogWriter
from homeserver.store.push_rules import RoomFacts, load_recent_events, load_room_facts

MAX_PAGES = 10  # reads of the log for one request
MAX_LIMIT = 200


@frozen
class Notification:
    event: StoredEvent
    outcome: Outcome
    is_read: bool


@define(eq=False)
class Notifications:
    database: Database
    log_writer: LogWriter
    memberships: Memberships
    rules: PushRules
    unread: Unread

    async def load(
        self, user_id: UserId, before: int | None, limit: int, *, only_highlights: bool
    ) -> tuple[Sequence[Notification], int | None]:
        """At most `limit`, and the position before which more may be; None at the end."""
        rooms = await self.memberships.load(user_id)
        joined = [room_id for room_id, row in rooms.items() if row.membership == "join"]
        facts = await self.database.read(load_room_facts, joined)
        compiled = compile_rules(await self.rules.load(user_id), self.rules.kinds)
        readings = await self.unread.load_readings(user_id, joined)
        at = before if before is not None else self.log_writer.position + 1
        found: list[Notification] = []
        for _ in range(MAX_PAGES):
            events, floor = await self.database.read(load_recent_events, facts, at, user_id)
            for event in events:
                reading = readings[event.pdu.room_id]
                outcome = _outcome(event, facts[event.pdu.room_id], reading, compiled, user_id)
                if outcome is not None and (outcome.highlight or not only_highlights):
                    found.append(Notification(event, outcome, reading.is_read(event.order, event.thread_root)))
                    if len(found) == limit:
                        return found, event.order
            at = floor
            if at == 0:
                return found, None
        return found, at


def _outcome(
    event: StoredEvent, room: RoomFacts, reading: Reading, rules: CompiledRules, user_id: UserId
) -> Outcome | None:
    """None for what does not notify, was there before the user, or is from somebody whom they ignore."""
    if event.order <= reading.stay.began or event.pdu.sender in reading.ignored:
        return None
    judge = Judge(rules, Reader(user_id, reading.stay.display_name, reading.threads))
    outcome = judge.outcome(evaluate(event, room.joined_members, room.levels))
    return outcome if outcome.notify else None
