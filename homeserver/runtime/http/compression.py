"""gzip for answers that are worth it.

Small ones are not: below a network packet nothing is won. Large ones are compressed in a thread (zlib lets go
of the interpreter lock), so that one big initial sync doesn't hold up everybody else's answers.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

MIN_BYTES: Final = 2048
THREAD_BYTES: Final = 128 * 1024
_LEVEL: Final = 3
_GZIP_WINDOW: Final = 31

_GZIP = re.compile(rb"(?:^|,)\s*(?:gzip|\*)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?(?=,|$)", re.IGNORECASE)
_COMPRESSIBLE: Final = (
    "application/json",
    "text/",
    "application/javascript",
    "image/svg+xml",
    "application/wasm",
)


def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Whether an Accept-Encoding header allows gzip."""
    if not accept_encoding:
        return False
    found = _GZIP.search(accept_encoding)
    return found is not None and (found.group(1) or b"1").strip(b"0.") != b""


def is_compressible(content_type: str) -> bool:
    return content_type.startswith(_COMPRESSIBLE)


def gzip(body: bytes) -> bytes:
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(body) + compressor.flush()
