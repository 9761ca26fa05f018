"""The headers that let browsers call from any origin, on every answer including errors.

Spec: client-server-api#web-browser-clients
"""

from __future__ import annotations

from typing import Final

CORS_HEADERS: Final = (
    ("Access-Control-Allow-Origin", "*"),
    ("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    ("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization"),
    ("Access-Control-Expose-Headers", "Retry-After"),
)

CORS_BYTES: Final = b"".join(f"{name}: {value}\r\n".encode() for name, value in CORS_HEADERS)

# How long a browser may remember the answer to OPTIONS.
PREFLIGHT_BYTES: Final = b"Access-Control-Max-Age: 86400\r\n"
