"""Policy servers: what they do not recommend is soft failed if it comes from others (receipt check 7), and not sent by us.

A signature that is there is checked in memory. Where it is missing or wrong, the policy server is asked for a new one, for its
key may have changed meanwhile; one that can't be reached recommends nothing.

Nobody is kept in a room by its policy server: where it does not recommend that a user leaves, they leave nevertheless, as long
as the event says nothing else. Such a bare leave holds no word of anybody's that one might want to stop.

Spec: server-server-api#policy-servers
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence
from typing import Any, Final

from attrs import define, field, frozen

from federation.bounded import Bounded
from federation.client import FederationClient
from federation.errors import BadAnswer, RemoteRefused, RemoteUnreachable
from federation.policy_server import PolicyServer, Refused, is_bare_leave
from homeserver.folds.events import EventCache
from homeserver.matrix.canonical import encode_for_version
from homeserver.matrix.errors import BadSignature, Forbidden, MatrixError
from homeserver.matrix.ids import EventId, RoomId, ServerName, is_server_name
from homeserver.matrix.pdu import Pdu, check_size
from homeserver.matrix.signing import KeyId, VerifyKey, verify_event_signature
from homeserver.matrix.state_map import StateKey
from homeserver.rooms.head import MEMBER
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.partial_states import PartialStates
from homeserver.store.partial_rooms import PartialRoom

logger = logging.getLogger(__name__)

POLICY: Final[StateKey] = ("m.room.policy", "")
KEY_ID: Final = KeyId("ed25519:policy_server")
SIGN_PATH: Final = "/_matrix/policy/v1/sign"
SIGN_TIMEOUT_MS: Final = 10_000
MAX_ANSWER_BYTES: Final = 64 * 1024
ROOMS_KEPT: Final = 1_000
VERBATIM: Final = frozenset({400, 403, 429})
_TOKEN_ERRORS: Final = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_DEACTIVATED", "M_USER_LOCKED"})


@frozen
class Policy:
    """A room's policy server. `key` is None where what the room names is none: then nothing is recommended."""

    server: ServerName
    key: VerifyKey | None


@frozen(eq=False)
class _Basis:
    """What tells whether a room has a policy server, and which. partial: where not all members are known yet, what is known of
    the servers in the room."""

    event_id: EventId
    members: object
    servers: Container[ServerName]
    partial: PartialRoom | None

    def is_same(self, other: _Basis) -> bool:
        same_members = self.members is other.members and self.partial is other.partial
        return same_members and self.event_id == other.event_id

    def is_server_joined(self, server: ServerName) -> bool:
        return server in self.servers or (self.partial is not None and server in self.partial.servers)


