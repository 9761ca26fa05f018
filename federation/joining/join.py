"""Joining a room through a server that is in it.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define

from federation.client import V1, V2, FederationClient, quote_path
from federation.errors import BadAnswer, RemoteRefused
from federation.inbound.fetching import NotFetched
from federation.joining.join_answer import CheckedJoin, JoinAnswer, JoinChecks, parse_join_answer
from federation.joining.residents import Residents, is_unknown_endpoint
from federation.joining.templates import Templates
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu
from homeserver.rooms.writer import RoomBusy

logger = logging.getLogger(__name__)

SEND_TIMEOUT_MS: Final = 180_000
# A room of 50,000 members without omitted ones; more is joined with partial state only.
MAX_JOIN_BYTES: Final = 128 * 1024 * 1024


@define(eq=False)
class JoinHandshake:
    """make_join and send_join, until a join stands that may be believed."""

    client: FederationClient
    residents: Residents
    templates: Templates
    checks: JoinChecks

    async def join(
        self,
        room_id: RoomId,
        user_id: UserId,
        content: Mapping[str, Any],
        servers: Sequence[ServerName],
        enter: Callable[[CheckedJoin], Awaitable[None]],
    ) -> CheckedJoin:
        """The join, accepted by a server and by `enter`, which takes it into the room here and raises MatrixError where
        what the server tells does not let it. Members may be left out of the state.

        Raises: NotFound (no servers), Forbidden and the other errors that servers answer, RemoteUnreachable, BadAnswer.
        """

        async def ask(server: ServerName) -> CheckedJoin:
            join = await self.templates.fetch_event(server, room_id, user_id, "join", content)
            answer = await self._send(server, join)
            checked = await self.checks.check(server, join, answer)
            try:
                await enter(checked)
            except (NotFetched, RoomBusy):
                raise
            except MatrixError as error:
                raise BadAnswer(server, error.error) from None
            return checked

        return await self.residents.ask(servers, ask)

    async def _send(self, server: ServerName, join: Pdu) -> JoinAnswer:
        """Spec: server-server-api#put_matrixfederationv2send_joinroomideventid"""
        path = quote_path(f"{V2}/send_join", join.room_id, join.event_id)
        try:
            answer = await self._put(server, path, join, {"omit_members": "true"})
        except RemoteRefused as error:
            if not is_unknown_endpoint(error):
                raise
            return await self._send_v1(server, join)
        return parse_join_answer(server, answer, may_omit=True)

    async def _send_v1(self, server: ServerName, join: Pdu) -> JoinAnswer:
        """Spec: server-server-api#put_matrixfederationv2send_joinroomideventid"""
        answer = await self._put(server, quote_path(f"{V1}/send_join", join.room_id, join.event_id), join, None)
        if not isinstance(answer, list) or len(answer) != 2:
            raise BadAnswer(server, "it is no pair of status and answer")
        return parse_join_answer(server, answer[1], may_omit=False)

    async def _put(self, server: ServerName, path: str, join: Pdu, query: Mapping[str, str] | None) -> Any:
        return await self.client.put(
            server,
            path,
            join.json,
            query,
            timeout_ms=SEND_TIMEOUT_MS,
            max_bytes=MAX_JOIN_BYTES,
            patient=True,
        )
