"""Hashes of events: the content hash, the reference hash, and the event id made from it.

Spec: server-server-api#calculating-the-content-hash-for-an-event
"""

from __future__ import annotations

import binascii
from hashlib import sha256
from typing import Any

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import BadJson
from homeserver.matrix.ids import EventId, parse_event_id
from homeserver.matrix.redaction import redact
from homeserver.matrix.versions import EventIdFormat, RoomVersion

_NOT_IN_CONTENT_HASH = ("hashes", "signatures", "unsigned")
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE = bytes.maketrans(b"-_", b"+/")


def encode_base64(data: bytes) -> str:
    """Unpadded base64 in the standard alphabet.

    Spec: appendices#unpadded-base64
    """
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def encode_base64_urlsafe(data: bytes) -> str:
    """Unpadded base64 with `-` and `_`.

    Spec: appendices#unpadded-base64
    """
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URLSAFE).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The bytes in base64 of either alphabet, padded or not.

    Raises: ValueError.

    Spec: appendices#unpadded-base64
    """
    raw = text.encode("ascii").rstrip(b"=").translate(_FROM_URLSAFE)
    return binascii.a2b_base64(raw + b"=" * (-len(raw) % 4), strict_mode=True)


def content_hash(json: dict[str, Any]) -> bytes:
    """The SHA-256 that belongs in the event's `hashes`, as raw bytes.

    Spec: server-server-api#calculating-the-content-hash-for-an-event
    """
    return sha256(canonical_json(_without(json, _NOT_IN_CONTENT_HASH))).digest()


def is_content_hash_right(json: dict[str, Any]) -> bool:
    """Whether the event's `hashes.sha256` is its content hash. False also if there is none, or not base64.

    Spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    try:
        return decode_base64(json["hashes"]["sha256"]) == content_hash(json)
    except (KeyError, TypeError, AttributeError, ValueError):
        return False


def signed_bytes(json: dict[str, Any], version: RoomVersion) -> bytes:
    """What a server signs of an event, and what its reference hash is taken of: redacted, without signatures.

    Spec: server-server-api#signing-events
    """
    redacted = redact(json, version)
    redacted.pop("signatures", None)
    return canonical_json(redacted)


def reference_hash(json: dict[str, Any], version: RoomVersion) -> bytes:
    """The SHA-256 that identifies the event, as raw bytes.

    Spec: server-server-api#calculating-the-reference-hash-for-an-event
    """
    return sha256(signed_bytes(json, version)).digest()


def compute_event_id(json: dict[str, Any], version: RoomVersion) -> EventId:
    """The event's id: read from `event_id` in versions 1 and 2, else made from the reference hash.

    Raises: BadJson, InvalidParam if versions 1 and 2 have no valid `event_id`.

    Spec: rooms/v4#event-ids
    """
    if version.event_id_on_wire:
        event_id = json.get("event_id")
        if not isinstance(event_id, str):
            raise BadJson("event_id: must be a string")
        return parse_event_id(event_id)
    return event_id_of_hash(reference_hash(json, version), version)


def event_id_of_hash(digest: bytes, version: RoomVersion) -> EventId:
    """The event id that a reference hash gives, in room versions 3 and later.

    Spec: rooms/v4#event-ids
    """
    if version.event_id_format is EventIdFormat.HASH_BASE64:
        return EventId("$" + encode_base64(digest))
    return EventId("$" + encode_base64_urlsafe(digest))


def _without(json: dict[str, Any], keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: value for key, value in json.items() if key not in keys}