@define(eq=False)
class PolicyServers:
    """Which rooms use one, and what it says."""

    client: FederationClient
    heads: RoomHeads
    events: EventCache
    partial: PartialStates
    # Where this server is one.
    own: PolicyServer | None = None
    # By room, with what it was made from.
    _policies: Bounded[RoomId, tuple[_Basis, Policy | None]] = field(init=False, factory=lambda: Bounded(ROOMS_KEPT))

    async def is_recommended(self, pdu: Pdu) -> bool:
        """Whether the event bears the signature that its room wants; nobody is asked."""
        policy = await self._load_policy(pdu)
        return policy is None or is_bare_leave(pdu) or _is_signed(pdu, policy)

    async def split(self, pdus: Sequence[Pdu]) -> list[list[Pdu]]:
        """Events of one room in parts, so that none comes behind one in its part that may change what is recommended."""
        head = self.heads.get(pdus[0].room_id) or await self.heads.load(pdus[0].room_id)
        deciding = {POLICY[0], MEMBER} if POLICY in head.state else {POLICY[0]}
        parts: list[list[Pdu]] = [[]]
        for pdu in pdus:
            parts[-1].append(pdu)
            if pdu.type in deciding:
                parts.append([])
        return [part for part in parts if part]

    async def ask(self, pdu: Pdu) -> tuple[Pdu, str | None]:
        """The event, with the policy server's signature where it gives one; and why it is not recommended, if it is not."""
        if is_bare_leave(pdu):
            return pdu, None
        try:
            return await self._ask(pdu), None
        except (RemoteUnreachable, RemoteRefused) as error:
            return pdu, f"The policy server {error.server} does not recommend it: {error.error}"
        except BadAnswer as error:
            return pdu, f"The policy server {error.server} gives no valid signature"

    async def review(self, pdu: Pdu, /) -> Pdu:
        """See EventReviewer (homeserver/rooms/ports.py): the server's error goes to the client as it is.

        Spec: server-server-api#validating-policy-server-signatures
        """
        try:
            signed = await self._ask(pdu)
        except (RemoteUnreachable, RemoteRefused, BadAnswer) as error:
            if is_bare_leave(pdu):
                logger.info("%s is sent without a recommendation: %s", pdu, error)
                return pdu
            raise _refusal(error) from None
        if signed is not pdu:
            check_size(signed.json_bytes)
        return signed

    async def _ask(self, pdu: Pdu) -> Pdu:
        """With the policy server's signature, if it needs one. Raises: RemoteUnreachable, RemoteRefused, BadAnswer."""
        policy = await self._load_policy(pdu)
        if policy is None or _is_signed(pdu, policy):
            return pdu
        answer = await self._ask_for_signature(pdu, policy.server)
        signed = _with_signature(pdu, policy, answer)
        if signed is None:
            raise BadAnswer(policy.server, "there is no valid signature in it")
        return signed

    async def _ask_for_signature(self, pdu: Pdu, server: ServerName) -> Any:
        """Raises: RemoteUnreachable, RemoteRefused."""
        if self.own is None or server != self.own.server_name:
            return await self.client.post(
                server, SIGN_PATH, pdu.json, timeout_ms=SIGN_TIMEOUT_MS, max_bytes=MAX_ANSWER_BYTES
            )
        if not self.own.rules.guards(pdu.room_id):
            raise RemoteUnreachable(server, "it does not guard the room")
        try:
            return self.own.recommend(pdu)
        except Refused as error:
            raise RemoteRefused(server, error.status, error.to_json()) from None

    async def _load_policy(self, pdu: Pdu) -> Policy | None:
        """What the room's current state says; None where this event needs no recommendation."""
        if pdu.type == POLICY[0] and pdu.state_key == "":
            return None
        head = self.heads.get(pdu.room_id) or await self.heads.load(pdu.room_id)
        event_id = head.state.get(POLICY)
        if event_id is None:
            return None
        basis = _Basis(event_id, head.members, head.servers, self.partial.get(head.room_id))
        kept = self._policies.get(head.room_id)
        if kept is not None and kept[0].is_same(basis):
            return kept[1]
        event = await self.events.load(event_id, head.room_id, head.version)
        policy = parse_policy(event.pdu.content, basis) if event is not None else None
        self._policies.put(head.room_id, (basis, policy))
        return policy


def parse_policy(content: dict[str, Any], basis: _Basis) -> Policy | None:
    """None if the room does not use a policy server: the event is not of the right shape, or that server not in the room.

    Spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
    """
    via, keys = content.get("via"), content.get("public_keys")
    key = keys.get("ed25519") if isinstance(keys, dict) else None
    if not isinstance(via, str) or not isinstance(key, str) or not is_server_name(via):
        return None
    if not basis.is_server_joined(ServerName(via)):
        return None
    try:
        return Policy(ServerName(via), VerifyKey.from_base64(KEY_ID, key))
    except ValueError:
        return Policy(ServerName(via), None)


def _refusal(error: RemoteUnreachable | RemoteRefused | BadAnswer) -> MatrixError:
    """For the client whose event it is. What sounds like something else than a refusal is none of the client's business."""
    if isinstance(error, BadAnswer):
        return Forbidden(f"The room's policy server {error.server} does not sign the event")
    if not isinstance(error, RemoteRefused):
        return error
    if error.status not in VERBATIM or error.errcode in _TOKEN_ERRORS:
        return MatrixError(f"The room's policy server {error.server} answers {error.status}: {error.error}", status=502)
    wait_ms = error.body.get("retry_after_ms") if isinstance(error.body, dict) else None
    extra = {"retry_after_ms": wait_ms} if type(wait_ms) is int else {}
    return MatrixError(error.error, errcode=error.errcode, status=error.status, **extra)


def _is_signed(pdu: Pdu, policy: Policy) -> bool:
    if policy.key is None:
        return False
    try:
        verify_event_signature(pdu.json, pdu.version, policy.server, policy.key)
    except BadSignature:
        return False
    return True


def _with_signature(pdu: Pdu, policy: Policy, answer: Any) -> Pdu | None:
    """The event with the signature in the answer beside those it has; None if that is not valid."""
    given = answer.get(policy.server) if isinstance(answer, dict) else None
    signature = given.get(KEY_ID) if isinstance(given, dict) else None
    if not isinstance(signature, str) or len(signature) > 200:
        return None
    json = pdu.json
    signatures = json["signatures"]
    json["signatures"] = {**signatures, policy.server: {**signatures.get(policy.server, {}), KEY_ID: signature}}
    signed = Pdu(json, encode_for_version(json, pdu.version), pdu.version, pdu.event_id, pdu.unsigned)
    return signed if _is_signed(signed, policy) else None
