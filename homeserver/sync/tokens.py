"""Places that clients hold: in the log (next_batch) and in a room's timeline (prev_batch).

    s<position>_<ephemeral>   everything up to a position of the log, and ephemeral data up to a serial
    s<position>_<ephemeral>_<to device>   the same, but messages to the device only up to an earlier position
    s<position>_<ephemeral>~<serial>   a position of a sliding sync connection
    t<order>                  behind the event of that order in a room's timeline

A live event's order is its position, so a sync token is a place in every timeline, too.
"""

from __future__ import annotations

import re

from attrs import frozen

from homeserver.matrix.errors import InvalidParam

_SYNC = re.compile(r"s([0-9]{1,18})_([0-9]{1,18})(?:_([0-9]{1,18}))?", re.ASCII)
_POS = re.compile(r"s([0-9]{1,18})_([0-9]{1,18})~([0-9]{1,9})", re.ASCII)
_TIMELINE = re.compile(r"t(-?[0-9]{1,19})", re.ASCII)


@frozen
class SyncToken:
    """What a client has been told: all of the log up to `position`, of ephemeral data up to `ephemeral`.

    to_device: where messages to the device lag behind, because there were too many for one response.
    """

    position: int
    ephemeral: int
    to_device: int | None = None

    @property
    def to_device_position(self) -> int:
        return self.position if self.to_device is None else self.to_device

    def covers(self, other: SyncToken) -> bool:
        """There is nothing up to `other` that is not told up to here."""
        is_newer = self.position >= other.position and self.ephemeral >= other.ephemeral
        return is_newer and self.to_device is None

    def __str__(self) -> str:
        lag = "" if self.to_device is None else f"_{self.to_device}"
        return f"s{self.position}_{self.ephemeral}{lag}"


@frozen
class TimelineToken:
    """A place behind the event of that order (one which need not exist)."""

    order: int

    def __str__(self) -> str:
        return f"t{self.order}"


def parse_sync_token(text: str, field: str = "since") -> SyncToken:
    """Raises: InvalidParam."""
    match = _SYNC.fullmatch(text)
    if match is None:
        raise InvalidParam(field, "not a token of this server")
    return SyncToken(int(match[1]), int(match[2]), int(match[3]) if match[3] is not None else None)


def parse_stream_token(text: str, field: str = "from") -> SyncToken | TimelineToken:
    """A token of either kind. Raises: InvalidParam."""
    return parse_timeline_token(text, field) if _TIMELINE.fullmatch(text) else parse_sync_token(text, field)


def parse_timeline_token(text: str, field: str = "from") -> TimelineToken:
    """A place in a timeline, from a token of either kind.

    Raises: InvalidParam.
    """
    match = _TIMELINE.fullmatch(text)
    if match is None:
        return TimelineToken(parse_sync_token(text.partition("~")[0], field).position)
    order = int(match[1])
    if abs(order) >= 2**63:
        raise InvalidParam(field, "not a token of this server")
    return TimelineToken(order)


def format_pos(position: int, ephemeral: int, serial: int) -> str:
    """A position of a sliding sync connection; also a place in timelines."""
    return f"s{position}_{ephemeral}~{serial}"


def parse_pos(text: str) -> tuple[int, int, int] | None:
    """Position of the log, ephemeral serial, serial within the connection; None for what is none of ours."""
    match = _POS.fullmatch(text)
    if match is None:
        return None
    return int(match[1]), int(match[2]), int(match[3])
