"""The Authorization header by which servers prove who sends a request.

Spec: server-server-api#request-authentication
"""

from __future__ import annotations

import re
from typing import Any, Final

from attrs import frozen

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import ServerName, is_server_name
from homeserver.matrix.signing import KeyId, SigningKey, is_supported_key_id, sign_json

SCHEME: Final = "X-Matrix"
MAX_HEADER_LENGTH: Final = 8 * 1024
MAX_CREDENTIALS: Final = 10

# RFC 9110, section 5.6.2, and the colon that older servers leave unquoted; "/", "=" and "@" come in their signatures.
_TOKEN: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z:/=@\[\]]+"
_QUOTED: Final = r'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\uffff])*"'
_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER: Final = re.compile(rf"[ \t]*({_NAME})[ \t]*=[ \t]*({_QUOTED}|{_TOKEN})[ \t]*(?:,|$)")
_START: Final = re.compile(rf"[ \t,]*{SCHEME}[ ]+", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


class Unauthorized(MatrixError):
    """Who sends a request, or signed something, is not proven."""

    status = 401
    errcode = "M_UNAUTHORIZED"


@frozen
class Credentials:
    """One X-Matrix header. `destination` is None where an older server leaves it out."""

    origin: ServerName
    destination: ServerName | None
    key_id: KeyId
    signature: str


def parse_header(value: str) -> list[Credentials]:
    """The credentials in an Authorization header, of which a request may bear several, joined by commas.

    Raises: Unauthorized, saying what is wrong.
    """
    if len(value) > MAX_HEADER_LENGTH:
        raise Unauthorized(f"The Authorization header is longer than {MAX_HEADER_LENGTH} characters")
    found: list[Credentials] = []
    at = 0
    while at < len(value):
        start = _START.match(value, at)
        if start is None:
            raise Unauthorized("The Authorization header is not of the form X-Matrix name=value,…")
        parameters, at = _parse_parameters(value, start.end())
        found.append(_to_credentials(parameters))
        if len(found) > MAX_CREDENTIALS:
            raise Unauthorized("The Authorization header bears too many signatures")
    if not found:
        raise Unauthorized("The Authorization header is empty")
    if len({credentials.origin for credentials in found}) != 1:
        raise Unauthorized("The Authorization header names several origins")
    return found


def _parse_parameters(value: str, at: int) -> tuple[dict[str, str], int]:
    """The parameters from `at` to the next credentials or the end, and where that is."""
    parameters: dict[str, str] = {}
    while at < len(value) and (not parameters or _START.match(value, at) is None):
        match = _PARAMETER.match(value, at)
        if match is None:
            raise Unauthorized("The Authorization header holds something that is not name=value")
        name, raw = match[1].lower(), match[2]
        if name in parameters:
            raise Unauthorized(f"The Authorization header holds {name} twice")
        parameters[name] = _ESCAPED.sub(r"\1", raw[1:-1]) if raw.startswith('"') else raw
        at = match.end()
    return parameters, at


def _to_credentials(parameters: dict[str, str]) -> Credentials:
    origin, key = parameters.get("origin"), parameters.get("key")
    signature = parameters.get("sig", parameters.get("signature"))
    if origin is None or key is None or signature is None:
        raise Unauthorized("The Authorization header lacks origin, key or sig")
    if not is_server_name(origin):
        raise Unauthorized("The Authorization header's origin is not a server name")
    if not is_supported_key_id(key):
        raise Unauthorized("The Authorization header's key is not of an algorithm known here")
    destination = parameters.get("destination")
    return Credentials(
        ServerName(origin), None if destination is None else ServerName(destination), KeyId(key), signature
    )


def signed_object(method: str, uri: str, origin: ServerName, destination: ServerName, content: Any) -> dict[str, Any]:
    """What is signed; `content` is None for a request without a body."""
    signed = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    return signed if content is None else {**signed, "content": content}


def signed_bytes(about: dict[str, Any], body: bytes) -> bytes:
    """What is signed, for a body in canonical JSON; `about` is signed_object without content.

    If another body than that is put there, no signature fits: JSON that begins alike is the same up to its end.
    """
    rest = canonical_json(about)
    return b'{"content":' + body + b"," + rest[1:] if body else rest


def build_header(
    key: SigningKey, method: str, uri: str, origin: ServerName, destination: ServerName, content: Any
) -> str:
    """The header's value for a request of ours."""
    signed = sign_json(signed_object(method, uri, origin, destination, content), origin, key)
    signature = signed["signatures"][origin][key.key_id]
    return f'{SCHEME} origin="{origin}",destination="{destination}",key="{key.key_id}",sig="{signature}"'
