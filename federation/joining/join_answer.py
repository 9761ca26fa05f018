"""What a resident server answers to a join, read and checked.

Nothing of it is believed that is not signed, of the room, and allowed: each event bears its servers' signatures, the state has
one event for a key, its create event is the room's and of the version that the join was made for, and the state allows the join.
That each event is allowed by its own auth events is checked where they are stored (rooms/ingest.py).

Spec: server-server-api#put_matrixfederationv2send_joinroomideventid
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define, frozen

from federation.errors import BadAnswer
from federation.joining.ports import EventChecks
from federation.joining.templates import AUTHORISED_VIA
from homeserver.matrix.auth_rules import check_auth, check_auth_events
from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.errors import AuthRejected, MatrixError
from homeserver.matrix.ids import ServerName, domain_of, is_server_name
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import signature_key_ids
from homeserver.matrix.state_map import CREATE, StateKey
from homeserver.matrix.versions import RoomVersion

# Of an answer: a room of 100,000 members has about twice as many events in its state and their auth chains.
MAX_EVENTS: Final = 400_000
MAX_SERVERS: Final = 20_000


@frozen
class JoinAnswer:
    """The answer's parts, with the right shapes."""

    state: Sequence[dict[str, Any]]
    auth_chain: Sequence[dict[str, Any]]
    event: dict[str, Any] | None = None
    members_omitted: bool = False
    servers: Sequence[ServerName] = ()


@frozen
class CheckedJoin:
    """A join that may be believed, and the state before it. server: took it.

    partial_from: the servers to ask for the rest of the state, where members were omitted.
    """

    server: ServerName
    event: Pdu
    state: Sequence[Pdu]
    auth_chain: Sequence[Pdu]
    partial_from: Sequence[ServerName] = ()


def parse_join_answer(server: ServerName, answer: Any, *, may_omit: bool) -> JoinAnswer:
    """Raises: BadAnswer."""
    if not isinstance(answer, dict):
        raise BadAnswer(server, "it is no object")
    state, auth_chain = (_parse_events(server, answer, name) for name in ("state", "auth_chain"))
    event = answer.get("event")
    if event is not None and not isinstance(event, dict):
        raise BadAnswer(server, "event is no event")
    omitted = answer.get("members_omitted") is True
    if not omitted:
        return JoinAnswer(state, auth_chain, event)
    if not may_omit:
        raise BadAnswer(server, "members are omitted that were asked for")
    listed = answer.get("servers_in_room")
    names = listed[:MAX_SERVERS] if isinstance(listed, list) else []
    servers = [ServerName(name) for name in names if isinstance(name, str) and is_server_name(name)]
    return JoinAnswer(state, auth_chain, event, True, list(dict.fromkeys([server, *servers])))


def _parse_events(server: ServerName, answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    events = answer.get(name)
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise BadAnswer(server, f"{name} is no list of events")
    if len(events) > MAX_EVENTS:
        raise BadAnswer(server, f"{name} has more than {MAX_EVENTS} events")
    return events


@define(eq=False)
class JoinChecks:
    checks: EventChecks

    async def check(self, server: ServerName, join: Pdu, answer: JoinAnswer) -> CheckedJoin:
        """What of the answer may be believed. Raises: BadAnswer."""
        event = await self._check_event(server, join, answer.event)
        known = {mark for raw in answer.state if (mark := _mark(raw)) is not None}
        chain = [raw for raw in answer.auth_chain if _mark(raw) not in known]
        about: Any = {"room_id": join.room_id, "source": server}
        state = await self.checks.check_many(answer.state, join.version, **about)
        auth_chain = await self.checks.check_many(chain, join.version, **about)
        if answer.members_omitted:
            state = [*state, *_needed_members(event, state, auth_chain)]
        try:
            check_state_allows(event, state, auth_chain)
        except MatrixError as error:
            raise BadAnswer(server, error.error) from None
        return CheckedJoin(server, event, state, auth_chain, answer.servers)

    async def _check_event(self, server: ServerName, join: Pdu, raw: dict[str, Any] | None) -> Pdu:
        """Our join, with the signature of the server that vouches for it, where it needs one."""
        if raw is None:
            if (needed := _voucher(join)) is not None and not signature_key_ids(join.json, needed):
                raise BadAnswer(server, f"the join lacks the signature of {needed}")
            return join
        try:
            event = await self.checks.check(raw, join.version, room_id=join.room_id)
        except MatrixError as error:
            raise BadAnswer(server, f"the join comes back wrong: {error.error}") from None
        if event.event_id != join.event_id or _unsigned_json(event) != _unsigned_json(join):
            raise BadAnswer(server, "the join comes back as another event")
        return event


def _needed_members(event: Pdu, state: Sequence[Pdu], auth_chain: Sequence[Pdu]) -> list[Pdu]:
    """The members among the auth events of the join, such as the user's invite: they are part of the state before it."""
    there = {pdu.key for pdu in state if pdu.is_state}
    named = [pdu for pdu in auth_chain if pdu.event_id in event.auth_events and pdu.is_state]
    return [pdu for pdu in named if pdu.type == "m.room.member" and pdu.key not in there]


def check_state_allows(event: Pdu, state: Sequence[Pdu], auth_chain: Sequence[Pdu]) -> None:
    """Whether this is the state of a room of the event's version, and it and the auth events let the event happen.

    Raises: AuthRejected.
    """
    current: dict[StateKey, Pdu] = {}
    for pdu in state:
        if not pdu.is_state or pdu.key in current:
            raise AuthRejected(f"The state has {pdu.event_id} where it can't be")
        current[pdu.key] = pdu
    _check_create(current.get(CREATE), event.version)
    known = {pdu.event_id: pdu for pdu in (*auth_chain, *state)}
    missing = [event_id for event_id in event.auth_events if event_id not in known]
    if missing:
        raise AuthRejected(f"The auth event {missing[0]} is missing")
    auth_events = [known[event_id] for event_id in event.auth_events]
    check_auth_events(event, auth_events)
    check_auth(event, {CREATE: current[CREATE], **{pdu.key: pdu for pdu in auth_events}})
    keys = {CREATE, *auth_types_for(event.version, event.type, event.sender, event.state_key, event.content)}
    check_auth(event, {key: current[key] for key in keys if key in current})


def _check_create(create: Pdu | None, version: RoomVersion) -> None:
    if create is None:
        raise AuthRejected("The state has no create event")
    if create.content.get("room_version", "1") != version.identifier:
        raise AuthRejected("The room is of another version than the join was made for")
    check_auth(create, {})


def _mark(raw: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Tells the same event in two lists without hashing it. One that lies here only hurts its own answer."""
    hashes = raw.get("hashes")
    sha256 = hashes.get("sha256") if isinstance(hashes, dict) else None
    event_id = raw.get("event_id")
    return (sha256, event_id) if isinstance(sha256, str) and isinstance(event_id, str | None) else None


def _voucher(join: Pdu) -> ServerName | None:
    user = join.content.get(AUTHORISED_VIA) if join.version.restricted_join else None
    return domain_of(user) if isinstance(user, str) else None


def _unsigned_json(pdu: Pdu) -> dict[str, Any]:
    json = pdu.json
    json.pop("signatures", None)
    return json
