"""Sending messages, state and redactions on a local user's behalf.

Spec: client-server-api#sending-events-to-a-room
"""

from __future__ import annotations

from typing import Any

from attrs import define, evolve

from homeserver.accounts.requester import Requester
from homeserver.folds.events import EventCache
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import BadJson, Forbidden, InvalidParam, NotFound
from homeserver.matrix.ids import EventId, RoomId, parse_event_id, parse_user_id
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.membership import RoomMembership
from homeserver.rooms.relation_policy import RelationPolicy
from homeserver.rooms.state_policy import StatePolicy
from homeserver.rooms.transactions import Transactions
from homeserver.rooms.writer import Draft, Plan, RoomWriter
from homeserver.store.room_writes import Transaction

_REDACTION = "m.room.redaction"
MAX_TXN_ID_LENGTH = 255


@define(eq=False)
class Sending:
    """What PUT /send, /state and /redact do. The room's auth rules decide; here is only what they leave open."""

    writer: RoomWriter
    events: EventCache
    transactions: Transactions
    membership: RoomMembership
    policy: StatePolicy
    relations: RelationPolicy

    async def send(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        content: dict[str, Any],
        txn_id: str,
        sticky_ms: int | None = None,
        *,
        is_delayed: bool = False,
    ) -> EventId:
        """Send a message event; the same transaction id again gives the same event. sticky_ms: for how long it is sticky.
        is_delayed: the transaction id is a delay id, which all devices of the sender are told.

        Raises: Forbidden, InvalidParam, BadJson, TooLarge, DuplicateAnnotation, M_UNKNOWN for an impossible thread.
        """
        check_text("eventType", type)
        transaction = make_transaction(requester, room_id, f"send\n{type}", txn_id)

        async def send() -> EventId:
            requester.check_not_suspended()
            draft = _draft(requester, type, content, txn_id, sticky_ms=sticky_ms)
            if is_delayed:
                draft = evolve(draft, device_id=None)
            if type == _REDACTION:
                draft = await self._check_redaction(requester, room_id, draft)
            if "m.relates_to" in content:
                head = await self._load_head(room_id)
                await self.relations.check_relation(head, requester.user_id, type, content)
            return await self._write(room_id, lambda head: (draft,), transaction)

        return await self.transactions.once(transaction, send)

    async def set_state(
        self,
        requester: Requester,
        room_id: RoomId,
        type: str,
        state_key: str,
        content: dict[str, Any],
        *,
        sticky_ms: int | None = None,
        delay_id: str | None = None,
    ) -> EventId:
        """Send a state event; setting what is set already is no new event, unless it is to be sticky from now on.

        Raises: Forbidden, InvalidParam, BadJson, TooLarge.
        """
        requester.check_not_suspended()
        check_text("eventType", type)
        check_text("stateKey", state_key)
        check_may_stick(type, sticky_ms)
        if type == MEMBER:
            return await self.membership.change(requester, room_id, parse_user_id(state_key, "stateKey"), content)
        await self.policy.check_state_event(requester, room_id, type, state_key, content)
        draft = Draft(type, requester.user_id, content, state_key, txn_id=delay_id, sticky_ms=sticky_ms)
        same = await self._load_same(room_id, draft) if sticky_ms is None else None
        if same is not None:
            return same
        return await self._write(room_id, lambda head: (draft,))

    async def redact(
        self, requester: Requester, room_id: RoomId, target: EventId, content: dict[str, Any], txn_id: str
    ) -> EventId:
        """Redact an event: one's own, or any with the power to.

        Raises: Forbidden, NotFound, BadJson.
        """
        transaction = make_transaction(requester, room_id, f"redact\n{target}", txn_id)

        async def send() -> EventId:
            requester.check_not_suspended()
            reason = content.get("reason")
            if reason is not None and not isinstance(reason, str):
                raise BadJson("reason: must be a string")
            await self._check_may_redact(requester, room_id, target)
            draft = _draft(requester, _REDACTION, content, txn_id, target)
            return await self._write(room_id, lambda head: (draft,), transaction)

        return await self.transactions.once(transaction, send)

    async def _check_redaction(self, requester: Requester, room_id: RoomId, draft: Draft) -> Draft:
        """A redaction through /send names its target in `redacts`. Spec: v1.18 (MSC4169)."""
        redacts = draft.content.get("redacts")
        if not isinstance(redacts, str):
            raise BadJson("redacts: must be an event id")
        target = parse_event_id(redacts, "redacts")
        await self._check_may_redact(requester, room_id, target)
        rest = {key: value for key, value in draft.content.items() if key != "redacts"}
        return evolve(draft, content=rest, redacts=target)

    async def _check_may_redact(self, requester: Requester, room_id: RoomId, target: EventId) -> None:
        head = await self._load_head(room_id)
        if not head.is_joined(requester.user_id):
            raise Forbidden("You are not in this room")
        event = await self.events.load(target, room_id, head.version)
        if event is None:
            raise NotFound("The event to redact is not known in this room")
        levels = head.power_levels
        if event.pdu.sender != requester.user_id and levels.user(requester.user_id) < levels.redact:
            raise Forbidden("You may not redact events of others in this room")

    async def _load_same(self, room_id: RoomId, draft: Draft) -> EventId | None:
        """The current event of the draft's key if it says the same by the same sender."""
        head = await self._load_head(room_id)
        assert draft.state_key is not None
        event_id = head.state.get((draft.type, draft.state_key))
        if event_id is None:
            return None
        event = await self.events.load(event_id, room_id, head.version)
        if event is None or event.pdu.sender != draft.sender or not head.is_joined(draft.sender):
            return None
        # As JSON, where 1 is not true.
        return event_id if canonical_json(event.pdu.content) == canonical_json(draft.content) else None

    async def _load_head(self, room_id: RoomId) -> RoomHead:
        """Raises: Forbidden, also for rooms that are not there."""
        try:
            return await self.writer.heads.load(room_id)
        except NotFound:
            raise Forbidden("You are not in this room, or it does not exist") from None

    async def _write(self, room_id: RoomId, plan: Plan, transaction: Transaction | None = None) -> EventId:
        try:
            events = await self.writer.write(room_id, plan, transaction=transaction)
        except NotFound:
            raise Forbidden("You are not in this room, or it does not exist") from None
        return events[-1].event_id


