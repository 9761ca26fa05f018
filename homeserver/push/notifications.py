"""What notified a user, newest first: judged anew by the user's rules of now, over a bounded part of the log.

Spec: client-server-api#listing-notifications
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, frozen

from homeserver.folds.memberships import Memberships
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.push_conditions import EventContext
from homeserver.matrix.push_evaluation import Outcome, RoomEvaluation, compile_rules
from homeserver.push.rules import PushRules
from homeserver.rooms.ports import ProfileReader
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent
from homeserver.store.log_writer import LogWriter
from homeserver.store.push_rules import RoomFacts, load_recent_events, load_room_facts
from homeserver.store.receipts import UNTHREADED, load_read_orders

MAX_PAGES = 10  # reads of the log for one request
MAX_LIMIT = 200
MAIN = "main"


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
    profiles: ProfileReader

    async def load(
        self, user_id: UserId, before: int | None, limit: int, *, only_highlights: bool
    ) -> tuple[Sequence[Notification], int | None]:
        """At most `limit`, and the position before which more may be; None at the end."""
        rooms = await self.memberships.load(user_id)
        joined = {room_id: row.position for room_id, row in rooms.items() if row.membership == "join"}
        facts = await self.database.read(load_room_facts, list(joined))
        read = await self.database.read(load_read_orders, user_id, list(joined))
        compiled = compile_rules(await self.rules.load(user_id))
        profile = await self.profiles.load_profile(user_id)
        name = profile.get("displayname")
        at = before if before is not None else self.log_writer.position + 1
        found: list[Notification] = []
        for _ in range(MAX_PAGES):
            events, floor = await self.database.read(load_recent_events, facts, at, user_id)
            for event in events:
                outcome = _evaluate(event, facts).outcome(compiled, user_id, name)
                if outcome.notify and (outcome.highlight or not only_highlights):
                    found.append(Notification(event, outcome, _is_read(event, read)))
                    if len(found) == limit:
                        return found, event.order
            at = floor
            if at == 0:
                return found, None
        return found, at


def _evaluate(event: StoredEvent, facts: dict[RoomId, RoomFacts]) -> RoomEvaluation:
    room = facts[event.pdu.room_id]
    context = EventContext(room.joined_members, room.levels.user(event.pdu.sender), room.levels)
    return RoomEvaluation(event.pdu, context)


def _is_read(event: StoredEvent, read: dict[tuple[RoomId, str, str], int]) -> bool:
    room_id = event.pdu.room_id
    threads = (UNTHREADED, event.thread_root or MAIN)
    return any(
        read.get((room_id, receipt_type, thread), -1) >= event.order
        for receipt_type in ("m.read", "m.read.private")
        for thread in threads
    )
