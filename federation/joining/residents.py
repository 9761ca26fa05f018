"""Asking one resident server after another until one of them helps, and what to say when none does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar

from attrs import define

from federation.errors import BadAnswer, RemoteRefused, RemoteUnreachable
from federation.inbound.fetching import NotFetched
from homeserver.matrix.errors import MatrixError, NotFound, UnsupportedRoomVersion
from homeserver.matrix.ids import ServerName, is_server_name
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import within

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_SERVERS: Final = 10
BUDGET_MS: Final = 240_000

# What a resident server's error tells our user, the most telling first; everything else is a fault between servers.
_TELLING: Final = (
    "M_BAD_STATE",
    "M_INVITE_BLOCKED",
    "M_INCOMPATIBLE_ROOM_VERSION",
    "M_UNSUPPORTED_ROOM_VERSION",
    "M_UNABLE_TO_GRANT_JOIN",
    "M_UNABLE_TO_AUTHORISE_JOIN",
    "M_FORBIDDEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
    "M_NOT_FOUND",
)
_SILENT: Final = len(_TELLING)

# What is the server's fault, or of those that it names: the next one may do better.
_FAULTS: Final = (RemoteRefused, RemoteUnreachable, BadAnswer, NotFetched, UnsupportedRoomVersion)


@define(eq=False)
class Residents:
    """Servers that are asked in turn."""

    server_name: ServerName
    clock: Clock

    async def ask(self, servers: Iterable[ServerName], ask: Callable[[ServerName], Coroutine[Any, Any, T]]) -> T:
        """The first server's result that is one; each is asked once.

        Raises: NotFound when there is nobody to ask; else the most telling of the servers' errors.
        """
        candidates = self.candidates(servers)
        if not candidates:
            raise NotFound("This server does not know that room, nor a server through which to reach it")
        errors: list[MatrixError] = []
        until_ms = self.clock.time_ms() + BUDGET_MS
        for server in candidates:
            left_ms = until_ms - self.clock.time_ms()
            if left_ms <= 0:
                break
            try:
                return await within(self.clock, left_ms, ask(server))
            except TimeoutError:
                errors.append(RemoteUnreachable(server, "it takes too long", timed_out=True))
            except _FAULTS as error:
                logger.info("%s does not help: %s", server, error)
                errors.append(error)
        raise client_error(min(errors, key=_rank))

    def candidates(self, servers: Iterable[ServerName]) -> Sequence[ServerName]:
        """Other servers, each once, in the order given, not too many."""
        names = [name for name in dict.fromkeys(servers) if name != self.server_name and is_server_name(name)]
        return names[:MAX_SERVERS]


def client_error(error: MatrixError) -> MatrixError:
    """Another server's error as our user may see it: nothing that reads as if it were about our own session.

    Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    """
    if not isinstance(error, RemoteRefused):
        return error
    if error.errcode in _TELLING:
        extra = {}
        if isinstance(error.body, dict) and isinstance(error.body.get("room_version"), str):
            extra["room_version"] = error.body["room_version"]
        return MatrixError(error.error, errcode=error.errcode, status=_STATUS.get(error.errcode, 400), **extra)
    if error.status in _PLAIN and not is_unknown_endpoint(error):
        return MatrixError(error.error, errcode=_PLAIN[error.status], status=error.status)
    return BadAnswer(error.server, f"{error.status} {error.errcode}: {error.error}")


_PLAIN: Final = {403: "M_FORBIDDEN", 404: "M_NOT_FOUND"}
_STATUS: Final = {"M_FORBIDDEN": 403, "M_BAD_STATE": 403, "M_INVITE_BLOCKED": 403, "M_NOT_FOUND": 404}


def _rank(error: MatrixError) -> int:
    """Lower is more telling."""
    if isinstance(error, RemoteRefused | UnsupportedRoomVersion):
        code = _PLAIN.get(error.status, error.errcode) if error.errcode not in _TELLING else error.errcode
        return _TELLING.index(code) if code in _TELLING else _SILENT
    return _SILENT + (1 if isinstance(error, BadAnswer | NotFetched) else 2)


def is_unknown_endpoint(error: RemoteRefused) -> bool:
    """The server does not have the endpoint: then an older one may be asked.

    COMPAT(servers from before M_UNRECOGNIZED had a status of its own): 400 and no errcode at all, too.

    Spec: server-server-api#unsupported-endpoints
    """
    if error.errcode == "M_UNRECOGNIZED":
        return True
    has_errcode = isinstance(error.body, dict) and "errcode" in error.body
    return error.status in (404, 405) and not has_errcode
