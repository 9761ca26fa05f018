"""Making our own events: hashed, signed and named.

Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from homeserver.matrix.canonical import encode_for_version
from homeserver.matrix.hashing import content_hash, encode_base64, event_id_of_hash, signed_bytes
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId
from homeserver.matrix.pdu import Pdu, check_format, check_size
from homeserver.matrix.signing import SigningKey, sign_event
from homeserver.matrix.sticky import STICKY
from homeserver.matrix.versions import RoomVersion


def build_pdu(
    version: RoomVersion,
    *,
    type: str,
    sender: UserId,
    room_id: RoomId | None,
    content: dict[str, Any],
    state_key: str | None = None,
    redacts: EventId | None = None,
    sticky_ms: int | None = None,
    prev_events: Sequence[EventId],
    auth_events: Sequence[EventId],
    depth: int,
    origin_server_ts: int,
    signing_key: SigningKey,
    server_name: ServerName,
    event_id: EventId | None = None,
    hashes_of: Callable[[EventId], str] | None = None,
) -> Pdu:
    """A new event of a local user, ready to be authorised, stored and sent.

    `content` is taken over: the caller must not change it afterwards. room_id is None only for m.room.create
    of room version 12. `redacts` goes to the place the version has for it. depth is cut to the version's
    largest. Versions 1 and 2 need event_id (a new random one) and hashes_of (an event's id to the base64 of
    its reference hash).

    PERF(90 us for a small message, of which 31 are the signature): what is signed and what is hashed into the
    event id are the same bytes, so the event is encoded three times and not four.

    Raises: BadJson, InvalidParam or TooLarge if content, type or state_key are not what an event may have.

    Spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
    """
    json: dict[str, Any] = {
        "type": type,
        "sender": sender,
        "content": content,
        "depth": min(depth, version.max_depth),
        "origin_server_ts": origin_server_ts,
        "prev_events": _references(prev_events, hashes_of),
        "auth_events": _references(auth_events, hashes_of),
    }
    if room_id is not None:
        json["room_id"] = room_id
    if state_key is not None:
        json["state_key"] = state_key
    if redacts is not None:
        _set_redacts(json, redacts, version)
    if sticky_ms is not None:
        json[STICKY] = {"duration_ms": sticky_ms}
    if version.event_id_on_wire:
        assert event_id is not None, "room versions 1 and 2 need an event id"
        json["event_id"] = event_id
    return _hash_and_sign(json, version, signing_key, server_name)


def add_signature(pdu: Pdu, signing_key: SigningKey, server_name: ServerName) -> Pdu:
    """The same event bearing our signature too, as an invited user's or an authorising server adds it.

    Raises: TooLarge if the signature makes the event too large.

    Spec: server-server-api#put_matrixfederationv2inviteroomideventid
    """
    json = sign_event(pdu.json, pdu.version, server_name, signing_key)
    json_bytes = check_size(encode_for_version(json, pdu.version))
    return Pdu(json, json_bytes, pdu.version, pdu.event_id, pdu.unsigned)


def _set_redacts(json: dict[str, Any], redacts: EventId, version: RoomVersion) -> None:
    if version.redacts_in_content:
        json["content"] = {**json["content"], "redacts": redacts}
    else:
        json["redacts"] = redacts


def _references(event_ids: Sequence[EventId], hashes_of: Callable[[EventId], str] | None) -> list[Any]:
    if hashes_of is None:
        return list(event_ids)
    return [[event_id, {"sha256": hashes_of(event_id)}] for event_id in event_ids]


def _hash_and_sign(json: dict[str, Any], version: RoomVersion, key: SigningKey, server: ServerName) -> Pdu:
    json["hashes"] = {"sha256": encode_base64(content_hash(json))}
    to_sign = signed_bytes(json, version)
    json["signatures"] = {server: {key.key_id: encode_base64(key.sign(to_sign))}}
    check_format(json, version)
    json_bytes = check_size(encode_for_version(json, version))
    hash_id = event_id_of_hash(sha256(to_sign).digest(), version)
    event_id = json["event_id"] if version.event_id_on_wire else hash_id
    return Pdu(json, json_bytes, version, event_id)
