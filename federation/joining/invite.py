"""Inviting users of other servers: their server signs the invite before it enters the room.

Spec: server-server-api#inviting-to-a-room
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import define

from federation.client import V1, V2, FederationClient, quote_path
from federation.errors import BadAnswer, RemoteRefused
from federation.joining.residents import client_error, is_unknown_endpoint
from federation.keys.key_ring import KeyRequest, KeyRing
from homeserver.matrix.errors import BadSignature, MatrixError
from homeserver.matrix.ids import ServerName, UserId, domain_of
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.signing import signature_key_ids, verify_event_signature

TIMEOUT_MS: Final = 30_000
MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 5


@define(eq=False)
class InviteHandshake:
    """Lets the invited user's server sign."""

    client: FederationClient
    ring: KeyRing

    async def sign(self, invite: Pdu, room_state: Sequence[Pdu]) -> Pdu:
        """The invite with the signature of the invited user's server. room_state: what that user is shown of the room.

        Raises: Forbidden and what else the server answers, RemoteUnreachable, BadAnswer.
        """
        assert invite.state_key is not None
        server = domain_of(UserId(invite.state_key))
        try:
            answer = await self._send(server, invite, room_state)
        except RemoteRefused as error:
            raise client_error(error) from None
        event = answer.get("event") if isinstance(answer, dict) else None
        if not isinstance(event, dict):
            raise BadAnswer(server, "there is no event in it")
        return await self._with_signatures(server, invite, event)

    async def _send(self, server: ServerName, invite: Pdu, room_state: Sequence[Pdu]) -> Any:
        """Spec: server-server-api#put_matrixfederationv2inviteroomideventid"""
        state = [pdu.json for pdu in room_state]
        body = {"room_version": invite.version.identifier, "event": invite.json, "invite_room_state": state}
        try:
            return await self._put(server, quote_path(f"{V2}/invite", invite.room_id, invite.event_id), body)
        except RemoteRefused as error:
            # The older endpoint can't say the room's version: both sides take it for 1 or 2.
            if not is_unknown_endpoint(error) or not invite.version.event_id_on_wire:
                raise
        body = {**invite.json, "unsigned": {"invite_room_state": state}}
        answer = await self._put(server, quote_path(f"{V1}/invite", invite.room_id, invite.event_id), body)
        return answer[1] if isinstance(answer, list) and len(answer) == 2 else None

    async def _put(self, server: ServerName, path: str, body: dict[str, Any]) -> Any:
        return await self.client.put(
            server, path, body, timeout_ms=TIMEOUT_MS, max_bytes=MAX_ANSWER_BYTES, patient=True
        )

    async def _with_signatures(self, server: ServerName, invite: Pdu, event: dict[str, Any]) -> Pdu:
        """Only the signatures are taken from the answer, and only if one of them is right."""
        key_ids = signature_key_ids(event, server)[:MAX_KEYS]
        if not key_ids:
            raise BadAnswer(server, "it did not sign the invite")
        json = invite.json
        json["signatures"][server] = {key_id: event["signatures"][server][key_id] for key_id in key_ids}
        at_ms = invite.origin_server_ts if invite.version.enforce_key_validity else None
        keys = await self.ring.load_verify_keys([KeyRequest(server, key_id, at_ms) for key_id in key_ids])
        for key in keys.values():
            try:
                verify_event_signature(json, invite.version, server, key)
                return parse_pdu(json, invite.version, event_id=invite.event_id)
            except BadSignature:
                continue
            except MatrixError as error:
                raise BadAnswer(server, error.error) from None
        raise BadAnswer(server, "its signature of the invite is wrong")
