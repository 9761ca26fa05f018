"""Pdu: one event of a room, and the checks that turn received JSON into one.

A server holds tens of thousands of Pdus in memory, so a Pdu keeps the parsed fields that algorithms read
(header and content) and, of everything else (hashes, signatures, unknown keys), only the canonical bytes.
`json` decodes those anew for each caller, who may therefore change what it gets. Strings that recur in a room
(types, senders, ids of auth events) are interned.

A Pdu never changes. `content` and `unsigned` are shared by all who hold the Pdu: read them, never write.

Rejected: keeping the whole parsed JSON (twice the memory, and two truths); attrs (a frozen
attrs object sets each field through object.__setattr__, and hundreds of thousands of Pdus are built when a
large room is joined).

Spec: server-server-api#pdus
"""

from __future__ import annotations

from sys import intern
from typing import Any, Final

from homeserver.matrix.canonical import decode_json, encode_for_version
from homeserver.matrix.errors import BadJson, InvalidParam, TooLarge
from homeserver.matrix.hashing import compute_event_id, is_content_hash_right
from homeserver.matrix.ids import (
    EventId,
    RoomId,
    UserId,
    is_hash_room_id,
    parse_event_id,
    parse_room_id,
    parse_user_id,
    room_id_of_create,
)
from homeserver.matrix.limits import (
    MAX_AUTH_EVENTS,
    MAX_DEPTH_64_BIT,
    MAX_EVENT_BYTES,
    MAX_ID_BYTES,
    MAX_PREV_EVENTS,
)
from homeserver.matrix.redaction import redact
from homeserver.matrix.versions import RoomVersion

# Everything else in a remote event's `unsigned` is the remote's claim about our own users, or noise.
_UNSIGNED_KEPT = ("age", "invite_room_state", "knock_room_state")


class Pdu:
    """An event of well-formed fields; whether its hashes, signatures and authorisation hold is said
    elsewhere.

    Made by parse_pdu (from the network), build_pdu (our own) and load_pdu (from our database).
    """

    __slots__ = (
        "__weakref__",
        "_unsigned",
        "auth_events",
        "content",
        "depth",
        "event_id",
        "json_bytes",
        "origin_server_ts",
        "prev_events",
        "redacts",
        "room_id",
        "sender",
        "state_key",
        "type",
        "version",
    )

    def __init__(
        self,
        json: dict[str, Any],
        json_bytes: bytes,
        version: RoomVersion,
        event_id: EventId,
        unsigned: dict[str, Any] | None = None,
    ) -> None:
        """From JSON that was checked; json_bytes is its canonical encoding without `unsigned`."""
        event_type: str = json["type"]
        content: dict[str, Any] = json["content"]
        self.version: Final = version
        self.event_id: Final = event_id
        self.type: Final = intern(event_type)
        self.sender: Final = UserId(intern(json["sender"]))
        self.state_key: Final[str | None] = json.get("state_key")
        self.content: Final = content
        self.depth: Final[int] = json["depth"]
        self.origin_server_ts: Final[int] = json["origin_server_ts"]
        self.prev_events: Final = _referenced_ids(json["prev_events"], version)
        self.auth_events: Final = _referenced_ids(json["auth_events"], version)
        self.redacts: Final = _redacts(json, version) if event_type == "m.room.redaction" else None
        room_id = json.get("room_id")
        self.room_id: Final = room_id_of_create(event_id) if room_id is None else RoomId(intern(room_id))
        self.json_bytes: Final = json_bytes
        """Canonical JSON of the event in the federation format, without `unsigned`."""
        self._unsigned = unsigned

    @property
    def json(self) -> dict[str, Any]:
        """The federation format without `unsigned`: decoded anew at each call, the caller may change it."""
        json: dict[str, Any] = decode_json(self.json_bytes)
        return json

    @property
    def unsigned(self) -> dict[str, Any]:
        """What a remote server sent in `unsigned` of the keys worth believing; empty for our own events."""
        return self._unsigned or {}

    @property
    def is_state(self) -> bool:
        return self.state_key is not None

    @property
    def key(self) -> tuple[str, str]:
        """(type, state_key). Only state events have one."""
        assert self.state_key is not None, f"{self.event_id} is no state event"
        return self.type, self.state_key

    @property
    def membership(self) -> str | None:
        """`content.membership` of an m.room.member state event if it is a string, else None."""
        membership = self.content.get("membership") if self.type == "m.room.member" and self.is_state else None
        return membership if isinstance(membership, str) else None

    @property
    def is_create(self) -> bool:
        """Whether this is the room's m.room.create event: a state event with an empty state key."""
        return self.type == "m.room.create" and self.state_key == ""

    def __repr__(self) -> str:
        state_key = "" if self.state_key is None else f" {self.state_key!r}"
        return f"<Pdu {self.event_id} {self.type}{state_key} by {self.sender} in {self.room_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Pdu):
            return NotImplemented
        return self.event_id == other.event_id and self.json_bytes == other.json_bytes

    def __hash__(self) -> int:
        return hash(self.event_id)


