"""Events that clients are told of for some time, however much happens in the room meanwhile.

Spec: MSC4354
"""

from __future__ import annotations

from typing import Final

from homeserver.matrix.pdu import Pdu

STICKY: Final = "msc4354_sticky"
MAX_STICKY_MS: Final = 3_600_000
_ENCODED: Final = b'"msc4354_sticky"'


def names_sticky(pdu: Pdu) -> bool:
    """The event has that key, whatever its value.

    PERF(10 us for each event of each response): a search of its bytes mostly saves decoding them.
    """
    return _ENCODED in pdu.json_bytes and STICKY in pdu.json


def sticky_duration_ms(pdu: Pdu) -> int | None:
    """For how long the event is sticky, an hour at most; None for one that is not. A redacted event is not."""
    sticky = pdu.json.get(STICKY) if _ENCODED in pdu.json_bytes else None
    duration = sticky.get("duration_ms") if isinstance(sticky, dict) else None
    if not isinstance(duration, int) or isinstance(duration, bool) or duration < 0:
        return None
    return min(duration, MAX_STICKY_MS)


def is_sticky_at(pdu: Pdu, now_ms: int) -> bool:
    """Of an event that comes now."""
    until_ms = sticky_until_ms(pdu, now_ms)
    return until_ms is not None and until_ms > now_ms


def sticky_until_ms(pdu: Pdu, received_ms: int) -> int | None:
    """When the event ceases to be sticky. An origin's clock that is ahead makes it no longer."""
    duration = sticky_duration_ms(pdu)
    return None if duration is None else min(pdu.origin_server_ts, received_ms) + duration
