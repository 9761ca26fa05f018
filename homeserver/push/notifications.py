"""What notified a user, newest first: judged anew by the user's rules of now, over a bounded part of the log.

Spec: client-server-api#listing-notifications
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import define, frozen

from homeserver.folds.memberships import Memberships
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.push_conditions import GetRelated, Reader, get_none
from homeserver.matrix.push_evaluation import CompiledRules, Outcome, compile_rules
from homeserver.push.rules import PushRules
from homeserver.rooms.judging import Judge, evaluate, related_ids, related_of
from homeserver.rooms.unread import Reading, Unread
from homeserver.runtime.db import Database
from homeserver.store.events import StoredEvent, load_events
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
            get_related = await self._load_related(compiled, events, facts)
            for event in events:
                reading = readings[event.pdu.room_id]
                judge = Judge(compiled, Reader(user_id, reading.stay.display_name, reading.threads))
                outcome = _outcome(event, facts[event.pdu.room_id], reading, judge, get_related)
                if outcome is not None and (outcome.highlight or not only_highlights):
                    found.append(Notification(event, outcome, reading.is_read(event.order, event.thread_root)))
                    if len(found) == limit:
                        return found, event.order
            at = floor
            if at == 0:
                return found, None
        return found, at

    async def _load_related(
        self, rules: CompiledRules, events: Sequence[StoredEvent], facts: Mapping[RoomId, RoomFacts]
    ) -> GetRelated:
        """Knows the events to which these relate, if the rules look at them."""
        targets = {target for event in events for target in related_ids(event)} if rules.asks_related else ()
        if not targets:
            return get_none
        versions = {room_id: room.version for room_id, room in facts.items()}
        return related_of(await self.database.read(load_events, targets, versions))


def _outcome(
    event: StoredEvent, room: RoomFacts, reading: Reading, judge: Judge, get_related: GetRelated
) -> Outcome | None:
    """None for what does not notify, was there before the user, or is from somebody whom they ignore."""
    if event.order <= reading.stay.began or event.pdu.sender in reading.ignored:
        return None
    outcome = judge.outcome(evaluate(event, room.joined_members, room.levels, get_related))
    return outcome if outcome.notify else None
