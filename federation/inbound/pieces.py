"""Large JSON, decoded piece by piece: the values in the lists of an object, which is what transactions consist of.

Other work comes in between, and what is dense (`[],[],…` takes 30 times its length once decoded) is not there all at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from homeserver.matrix.canonical import canonical_json, decode_json
from homeserver.matrix.errors import BadJson, MatrixError, NotJson, TooLarge
from homeserver.matrix.limits import MAX_EVENT_BYTES
from homeserver.runtime.clock import Clock

# PERF(30 ms where it is dense): as much is decoded before others have their turn.
SLICE_BYTES: Final = 256 * 1024
MAX_PIECE_BYTES: Final = 4 * 1024 * 1024

Piece = msgspec.Raw

_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])


def split_object(body: bytes | Piece) -> dict[str, Piece]:
    """The values of an object, undecoded. Raises: NotJson, BadJson."""
    try:
        return _OBJECT.decode(body)
    except msgspec.ValidationError:
        raise BadJson("The body must be a JSON object") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise NotJson("Content not JSON.") from None


def split_list(value: Piece, field: str) -> list[Piece]:
    """The values of a list, undecoded. Raises: NotJson, BadJson."""
    try:
        return _LIST.decode(value)
    except msgspec.ValidationError:
        raise BadJson(f"{field}: must be a list") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise NotJson("Content not JSON.") from None


class Slices:
    """Gives others their turn after so many bytes."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._left = SLICE_BYTES

    async def spend(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            self._left = SLICE_BYTES
            await self._clock.sleep(0)


async def canonical_body(body: bytes, clock: Clock) -> bytes:
    """canonical_json of what the body holds. Raises: NotJson, BadJson; TooLarge, if it does not consist of pieces."""
    slices = Slices(clock)
    parts: list[bytes] = []
    fields = split_object(body)
    for name in sorted(fields):
        value = fields[name]
        data = memoryview(value)
        if len(data) > SLICE_BYTES and data[0] == ord("["):
            items = [await _canonical(each, slices) for each in split_list(value, name)]
            parts.append(canonical_json(name) + b":[" + b",".join(items) + b"]")
        else:
            parts.append(canonical_json(name) + b":" + await _canonical(value, slices))
    return b"{" + b",".join(parts) + b"}"


async def _canonical(value: Piece, slices: Slices) -> bytes:
    data = bytes(value)
    if len(data) > MAX_PIECE_BYTES:
        raise TooLarge(f"A value of {len(data)} bytes, of at most {MAX_PIECE_BYTES}")
    await slices.spend(len(data))
    return canonical_json(decode_json(data))


async def decode_events(pieces: Sequence[Piece], clock: Clock) -> list[object]:
    """The events; None for what can be none, for its size or because it is no JSON."""
    slices = Slices(clock)
    events: list[object] = []
    for piece in pieces:
        data = bytes(piece)
        await slices.spend(len(data))
        events.append(_decode_event(data))
    return events


def _decode_event(data: bytes) -> object:
    value = _decode(data)
    if len(data) > MAX_EVENT_BYTES and isinstance(value, dict):
        signed = {name: each for name, each in value.items() if name != "unsigned"}
        return signed if len(canonical_json(signed)) <= MAX_EVENT_BYTES else None
    return value


def _decode(data: bytes) -> Any:
    """None for what is too large, or no JSON."""
    try:
        return decode_json(data) if len(data) <= MAX_PIECE_BYTES else None
    except MatrixError:
        return None


class Decoded(Sequence[object]):
    """Values that are decoded each time they are asked for, so that no two are there at once; None for what is no JSON."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[object]:
        return (_decode(bytes(piece)) for piece in self._pieces)

    def __getitem__(self, index: Any) -> Any:
        return _decode(bytes(self._pieces[index]))
