"""Asking the inviter's server for a real invite, where a local user was invited by an address and has proved to have it.

Spec: server-server-api#third-party-invites
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from attrs import define

from federation.client import V1, FederationClient, quote_path
from federation.errors import RemoteRefused
from federation.joining.residents import client_error
from homeserver.matrix.ids import RoomId, UserId, domain_of

TIMEOUT_MS: Final = 15_000


@define(eq=False)
class InviteExchange:
    client: FederationClient

    async def exchange(self, room_id: RoomId, sender: UserId, user_id: UserId, signed: Mapping[str, Any]) -> None:
        """See RemoteServers.exchange_invite.

        Spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
        """
        invite = {"membership": "invite", "third_party_invite": {"display_name": "", "signed": dict(signed)}}
        body = {
            "type": "m.room.member",
            "room_id": room_id,
            "sender": sender,
            "state_key": user_id,
            "content": invite,
        }
        path = quote_path(f"{V1}/exchange_third_party_invite", room_id)
        try:
            await self.client.put(domain_of(sender), path, body, timeout_ms=TIMEOUT_MS, patient=True)
        except RemoteRefused as error:
            raise client_error(error) from None