def make_transaction(requester: Requester, room_id: RoomId, path: str, txn_id: str) -> Transaction:
    """Raises: InvalidParam."""
    check_text("txnId", txn_id)
    return Transaction(requester.user_id, requester.device_id or "", f"{room_id}\n{path}\n{txn_id}")


def _draft(
    requester: Requester,
    type: str,
    content: dict[str, Any],
    txn_id: str,
    redacts: EventId | None = None,
    sticky_ms: int | None = None,
) -> Draft:
    return Draft(
        type,
        requester.user_id,
        content,
        redacts=redacts,
        device_id=requester.device_id or "",
        txn_id=txn_id,
        sticky_ms=sticky_ms,
    )


def check_may_stick(type: str, sticky_ms: int | None) -> None:
    """Memberships are made by rules of their own, and of other servers' rooms elsewhere. Raises: InvalidParam."""
    if type == MEMBER and sticky_ms is not None:
        raise InvalidParam("sticky_duration_ms", "memberships can't be sticky")


def check_text(field: str, value: str) -> None:
    """What becomes a key in the database: bounded, and without NUL, which PostgreSQL's text can't hold."""
    if "\0" in value:
        raise InvalidParam(field, "must not contain NUL")
    if len(value.encode("utf-8", "surrogatepass")) > MAX_TXN_ID_LENGTH:
        raise InvalidParam(field, f"longer than {MAX_TXN_ID_LENGTH} bytes")
