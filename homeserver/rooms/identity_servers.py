"""Identity servers: who has which e-mail address or telephone number, and invites that wait for somebody to prove theirs.

Users name the server, so it may be any host that they like to have asked. What keeps that harmless: https only, to the host and
port of a server name and to paths that stand here; the same rules for addresses as for other homeservers, after the look-up of
the name; no redirects; little is read, and not for long; and what the user is told of a server that does not answer is always the
same. An admin may name the only ones that are asked. The address at which a key's validity is asked for stands in a room's state:
of it, the path too is whatever a member likes; that is but read, with no token.

Spec: identity-service-api
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from attrs import define, field, frozen

from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.errors import Forbidden, InvalidParam, MatrixError
from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.ids import UserId, is_user_id, parse_server_address
from homeserver.rooms.config import IdentityServersConfig
from homeserver.rooms.errors import IdentityServerFault, IdentityServerNotTrusted
from homeserver.runtime.http_client import HttpClient, HttpFailure, Target

logger = logging.getLogger(__name__)

V2: Final = "/_matrix/identity/v2"
TIMEOUT_MS: Final = 10_000
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_ADDRESS_CHARS: Final = 500
MAX_TOKEN_CHARS: Final = 4_096
MAX_KEYS: Final = 10
MAX_TEXT_CHARS: Final = 1_000

_TOKEN: Final = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_EMAIL: Final = re.compile(r"[^\s@\x00-\x1f\x7f]+@[^\s@\x00-\x1f\x7f]+")
_MSISDN: Final = re.compile(r"[0-9]{1,30}")


@frozen
class Address:
    """Somebody by an address of theirs, and the identity server to ask, with the user's access token for it."""

    server: str
    access_token: str = field(repr=False)
    medium: str
    address: str


def parse_address(server: str, access_token: str, medium: str, address: str) -> Address:
    """Raises: InvalidParam, naming the field.

    Spec: appendices#3pid-types
    """
    try:
        parse_server_address(server)
    except InvalidParam:
        raise InvalidParam("id_server", "must be a host name, with a port if need be") from None
    if not access_token.isascii() or not access_token.isprintable() or not 0 < len(access_token) <= MAX_TOKEN_CHARS:
        raise InvalidParam("id_access_token", "is none")
    if medium not in ("email", "msisdn"):
        raise InvalidParam("medium", "must be email or msisdn")
    address = address.casefold() if medium == "email" else address
    shape = _EMAIL if medium == "email" else _MSISDN
    if len(address) > MAX_ADDRESS_CHARS or not shape.fullmatch(address):
        raise InvalidParam("address", "is none")
    return Address(server, access_token, medium, address)


@frozen
class StoredInvite:
    """What the identity server keeps for who proves the address. `content` is that of m.room.third_party_invite."""

    token: str
    content: dict[str, Any]


class AddressInUse(MatrixError):
    """The address is a user's."""

    def __init__(self, user_id: UserId) -> None:
        super().__init__("The address is in use")
        self.user_id = user_id


