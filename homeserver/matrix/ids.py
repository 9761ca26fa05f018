"""Identifiers: users, rooms, aliases, events, servers, devices.

Each kind is a NewType over str that only the parse_ functions here (and code that made the id itself)
produce, so a value of type UserId is known to be well-formed. Ids that other servers made are read
tolerantly, as the specification asks (historical user ids); the strict grammar is checked only where we
allocate a new one (check_new_localpart).

Spec: appendices#identifier-grammar
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from typing import NewType

import attrs

from homeserver.matrix.errors import InvalidParam
from homeserver.matrix.limits import MAX_ID_BYTES, MAX_OPAQUE_ID_LENGTH, MAX_SERVER_NAME_LENGTH

UserId = NewType("UserId", str)
RoomId = NewType("RoomId", str)
EventId = NewType("EventId", str)
RoomAlias = NewType("RoomAlias", str)
ServerName = NewType("ServerName", str)
DeviceId = NewType("DeviceId", str)

_NEW_LOCALPART = re.compile(r"[a-z0-9._=\-/+]+", re.ASCII)
_BAD_IN_LOCALPART = re.compile("[:\x00\ud800-\udfff]")
_BAD_IN_OPAQUE = re.compile("[\x00\ud800-\udfff]")
_COMPLIANT_LOCALPART = re.compile("[\x21-\x7e]+")
_OPAQUE_ID = re.compile(r"[0-9A-Za-z\-._~]+")
_HASH = re.compile(r"[A-Za-z0-9_\-]{43}")
_SERVER_NAME = re.compile(
    r"(?P<host>\[(?P<ipv6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>[0-9A-Za-z.\-]{1,255}))(?::(?P<port>[0-9]{1,5}))?",
    re.ASCII,
)
_IPV4_SHAPE = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)

# A server name stands in nearly every id we read: those of a federation, some thousands, are parsed once.
_SERVER_NAMES_CACHED = 10_000
_IDS_CACHED = 4_096


@attrs.frozen
class ServerAddress:
    """A server name taken apart. `host` is without brackets; `port` is None if not given."""

    host: str
    port: int | None
    is_ip_literal: bool


# -- servers -------------------------------------------------------------------------------------------------


@lru_cache(_SERVER_NAMES_CACHED)
def parse_server_address(server_name: str) -> ServerAddress:
    """The host and port in a server name.

    Raises: InvalidParam.

    Spec: appendices#server-name
    """
    match = _SERVER_NAME.fullmatch(server_name)
    if match is None or len(server_name) > MAX_SERVER_NAME_LENGTH:
        raise InvalidParam("server_name", "not a valid server name")
    port = int(match["port"]) if match["port"] else None
    if port is not None and not 0 < port < 65536:
        raise InvalidParam("server_name", "the port is out of range")
    if match["ipv6"]:
        _check_ipv6(match["ipv6"])
        return ServerAddress(match["ipv6"], port, True)
    return ServerAddress(match["name"], port, _check_dns_or_ipv4(match["name"]))


def _check_ipv6(host: str) -> None:
    try:
        IPv6Address(host)
    except AddressValueError:
        raise InvalidParam("server_name", "not a valid IPv6 address") from None


def _check_dns_or_ipv4(host: str) -> bool:
    """Whether the host is an IPv4 literal; raises if it is neither that nor a DNS name."""
    if _IPV4_SHAPE.fullmatch(host):
        if any(int(part) > 255 for part in host.split(".")):
            raise InvalidParam("server_name", "not a valid IPv4 address")
        return True
    # A trailing dot is a fully qualified name: legal in the grammar, hence accepted.
    if not all(host.removesuffix(".").split(".")):
        raise InvalidParam("server_name", "the host name has an empty label")
    return False


def parse_server_name(value: str) -> ServerName:
    """The value as a server name, port included if it has one. Case is kept: names are case-sensitive.

    Raises: InvalidParam.

    Spec: appendices#server-name
    """
    parse_server_address(value)
    return ServerName(value)


def is_server_name(value: str) -> bool:
    """Whether parse_server_name would accept the value."""
    try:
        parse_server_name(value)
    except InvalidParam:
        return False
    return True


# -- ids of the form <sigil>localpart:domain -----------------------------------------------------------------


def domain_of(identifier: str) -> ServerName:
    """What stands after the first colon of a user id, alias, or old room or event id; "" if there is none."""
    return ServerName(identifier.partition(":")[2])


def localpart_of(user_id: str) -> str:
    """What stands between the sigil and the first colon, for user ids and aliases."""
    return user_id[1:].partition(":")[0]


def _check_size(value: str, field: str) -> None:
    # A character has at most 4 bytes, so short ids need no encoding.
    if len(value) * 4 > MAX_ID_BYTES and len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise InvalidParam(field, f"longer than {MAX_ID_BYTES} bytes")


def _check_qualified(value: str, sigil: str, field: str) -> None:
    if not value.startswith(sigil):
        raise InvalidParam(field, f"must start with {sigil!r}")
    _check_size(value, field)
    localpart, colon, domain = value[1:].partition(":")
    if not colon:
        raise InvalidParam(field, "must have the form localpart:domain")
    if _BAD_IN_LOCALPART.search(localpart):
        raise InvalidParam(field, "holds a character that is not allowed")
    try:
        parse_server_name(domain)
    except InvalidParam:
        raise InvalidParam(field, "does not end with a valid server name") from None


@lru_cache(_IDS_CACHED)
def parse_user_id(value: str, field: str = "user_id") -> UserId:
    """The value as a user id of any server; historical localparts (any Unicode, even empty) are accepted.

    Raises: InvalidParam naming the field.

    Spec: appendices#historical-user-ids
    """
    _check_qualified(value, "@", field)
    return UserId(value)


def is_user_id(value: object) -> bool:
    """Whether parse_user_id would accept the value (False for what is not a string)."""
    try:
        return isinstance(value, str) and bool(parse_user_id(value))
    except InvalidParam:
        return False


def is_user_of(value: object, server: str) -> bool:
    """Whether the value is the id of a user of that server, and one that clients may be told outside of events: for whom
    another server may speak.

    Spec: appendices#historical-user-ids
    """
    return (
        isinstance(value, str)
        and domain_of(value) == server
        and is_user_id(value)
        and is_compliant_user_id(UserId(value))
    )


def is_compliant_user_id(user_id: UserId) -> bool:
    """Whether the localpart is not empty and within U+0021..U+007E.

    Other users may take part in rooms but must not be told to clients outside an event (device lists,
    presence…).

    Spec: appendices#historical-user-ids
    """
    return _COMPLIANT_LOCALPART.fullmatch(localpart_of(user_id)) is not None


def check_new_localpart(localpart: str, server_name: ServerName) -> None:
    """Raises InvalidParam (M_INVALID_USERNAME) unless the localpart may be given to a new user of
    server_name.

    Spec: appendices#user-identifiers
    """
    if not _NEW_LOCALPART.fullmatch(localpart):
        message = "User ID can only contain the characters a-z, 0-9, or '=_-./+'"
    elif len(localpart) + len(server_name) + 2 > MAX_ID_BYTES:
        message = f"User ID may not be longer than {MAX_ID_BYTES} bytes"
    else:
        return
    error = InvalidParam("username", message)
    error.errcode = "M_INVALID_USERNAME"
    raise error


def make_user_id(localpart: str, server_name: ServerName) -> UserId:
    """`@localpart:server_name`, unchecked: for localparts that were checked or come from our own database."""
    return UserId(f"@{localpart}:{server_name}")


def parse_localpart_or_user_id(value: str, server_name: ServerName, field: str = "user") -> UserId:
    """A full user id, or a bare localpart completed with our server name, as login takes either.

    Raises: InvalidParam.

    Spec: client-server-api#identifier-types
    """
    return parse_user_id(value if value.startswith("@") else f"@{value}:{server_name}", field)


def parse_room_alias(value: str, field: str = "room_alias") -> RoomAlias:
    """The value as a room alias.

    Raises: InvalidParam.

    Spec: appendices#room-aliases
    """
    _check_qualified(value, "#", field)
    return RoomAlias(value)


# -- rooms and events ----------------------------------------------------------------------------------------


@lru_cache(_IDS_CACHED)
def parse_room_id(value: str, field: str = "room_id") -> RoomId:
    """The value as a room id, in either form: with a domain, or a bare hash (room version 12).

    Raises: InvalidParam.

    Spec: appendices#room-ids
    """
    if ":" in value:
        _check_qualified(value, "!", field)
    else:
        _check_opaque(value, "!", field)
    return RoomId(value)


def is_hash_room_id(room_id: str) -> bool:
    """Whether a room id is a create event's hash: `!` and 43 characters of URL-safe base64.

    Spec: appendices#room-ids
    """
    return room_id.startswith("!") and _HASH.fullmatch(room_id, 1) is not None


def parse_room_id_or_alias(value: str, field: str = "room_id_or_alias") -> RoomId | RoomAlias:
    """A room id or an alias; tell them apart with is_room_alias.

    Raises: InvalidParam.
    """
    return parse_room_alias(value, field) if value.startswith("#") else parse_room_id(value, field)


def is_room_alias(value: RoomId | RoomAlias) -> bool:
    """Whether it is an alias and not a room id."""
    return value.startswith("#")


def room_id_of_create(event_id: EventId) -> RoomId:
    """The id of the room that a create event of room version 12 opens.

    Spec: rooms/v12#event-format
    """
    return RoomId("!" + event_id[1:])


def create_event_id_of(room_id: RoomId) -> EventId:
    """The id of the create event of a room of version 12.

    Spec: rooms/v12#event-format
    """
    return EventId("$" + room_id[1:])


def parse_event_id(value: str, field: str = "event_id") -> EventId:
    """The value as an event id of any room version.

    Raises: InvalidParam.

    Spec: appendices#event-ids
    """
    _check_opaque(value, "$", field)
    return EventId(value)


def _check_opaque(value: str, sigil: str, field: str) -> None:
    if len(value) < 2 or not value.startswith(sigil):
        raise InvalidParam(field, f"must start with {sigil!r} and go on")
    _check_size(value, field)
    if _BAD_IN_OPAQUE.search(value):
        raise InvalidParam(field, "holds a character that is not allowed")


# -- devices and opaque ids ----------------------------------------------------------------------------------


def parse_device_id(value: str, field: str = "device_id") -> DeviceId:
    """The value as a device id: any text without NUL, 1 to 255 bytes, as clients choose what they like.

    Raises: InvalidParam.
    """
    if not value or _BAD_IN_OPAQUE.search(value):
        raise InvalidParam(field, "must be text of at least one character")
    _check_size(value, field)
    return DeviceId(value)


def is_opaque_id(value: str) -> bool:
    """Whether the value fits the Opaque Identifier Grammar.

    Spec: appendices#opaque-identifiers
    """
    return len(value) <= MAX_OPAQUE_ID_LENGTH and _OPAQUE_ID.fullmatch(value) is not None
