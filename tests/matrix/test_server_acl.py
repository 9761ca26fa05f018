"""Server ACLs."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.server_acl import parse_server_acl


@pytest.mark.parametrize(
    ("content", "server", "allowed"),
    [
        ({"allow": ["*"]}, "example.org", True),
        ({"allow": ["*"]}, "example.org:8448", True),
        ({"allow": ["example.org"]}, "example.org:8448", True),
        ({"allow": ["example.org:8448"]}, "example.org:8448", False),
        ({"allow": ["EXAMPLE.org"]}, "example.ORG", True),
        ({"allow": ["*"], "deny": ["*.Evil.example"]}, "a.eVIL.example:1", False),
        ({"allow": ["*"], "deny": ["*.evil.example"]}, "evil.example", True),
        ({"allow": ["*"], "deny": ["evil?.example"]}, "evil1.example", False),
        ({"allow": ["*"], "deny": ["evil?.example"]}, "evil.example", True),
        ({"allow": ["a.example"], "deny": ["a.example"]}, "a.example", False),
        ({}, "example.org", False),
        ({"allow": []}, "example.org", False),
        ({"allow": "*"}, "example.org", False),
        ({"allow": [1, None, "example.org"]}, "example.org", True),
        ({"allow": ["*"], "deny": "example.org"}, "example.org", True),
        ({"allow": ["*"]}, "1.2.3.4", True),
        ({"allow": ["*"], "allow_ip_literals": True}, "[::1]:8448", True),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.4:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[::1]", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "[::1]:8448", False),
        ({"allow": ["*"], "allow_ip_literals": False}, "1.2.3.4.example", True),
        ({"allow": ["*"], "allow_ip_literals": "no"}, "1.2.3.4", True),
        ({"allow": ["[::1]"]}, "[::1]:8448", True),
        ({"allow": ["*"], "deny": ["a*a*a*a*a*a*a*a*a*b"]}, "a" * 200, True),
    ],
)
def test_server_acl(content: dict[str, Any], server: str, allowed: bool) -> None:
    assert parse_server_acl(content).allows(server) is allowed
