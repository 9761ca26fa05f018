"""Tokens: `<prefix>_<32 random characters>_<checksum>`, opaque to clients, stored as hashes only.

The prefix tells people and secret scanners what leaked; the checksum refuses garbage without a look into the
database. Tokens of another form (imported ones) are looked up like any other.
"""

from __future__ import annotations

import secrets
import string
from hashlib import blake2b
from zlib import crc32

ACCESS = "hrt"
REFRESH = "hrr"
LOGIN = "hrl"

_RANDOM_BYTES = 24
_CHECKSUM_CHARS = 6
_DEVICE_ID_CHARS = 10


def new_token(kind: str) -> str:
    body = f"{kind}_{secrets.token_urlsafe(_RANDOM_BYTES)}"
    return f"{body}_{_checksum(body)}"


def hash_token(token: str) -> bytes:
    """Tokens have 192 bits of randomness, so a plain hash is enough; it need not be slow."""
    return blake2b(token.encode("utf-8", "replace"), digest_size=32).digest()


def token_id(token_hash: bytes) -> int:
    """A number for the token, the same in every process."""
    return int.from_bytes(token_hash[:8], "big") >> 1


def is_garbled(token: str) -> bool:
    """Whether it pretends to be one of ours and can't be."""
    if not token.startswith(("hrt_", "hrr_", "hrl_")):
        return False
    body, _, checksum = token.rpartition("_")
    return checksum != _checksum(body)


def new_device_id() -> str:
    return "".join(secrets.choice(string.ascii_uppercase) for _ in range(_DEVICE_ID_CHARS))


def new_session_id() -> str:
    return secrets.token_urlsafe(18)


def new_localpart(prefix: str) -> str:
    """A localpart for somebody who named none."""
    return f"{prefix}-{secrets.token_hex(6)}"


def _checksum(body: str) -> str:
    return f"{crc32(body.encode('utf-8', 'replace')):08x}"[:_CHECKSUM_CHARS]
