"""Sizes that the protocol fixes, and the bounds we add to stay safe from hostile input.

Spec: client-server-api#size-limits
"""

from __future__ import annotations

MAX_EVENT_BYTES = 65_536
"""A whole event in the federation format, signatures included, as canonical JSON."""

MAX_ID_BYTES = 255
"""User ids, room ids, room aliases, event ids, event types and state keys, in bytes of UTF-8."""

MAX_PREV_EVENTS = 20
MAX_AUTH_EVENTS = 10

MAX_SAFE_INTEGER = 2**53 - 1
"""Canonical JSON's integers lie in +-this."""

MAX_DEPTH_64_BIT = 2**63 - 1
"""The largest `depth` before room version 6."""

MAX_JSON_DEPTH = 200
"""Nesting of JSON we accept. Below orjson's 254 for encoding, so that what we decoded can always be
encoded."""

MAX_SERVER_NAME_LENGTH = 255
MAX_OPAQUE_ID_LENGTH = 255
