"""What each connection has been told: the server's side of a position.

In memory and bounded: a client whose connection was forgotten (or that reaches a server after its restart) is told
M_UNKNOWN_POS, and begins anew. A state is immutable; a request at a position makes a new one beside it, so the same
position can be asked again when an answer was lost. States older than a position that a client comes with are gone: it has
seen what came after them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import immutables
from attrs import define, field, frozen

from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import DeviceId, RoomId, UserId
from homeserver.sync.sliding.request import EXTENSIONS, RoomConfig, SlidingRequest
from homeserver.sync.tokens import format_pos, parse_pos

MAX_CONNECTIONS = 20_000
MAX_CONNECTIONS_OF_DEVICE = 10
MAX_STATES = 4
_NO_ROOMS: immutables.Map[RoomId, SentRoom] = immutables.Map()
_NO_LISTS: Mapping[str, int] = {}
_NO_MARKS: Mapping[str, int | None] = {}


class UnknownPos(MatrixError):
    """The position is none of this connection's (any more)."""

    errcode = "M_UNKNOWN_POS"

    def __init__(self) -> None:
        super().__init__("Unknown position: begin the connection anew")


@frozen(eq=False)
class SentRoom:
    """How far a room is told, what was wanted of it, which members were sent lazily, and whether it was told to be direct.

    position, ephemeral: as of the last response in whose windows the room was; behind the connection's own, that is, where
    the room was out of them since, or nothing happened. extensions: those that it told of the room by.
    """

    position: int
    ephemeral: int
    config: RoomConfig
    members: frozenset[UserId] = frozenset()
    is_dm: bool = False
    extensions: frozenset[str] = frozenset()


# How far an extension is told of what is not of a room: None while it is on, which is as far as the connection; where it was
# turned off.
Marks = Mapping[str, int | None]


@frozen(eq=False)
class ConnectionState:
    """What the client has at a position. counts: of each list. marks: of the extensions that it ever asked for. matched: as of
    Windows."""

    serial: int
    position: int
    ephemeral: int
    rooms: immutables.Map[RoomId, SentRoom] = _NO_ROOMS
    counts: Mapping[str, int] = _NO_LISTS
    fingerprint: bytes = b""
    marks: Marks = _NO_MARKS
    matched: frozenset[RoomId] = frozenset()

    def told_upto(self, extension: str) -> int | None:
        """Of what is not of a room; None where the extension was never on."""
        if extension not in self.marks:
            return None
        mark = self.marks[extension]
        return self.position if mark is None else mark

    @property
    def pos(self) -> str:
        return format_pos(self.position, self.ephemeral, self.serial)


def next_marks(state: ConnectionState | None, request: SlidingRequest, now: int) -> Marks:
    """Those behind the response that the request gets. Changes of devices are told from the connection's beginning on, even
    where they are asked for later: a client that begins has no lists of older ones.
    """
    if state is not None and state.fingerprint == request.fingerprint:
        return state.marks
    marks: dict[str, int | None] = dict(state.marks) if state is not None else {"e2ee": now}
    for name in EXTENSIONS:
        if request.extension(name).enabled:
            marks[name] = None
        elif state is not None and name in marks and marks[name] is None:
            marks[name] = state.position
    return marks


@define(eq=False)
class _Connection:
    states: OrderedDict[int, ConnectionState] = field(factory=OrderedDict)
    next_serial: int = 1


Key = tuple[UserId, DeviceId, str]


class Connections:
    """The least recently used of all go first, and of one device the oldest."""

    def __init__(self, max_connections: int = MAX_CONNECTIONS) -> None:
        self._max = max_connections
        self._connections: OrderedDict[Key, _Connection] = OrderedDict()
        self._by_device: dict[tuple[UserId, DeviceId], list[Key]] = {}

    def find(self, key: Key, pos: str) -> ConnectionState:
        """The state at a position. Raises: UnknownPos, also for what is no position of ours: clients begin anew by it."""
        connection, parsed = self._connections.get(key), parse_pos(pos)
        if connection is None or parsed is None:
            raise UnknownPos
        position, ephemeral, serial = parsed
        state = connection.states.get(serial)
        if state is None or (state.position, state.ephemeral) != (position, ephemeral):
            raise UnknownPos
        self._connections.move_to_end(key)
        for older in [number for number in connection.states if number < serial]:
            del connection.states[older]
        return state

    def begin(self, key: Key) -> None:
        """A new connection, in the place of one of that name."""
        self._drop(key)
        self._connections[key] = _Connection()
        of_device = self._by_device.setdefault(key[:2], [])
        of_device.append(key)
        if len(of_device) > MAX_CONNECTIONS_OF_DEVICE:
            self._drop(of_device[0])
        if len(self._connections) > self._max:
            self._drop(next(iter(self._connections)))

    def next_serial(self, key: Key) -> int:
        """Raises: UnknownPos, when the connection was forgotten meanwhile."""
        connection = self._connections.get(key)
        if connection is None:
            raise UnknownPos
        connection.next_serial += 1
        return connection.next_serial

    def put(self, key: Key, state: ConnectionState) -> None:
        connection = self._connections.get(key)
        if connection is None:
            raise UnknownPos
        connection.states[state.serial] = state
        while len(connection.states) > MAX_STATES:
            # The first is what the client surely has; behind it the newest count.
            del connection.states[list(connection.states)[1]]

    def _drop(self, key: Key) -> None:
        if self._connections.pop(key, None) is None:
            return
        of_device = self._by_device[key[:2]]
        of_device.remove(key)
        if not of_device:
            del self._by_device[key[:2]]
