"""Signatures on keys that are uploaded: their shape, and whether they are right.

Spec: appendices#signing-json
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from homeserver.e2ee.limits import MAX_KEY_BYTES, check_object, check_string
from homeserver.matrix.errors import BadSignature, InvalidParam, MatrixError
from homeserver.matrix.ids import UserId
from homeserver.matrix.signing import VerifyKey, verify_json


class InvalidSignature(MatrixError):
    """A signature that is missing, or not that key's over that object."""

    errcode = "M_INVALID_SIGNATURE"


def check_signatures(value: object, field: str) -> dict[str, dict[str, str]]:
    """The `signatures` of an object: user -> key id -> signature. Raises: InvalidParam."""
    field = f"{field}.signatures"
    signatures = check_object(value, field)
    for signer, by_key in signatures.items():
        for key_id, signature in check_object(by_key, f"{field}.{signer}").items():
            check_string(signature, f"{field}.{signer}.{key_id}", MAX_KEY_BYTES)
    return signatures


def has_good_signatures(key: Mapping[str, Any]) -> bool:
    """Whether the `signatures` of what another server says are well-formed, or there are none."""
    try:
        check_signatures(key.get("signatures", {}), "key")
    except InvalidParam:
        return False
    return True


def check_signed(json: object, signer: UserId, key: VerifyKey, field: str) -> None:
    """Raises: InvalidSignature unless it is an object that bears the signer's signature with that key."""
    if not isinstance(json, dict):
        raise InvalidSignature(f"{field}: must be an object that is signed")
    try:
        verify_json(json, signer, key)
    except BadSignature as error:
        raise InvalidSignature(f"{field}: {error.error}") from None


def parse_verify_key(key_id: str, public: object) -> VerifyKey | None:
    """None where it is no ed25519 key."""
    try:
        return VerifyKey.from_base64(key_id, public) if isinstance(public, str) else None
    except ValueError:
        return None


def parse_device_key(device_keys: Mapping[str, Any], device_id: str) -> VerifyKey | None:
    """The key by which the device signs. None where its identity keys have none."""
    key_id = f"ed25519:{device_id}"
    return parse_verify_key(key_id, device_keys["keys"].get(key_id))