class _Refused(MatrixError):
    """The identity server answers with an error, `body`."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        errcode, error = body.get("errcode"), body.get("error")
        super().__init__(
            error[:MAX_TEXT_CHARS] if isinstance(error, str) else f"status {status}",
            errcode=errcode if isinstance(errcode, str) else "M_UNKNOWN",
            status=status,
        )
        self.body = body


@define(eq=False)
class IdentityServers:
    """Asks identity servers for users of this server."""

    config: IdentityServersConfig
    http: HttpClient

    def check_allowed(self, server: str) -> None:
        """Raises: IdentityServerNotTrusted."""
        allowed = {name.lower() for name in self.config.allowed}
        if not self.config.enabled or (allowed and server.lower() not in allowed):
            raise IdentityServerNotTrusted(server)

    async def find_user(self, of: Address) -> UserId | None:
        """The user who has the address. Raises: Forbidden, IdentityServerFault, M_TERMS_NOT_SIGNED.

        Spec: identity-service-api#post_matrixidentityv2lookup
        """
        try:
            return await self._look_up(of)
        except _Refused as error:
            if error.errcode != "M_INVALID_PEPPER":
                raise _for_client(of, error) from None
        try:  # it was changed between the two requests
            return await self._look_up(of)
        except _Refused as error:
            raise _for_client(of, error) from None

    async def store_invite(self, of: Address, about: Mapping[str, str]) -> StoredInvite:
        """Have the identity server write to the address; about: the room and the inviter.

        Raises: AddressInUse, Forbidden, InvalidParam, IdentityServerFault, M_TERMS_NOT_SIGNED.

        Spec: identity-service-api#post_matrixidentityv2store-invite
        """
        try:
            body = {**about, "medium": of.medium, "address": of.address}
            return _parse_stored(of, await self._ask(of, "POST", "/store-invite", body))
        except _Refused as error:
            user_id = error.body.get("mxid")
            if error.errcode == "M_THREEPID_IN_USE" and is_user_id(user_id):
                raise AddressInUse(UserId(str(user_id))) from None
            if error.errcode == "M_UNRECOGNIZED" and error.status == 400:
                raise InvalidParam("medium", f"{of.server} takes no invites of this kind") from None
            raise _for_client(of, error) from None

    async def is_key_valid(self, url: str, public_key: str) -> bool:
        """Whether the key holds, as who answers at its key_validity_url says; False for what is no https URL.

        Raises: IdentityServerNotTrusted, IdentityServerFault.

        Spec: identity-service-api#get_matrixidentityv2pubkeyisvalid
        """
        parts = _split_url(url)
        if parts is None:
            return False
        self.check_allowed(parts.netloc)
        query = urlencode([*parse_qsl(parts.query), ("public_key", public_key)])
        try:
            answer = await self._request(parts.netloc, "GET", f"{parts.path or '/'}?{query}", {})
        except _Refused as error:
            logger.info("The identity server %s does not say whether a key holds: %s", parts.netloc, error)
            raise IdentityServerFault(parts.netloc) from None
        return answer.get("valid") is True

    async def _look_up(self, of: Address) -> UserId | None:
        details = await self._ask(of, "GET", "/hash_details")
        pepper, algorithms = details.get("lookup_pepper"), details.get("algorithms")
        if not isinstance(pepper, str) or not isinstance(algorithms, list):
            raise IdentityServerFault(of.server)
        hashed, algorithm = _hashed(of, pepper, algorithms)
        body = {"addresses": [hashed], "algorithm": algorithm, "pepper": pepper}
        mappings = (await self._ask(of, "POST", "/lookup", body)).get("mappings")
        found = mappings.get(hashed) if isinstance(mappings, dict) else None
        if not isinstance(mappings, dict) or (found is not None and not is_user_id(found)):
            raise IdentityServerFault(of.server)
        return UserId(found) if found is not None else None

    async def _ask(self, of: Address, method: str, path: str, body: Any = None) -> dict[str, Any]:
        """The answer. Raises: IdentityServerFault, _Refused."""
        headers = {"Authorization": f"Bearer {of.access_token}"}
        headers |= {"Content-Type": "application/json"} if body is not None else {}
        return await self._request(of.server, method, V2 + path, headers, None if body is None else encode_json(body))

    async def _request(
        self, server: str, method: str, path: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> dict[str, Any]:
        """The answer. Raises: IdentityServerFault, _Refused."""
        at = parse_server_address(server)
        try:
            answer = await self.http.request(
                method,
                Target.at(at.host, at.port or 443),
                path,
                headers=headers,
                body=body,
                timeout_ms=TIMEOUT_MS,
                max_bytes=MAX_ANSWER_BYTES,
            )
            json = decode_json(answer.body)
        except (HttpFailure, MatrixError) as error:
            logger.info("The identity server %s does not help: %s", server, error)
            raise IdentityServerFault(server) from None
        if not isinstance(json, dict):
            raise IdentityServerFault(server)
        if not 200 <= answer.status < 300:
            raise _Refused(answer.status, json)
        return json


def _split_url(url: str) -> SplitResult | None:
    """None for what is no https URL of a server and a path."""
    try:
        parts = urlsplit(url)
        parse_server_address(parts.netloc)
    except (ValueError, InvalidParam):
        return None
    is_plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_TEXT_CHARS
    return parts if is_plain and parts.scheme == "https" else None


def _hashed(of: Address, pepper: str, algorithms: Sequence[Any]) -> tuple[str, str]:
    """The address as it is looked up, and the name of that way.

    Spec: identity-service-api#algorithms
    """
    if "sha256" in algorithms:
        digest = sha256(f"{of.address} {of.medium} {pepper}".encode()).digest()
        return encode_base64(digest).replace("+", "-").replace("/", "_"), "sha256"
    if "none" in algorithms:
        return f"{of.address} {of.medium}", "none"
    raise IdentityServerFault(of.server)


def _parse_stored(of: Address, answer: Mapping[str, Any]) -> StoredInvite:
    """Raises: IdentityServerFault."""
    token, name, listed = answer.get("token"), answer.get("display_name"), answer.get("public_keys")
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise IdentityServerFault(of.server)
    if not isinstance(name, str) or len(name) > MAX_TEXT_CHARS or not isinstance(listed, list):
        raise IdentityServerFault(of.server)
    keys = [_parse_key(key) for key in listed[:MAX_KEYS]]
    known = [key for key in keys if key is not None]
    if not known or len(known) < len(keys):
        raise IdentityServerFault(of.server)
    # The first stands in the event itself, too, where who knows no lists looks for it.
    return StoredInvite(token, {"display_name": name, **known[0], "public_keys": known})


def _parse_key(key: object) -> dict[str, str] | None:
    if not isinstance(key, dict):
        return None
    public_key, url = key.get("public_key"), key.get("key_validity_url")
    if not isinstance(public_key, str) or not isinstance(url, str):
        return None
    if len(public_key) > MAX_TEXT_CHARS or len(url) > MAX_TEXT_CHARS:
        return None
    return {"public_key": public_key, "key_validity_url": url}


def _for_client(of: Address, error: _Refused) -> MatrixError:
    """As the user may see it: nothing that reads as if it were about their session here."""
    logger.info("The identity server %s refuses: %s %s: %s", of.server, error.status, error.errcode, error)
    if error.errcode == "M_TERMS_NOT_SIGNED":
        return MatrixError(error.error, errcode=error.errcode, status=403)
    if error.status in (401, 403):
        return Forbidden(f"{of.server} refuses: {error.error}")
    return IdentityServerFault(of.server)
