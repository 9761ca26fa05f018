"""What end-to-end encryption needs of other servers, and what stands there while a server does not federate."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

from homeserver.matrix.errors import MatrixError, NotFound
from homeserver.matrix.ids import DeviceId, ServerName, UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.coroutine import shielded, within
from homeserver.runtime.turns import Slots

# How long a client waits for other servers. The least leaves time for a connection to be made; the most is for clients that
# do not say, too.
MIN_TIMEOUT_MS: Final = 500
MAX_TIMEOUT_MS: Final = 10_000
# How many servers one request asks at once; one that has not answered for so long leaves its place to the next.
SERVERS_AT_ONCE: Final = 50
LONGEST_TURN_MS: Final = 1_000

T = TypeVar("T")


class NoAnswerInTime(MatrixError):
    """Another server did not answer for as long as the client waits."""

    status = 504

    def __init__(self, server: ServerName) -> None:
        super().__init__(f"{server} did not answer in time")


def bound_timeout(timeout_ms: int | None) -> int:
    """For how long to wait where a client asks for this `timeout`, or for none."""
    return MAX_TIMEOUT_MS if timeout_ms is None else min(max(timeout_ms, MIN_TIMEOUT_MS), MAX_TIMEOUT_MS)


def take_turns(clock: Clock) -> Slots:
    """In which one request asks many servers."""
    return Slots(clock, SERVERS_AT_ONCE, LONGEST_TURN_MS)


async def wait_for_answer(
    clock: Clock, server: ServerName, until_ms: int, ask: Callable[[], Coroutine[Any, Any, T]]
) -> T:
    """What comes of asking a server, if it is there by `until_ms` on the monotonic clock; a server whose turn comes later is not
    asked. Asking goes on when the time is up, and ends by a bound of its own: others may wait for the same answer, and a
    server is known to be silent only after that.

    Raises: NoAnswerInTime, and what asking raises.
    """
    timeout_ms = until_ms - clock.monotonic_ms()
    if timeout_ms <= 0:
        raise NoAnswerInTime(server)
    asking = shielded(ask())

    async def wait() -> T:
        return await asking

    try:
        return await within(clock, timeout_ms, wait())
    except TimeoutError:
        raise NoAnswerInTime(server) from None


class RemoteKeys(Protocol):
    """Implemented by federation, which bounds how long it takes. All raise a MatrixError when the server can't be asked."""

    async def fetch_keys(self, server: ServerName, user_ids: Collection[UserId], /) -> dict[str, Any]:
        """The answer of POST /user/keys/query."""
        ...

    async def fetch_devices(self, user_id: UserId, /) -> dict[str, Any]:
        """The answer of GET /user/devices/{userId}."""
        ...

    async def claim_keys(
        self, server: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]], /
    ) -> dict[str, Any]:
        """The answer of POST /user/keys/claim."""
        ...


class NoRemoteKeys:
    """RemoteKeys of a server that talks to no other."""

    async def fetch_keys(self, server: ServerName, user_ids: Collection[UserId], /) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {server} is out of reach")

    async def fetch_devices(self, user_id: UserId, /) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {user_id} is out of reach")

    async def claim_keys(
        self, server: ServerName, wanted: Mapping[UserId, Mapping[DeviceId, str]], /
    ) -> dict[str, Any]:
        raise NotFound(f"This server does not federate, so {server} is out of reach")