def _referenced_ids(references: list[Any], version: RoomVersion) -> tuple[EventId, ...]:
    if version.references_carry_hashes:
        return tuple([EventId(intern(reference[0])) for reference in references])
    return tuple([EventId(intern(reference)) for reference in references])


def _redacts(json: dict[str, Any], version: RoomVersion) -> EventId | None:
    redacts = (json["content"] if version.redacts_in_content else json).get("redacts")
    return (
        EventId(redacts) if isinstance(redacts, str) and "\0" not in redacts and len(redacts) <= MAX_ID_BYTES else None
    )


# -- making Pdus ---------------------------------------------------------------------------------------------


def parse_pdu(json: dict[str, Any], version: RoomVersion, *, event_id: EventId | None = None) -> Pdu:
    """The Pdu in JSON from the network (receipt check 1, "is a valid event").

    `json` is taken over: the caller must not change it afterwards. event_id is given only if it is already
    known; otherwise it is read or computed, which takes one encoding and one hash.

    Raises: BadJson or InvalidParam naming the field, TooLarge.

    Spec: server-server-api#checks-performed-on-receipt-of-a-pdu
    """
    unsigned = json.pop("unsigned", None)
    check_format(json, version)
    json_bytes = check_size(encode_for_version(json, version))
    event_id = event_id or compute_event_id(json, version)
    return Pdu(json, json_bytes, version, event_id, _believable_unsigned(unsigned))


def load_pdu(json_bytes: bytes, version: RoomVersion, event_id: EventId) -> Pdu:
    """The Pdu in bytes that were once a Pdu's `json_bytes`: nothing is checked or hashed again."""
    return Pdu(decode_json(json_bytes), json_bytes, version, event_id)


def redact_pdu(pdu: Pdu) -> Pdu:
    """The event in its redacted form, with the same event id.

    Spec: client-server-api#redactions
    """
    redacted = redact(pdu.json, pdu.version)
    return Pdu(redacted, encode_for_version(redacted, pdu.version), pdu.version, pdu.event_id, pdu._unsigned)


