"""Forms of strings in the configuration, so that a wrong one is told when the file is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final
from urllib.parse import urlsplit

from attrs import frozen

from homeserver.matrix.ids import is_server_name

# RFC 7064 and RFC 7065
_TURN_URI: Final = re.compile(
    r"(?:turn|stun)s?:(?:\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?(?:\?transport=[a-z0-9._-]+)?",
    re.IGNORECASE | re.ASCII,
)


@frozen
class Form:
    """words: what is allowed, for the admin."""

    words: str
    accepts: Callable[[str], bool]


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


SERVER_NAME: Final = Form("a server name such as example.org", is_server_name)
HTTP_URL: Final = Form("an address such as https://matrix.example.org", _is_http_url)
TURN_URI: Final = Form(
    "a turn:, turns:, stun: or stuns: URI such as turn:turn.example.org?transport=udp",
    lambda text: _TURN_URI.fullmatch(text) is not None,
)
NETWORK: Final = Form("an address or a network such as 10.0.0.0/8", _is_network)
DATABASE_URL: Final = Form(
    "sqlite:///file or postgresql://user:password@host:port/name",
    lambda text: text.startswith(("sqlite:///", "postgresql://", "postgres://")),
)
