"""Server ACLs: which servers may take part in a room.

Spec: client-server-api#server-access-control-lists-acls-for-rooms
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address
from typing import Any, Final

from homeserver.matrix.patterns import TextTest, compile_glob, fold
from homeserver.matrix.state_map import StateKey

SERVER_ACL: Final[StateKey] = ("m.room.server_acl", "")
_PORT = re.compile(r":[0-9]*\Z", re.ASCII)


class ServerAcl:
    """One m.room.server_acl event's lists, compiled."""

    def __init__(self, allow: Sequence[str], deny: Sequence[str], *, allow_ip_literals: bool) -> None:
        self._allow = _tests(allow)
        self._deny = _tests(deny)
        self._allow_ip_literals = allow_ip_literals

    def allows(self, server: str) -> bool:
        """Whether the server may take part; its port does not matter, nor does case."""
        name = without_port(fold(server))
        if not self._allow_ip_literals and _is_ip_literal(name):
            return False
        if any(test(name) for test in self._deny):
            return False
        return any(test(name) for test in self._allow)


def parse_server_acl(content: Mapping[str, Any]) -> ServerAcl:
    """The rules in an event's content. What is of a wrong type counts as absent, so that a room with broken lists shuts
    everybody out, as the specification has it for an event without `allow`.

    Spec: client-server-api#mroomserver_acl
    """
    literals = content.get("allow_ip_literals")
    return ServerAcl(_texts(content.get("allow")), _texts(content.get("deny")), allow_ip_literals=literals is not False)


def _texts(value: object) -> list[str]:
    return [entry for entry in value if isinstance(entry, str)] if isinstance(value, list) else []


def _tests(patterns: Sequence[str]) -> list[TextTest]:
    return [compile_glob(fold(pattern)) for pattern in dict.fromkeys(patterns)]


def without_port(server: str) -> str:
    if server.startswith("["):
        return server[: server.find("]") + 1] or server
    return _PORT.sub("", server)


def _is_ip_literal(name: str) -> bool:
    if name.startswith("["):
        return True
    try:
        IPv4Address(name)
    except AddressValueError:
        return False
    return True