def redact_unless_hash_matches(pdu: Pdu, json: dict[str, Any] | None = None) -> Pdu:
    """The Pdu itself if its content hash is right, else its redacted form (receipt check 3). json: pdu.json, from who has it.

    Spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    return pdu if is_content_hash_right(json or pdu.json) else redact_pdu(pdu)


def _believable_unsigned(unsigned: object) -> dict[str, Any] | None:
    if not isinstance(unsigned, dict):
        return None
    return {key: unsigned[key] for key in _UNSIGNED_KEPT if key in unsigned} or None


# -- checks --------------------------------------------------------------------------------------------------


def check_size(json_bytes: bytes) -> bytes:
    """The bytes again, unless they are more than an event may have (TooLarge).

    `unsigned` does not count: it is not the sender's, and every server on the way may add to it.

    Spec: client-server-api#size-limits
    """
    if len(json_bytes) > MAX_EVENT_BYTES:
        raise TooLarge(f"event: {len(json_bytes)} bytes, more than {MAX_EVENT_BYTES}")
    return json_bytes


def check_format(json: dict[str, Any], version: RoomVersion) -> None:
    """Raises BadJson, InvalidParam or TooLarge naming the first field that breaks the room version's event
    format.

    Numbers inside `content` are not looked at: see canonical.check_canonical.

    Spec: rooms/v12#event-format
    """
    _check_bounded_text(json, "type")
    _check_bounded_text(json, "state_key", required=False)
    _check_integer(json, "origin_server_ts", -MAX_DEPTH_64_BIT, MAX_DEPTH_64_BIT)
    _check_integer(json, "depth", 0, version.max_depth)
    _check_object(json, "content")
    _check_ids(json, version)
    _check_references(json, "prev_events", MAX_PREV_EVENTS, version)
    _check_references(json, "auth_events", MAX_AUTH_EVENTS, version)
    _check_hashes(json)
    _check_signatures(json)
    if json["type"] == "m.room.redaction" and not version.redacts_in_content:
        _check_bounded_text(json, "redacts", required=False)


def _require(json: dict[str, Any], field: str) -> Any:
    try:
        return json[field]
    except KeyError:
        raise BadJson(f"{field}: missing from the event") from None


def _check_bounded_text(json: dict[str, Any], field: str, *, required: bool = True) -> None:
    if not required and field not in json:
        return
    value = _require(json, field)
    if not isinstance(value, str):
        raise BadJson(f"{field}: must be a string")
    _check_bytes(field, value)


def _check_bytes(field: str, value: str) -> None:
    # A character has at most 4 bytes, so short values need no encoding.
    if len(value) * 4 > MAX_ID_BYTES and len(value.encode("utf-8", "surrogatepass")) > MAX_ID_BYTES:
        raise TooLarge(f"{field}: longer than {MAX_ID_BYTES} bytes")


def _check_integer(json: dict[str, Any], field: str, least: int, most: int) -> None:
    value = _require(json, field)
    # Not isinstance: True is an int to Python, but not to JSON.
    if type(value) is not int:
        raise BadJson(f"{field}: must be an integer")
    if not least <= value <= most:
        raise BadJson(f"{field}: out of range")


def _check_object(json: dict[str, Any], field: str) -> dict[str, Any]:
    value = _require(json, field)
    if not isinstance(value, dict):
        raise BadJson(f"{field}: must be an object")
    return value


def _check_ids(json: dict[str, Any], version: RoomVersion) -> None:
    _check_bounded_text(json, "sender")
    parse_user_id(json["sender"], "sender")
    _check_room_id(json, version)
    if version.event_id_on_wire:
        _check_bounded_text(json, "event_id")
        parse_event_id(json["event_id"])


def _check_room_id(json: dict[str, Any], version: RoomVersion) -> None:
    # The same question as Pdu.is_create, of JSON that is not yet known to be an event.
    if version.room_id_is_create_hash and json["type"] == "m.room.create" and json.get("state_key") == "":
        # Authorisation rule 1.2, here because a room id that is there would be believed instead of derived.
        if "room_id" in json:
            raise BadJson("room_id: not allowed in m.room.create")
        return
    _check_bounded_text(json, "room_id")
    room_id = parse_room_id(json["room_id"])
    if version.room_id_is_create_hash and not is_hash_room_id(room_id):
        raise InvalidParam("room_id", "must be the hash of the create event")
    if not version.room_id_is_create_hash and ":" not in room_id:
        raise InvalidParam("room_id", "must have a domain")


def _check_references(json: dict[str, Any], field: str, most: int, version: RoomVersion) -> None:
    references = _require(json, field)
    if not isinstance(references, list):
        raise BadJson(f"{field}: must be a list")
    if len(references) > most:
        raise BadJson(f"{field}: more than {most} events")
    for reference in references:
        event_id = _reference_id(reference, field) if version.references_carry_hashes else reference
        if not isinstance(event_id, str) or not event_id.startswith("$") or "\0" in event_id:
            raise BadJson(f"{field}: must hold event ids")
        _check_bytes(field, event_id)


def _reference_id(reference: object, field: str) -> object:
    """The event id in a `[event_id, {"sha256": hash}]` pair of room versions 1 and 2."""
    if not isinstance(reference, list) or len(reference) != 2 or not isinstance(reference[1], dict):
        raise BadJson(f"{field}: must hold pairs of event id and hashes")
    event_id: object = reference[0]
    return event_id


def _check_hashes(json: dict[str, Any]) -> None:
    if not isinstance(_check_object(json, "hashes").get("sha256"), str):
        raise BadJson("hashes: must hold a sha256 string")


def _check_signatures(json: dict[str, Any]) -> None:
    for by_key in _check_object(json, "signatures").values():
        if not isinstance(by_key, dict) or not all(isinstance(signature, str) for signature in by_key.values()):
            raise BadJson("signatures: must map servers to signatures by key id")
