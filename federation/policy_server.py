"""This server as a policy server: what it recommends in the rooms that it guards, by the rules in the configuration.

A recommendation is a signature with a key of its own, which a room names in its m.room.policy. It covers the event as it is
once redacted, so the content is judged only where it has the hash that the event says.

Spec: server-server-api#policy-servers
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field

from federation.config import PolicyServerConfig
from federation.inbound.acl import ServerAcls
from federation.inbound.pdu_checks import parse_signed, verify_some
from federation.keys.key_ring import KeyRing
from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, NotFound
from homeserver.matrix.hashing import is_content_hash_right
from homeserver.matrix.ids import RoomId, ServerName, domain_of, parse_room_id
from homeserver.matrix.patterns import TextTest, compile_glob, fold
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.member_content import BARE_LEAVE

KEY_VERSION: Final = "policy_server"
POLICY_TYPE: Final = "m.room.policy"


class Refused(Forbidden):
    """The event is not recommended."""

    status = 400


def is_bare_leave(pdu: Pdu) -> bool:
    """Whether a user leaves (or refuses an invite, or takes a knock back) and says nothing else."""
    return pdu.type == MEMBER and pdu.state_key == pdu.sender and pdu.content == BARE_LEAVE


@define(eq=False)
class PolicyRules:
    """What is not recommended. A user who leaves and says nothing always is."""

    config: PolicyServerConfig
    _servers: Sequence[TextTest] = field(init=False)
    _types: Sequence[TextTest] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._servers = [compile_glob(fold(pattern)) for pattern in self.config.denied_servers]
        self._types = [compile_glob(pattern) for pattern in self.config.denied_event_types]

    def check(self, pdu: Pdu) -> None:
        """Raises: Refused."""
        if is_bare_leave(pdu):
            return
        server = fold(domain_of(pdu.sender))
        if any(is_denied(server) for is_denied in self._servers):
            raise Refused(f"Events of {domain_of(pdu.sender)} are not wanted here")
        if any(is_denied(pdu.type) for is_denied in self._types):
            raise Refused(f"Events of type {pdu.type} are not wanted here")
        most = self.config.max_mentions
        if most and _count_mentions(pdu.content) > most:
            raise Refused(f"The event mentions more than {most} users")

    def guards(self, room_id: RoomId) -> bool:
        return not self.config.rooms or room_id in self.config.rooms


@define(eq=False)
class PolicyServer:
    server_name: ServerName
    key: SigningKey
    rules: PolicyRules
    heads: RoomHeads
    acls: ServerAcls
    ring: KeyRing

    async def sign(self, origin: ServerName, raw: Any) -> dict[str, Any]:
        """The recommendation of an event that another server asks for.

        Raises: NotFound (no room that it guards), Forbidden (the asker is shut out), BadJson, Refused.

        Spec: server-server-api#post_matrixpolicyv1sign
        """
        room_id = raw.get("room_id")
        head = await self._load_guarded(room_id if isinstance(room_id, str) else "")
        if not await self.acls.is_allowed_by(head, origin):
            raise Forbidden("Server is banned from room")
        try:
            given = parse_signed(raw, head.version, head.room_id)
        except MatrixError as error:
            raise BadJson(error.error) from None
        keys = await self.ring.load_verify_keys(given.requests.get(domain_of(given.pdu.sender), ()))
        try:
            verify_some(given, keys, [domain_of(given.pdu.sender)])
        except MatrixError as error:
            raise Refused(error.error) from None
        if not is_content_hash_right(given.json):
            raise Refused("The event's content has another hash than it says")
        return self.recommend(given.pdu)

    def recommend(self, pdu: Pdu) -> dict[str, Any]:
        """The signature, of an event that is known to be its sender's. Raises: Refused."""
        if pdu.type == POLICY_TYPE and pdu.state_key == "":
            raise Refused("The policy of a room needs no recommendation")
        self.rules.check(pdu)
        signed = sign_event(pdu.json, pdu.version, self.server_name, self.key)
        return {self.server_name: {self.key.key_id: signed["signatures"][self.server_name][self.key.key_id]}}

    async def _load_guarded(self, room_id: str) -> RoomHead:
        """Raises: NotFound, BadJson."""
        try:
            parsed = parse_room_id(room_id)
        except MatrixError as error:
            raise BadJson(f"room_id: {error.error}") from None
        if not self.rules.guards(parsed):
            raise NotFound("This server does not guard that room")
        head = self.heads.get(parsed) or await self.heads.load(parsed)
        if not head.is_server_joined(self.server_name):
            raise NotFound("This server does not guard that room")
        return head


def _count_mentions(content: dict[str, Any]) -> int:
    """The users whom an event says to mention; the whole room counts as one."""
    mentions = content.get("m.mentions")
    if not isinstance(mentions, dict):
        return 0
    users = mentions.get("user_ids")
    named = {each for each in users if isinstance(each, str)} if isinstance(users, list) else set()
    return len(named) + (mentions.get("room") is True)
