"""Ephemeral data from other servers: who deals with which type.

    handlers.register("m.typing", typing.on_edu)

A handler is told who sent the EDU, proven, and its content, an object of unknown shape. It says with a MatrixError what is wrong
with it; such EDUs are dropped, with one line in the log for each transaction. Types that nobody registered are ignored.

Spec: server-server-api#edus
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from attrs import define, field

from federation.inbound.acl import ServerAcls
from homeserver.matrix.errors import BadJson, InvalidParam, MatrixError
from homeserver.matrix.ids import ServerName, parse_room_id
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within
from homeserver.runtime.db import DatabaseFault

logger = logging.getLogger(__name__)

# What others say is taken in by work on our own database alone: this is for a database that stands still.
HANDLER_TIMEOUT_MS: Final = 10_000
RECEIPT: Final = "m.receipt"

EduHandler = Callable[[ServerName, dict[str, Any]], Awaitable[None]]


@define(eq=False)
class EduHandlers:
    """Hands EDUs to those who asked for them."""

    acls: ServerAcls
    clock: Clock
    _handlers: dict[str, EduHandler] = field(init=False, factory=dict)

    def register(self, edu_type: str, handler: EduHandler) -> None:
        """`handler(origin, content)` gets all EDUs of the type; one handler for each."""
        assert edu_type not in self._handlers, f"{edu_type} has a handler already"
        self._handlers[edu_type] = handler

    def register_all(self, handlers: Mapping[str, EduHandler]) -> None:
        for edu_type, handler in handlers.items():
            self.register(edu_type, handler)

    async def handle_all(self, origin: ServerName, edus: Sequence[object]) -> None:
        """In order. What is wrong with an EDU harms only it.

        Raises: DatabaseFault, and TimeoutError when all but some are dealt with: so that the transaction is refused and comes
        again, for some EDUs are sent only once.
        """
        dropped: list[str] = []
        late = 0
        for edu in edus:
            try:
                await self._handle(origin, edu)
            except MatrixError as error:
                dropped.append(error.error)
            except TimeoutError:
                late += 1
            except DatabaseFault:
                raise
            except Exception:
                logger.exception("An EDU from %s failed", origin)
        if dropped:
            logger.info("%d of %d EDUs from %s are dropped: %s", len(dropped), len(edus), origin, dropped[0])
        if late:
            raise TimeoutError(f"{late} EDUs took too long")

    async def _handle(self, origin: ServerName, edu: object) -> None:
        edu_type, content = _parse(edu)
        handler = self._handlers.get(edu_type)
        if handler is None:
            return
        allowed = await self._allowed(origin, edu_type, content)
        if allowed is not None:
            await within(self.clock, HANDLER_TIMEOUT_MS, _call(handler, origin, allowed))

    async def _allowed(self, origin: ServerName, edu_type: str, content: dict[str, Any]) -> dict[str, Any] | None:
        """What of the EDU its origin may say: server ACLs shut out what is about a room."""
        if edu_type == RECEIPT:
            rooms = [room_id for room_id in content if await self._may(origin, room_id)]
            return {room_id: content[room_id] for room_id in rooms} if rooms else None
        room_id = content.get("room_id")
        if isinstance(room_id, str) and not await self._may(origin, room_id):
            return None
        return content

    async def _may(self, origin: ServerName, room_id: str) -> bool:
        try:
            return await self.acls.is_allowed(parse_room_id(room_id), origin)
        except InvalidParam:
            return False


async def _call(handler: EduHandler, origin: ServerName, content: dict[str, Any]) -> None:
    await handler(origin, content)


def _parse(edu: object) -> tuple[str, dict[str, Any]]:
    if not isinstance(edu, dict):
        raise BadJson("edus: must hold objects")
    edu_type, content = edu.get("edu_type"), edu.get("content")
    if not isinstance(edu_type, str):
        raise BadJson("edu_type: must be a string")
    if not isinstance(content, dict):
        raise BadJson("content: must be an object")
    return edu_type, content
