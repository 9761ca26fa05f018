"""Devices and users with real keys."""

from __future__ import annotations

from secrets import token_bytes, token_urlsafe
from typing import Any

from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.signing import SigningKey, sign_json

V3 = "/_matrix/client/v3"


def make_key(version: str = "1") -> SigningKey:
    return SigningKey(version, token_bytes(32))


def one_time_keys(*names: str) -> dict[str, Any]:
    """Curve25519 keys with random signatures, which clients check, and servers that are told to."""
    return {f"signed_curve25519:{name}": _one_time_key() for name in names}


def _one_time_key(**more: Any) -> dict[str, Any]:
    signatures = {"@owner:test.example": {"ed25519:DEVICE": encode_base64(token_bytes(64))}}
    return {"key": encode_base64(token_bytes(32)), "signatures": signatures, **more}


def fallback_key(name: str) -> dict[str, Any]:
    return {f"signed_curve25519:{name}": _one_time_key(fallback=True)}


class Device:
    """The identity keys of a device, and other keys that it signs."""

    def __init__(self, user_id: str, device_id: str) -> None:
        self.user_id = user_id
        self.device_id = device_id
        self.key = make_key(device_id)

    def keys(self, **more: Any) -> dict[str, Any]:
        keys = {
            "user_id": self.user_id,
            "device_id": self.device_id,
            "algorithms": ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
            "keys": {
                f"ed25519:{self.device_id}": self.key.verify_key.to_base64(),
                f"curve25519:{self.device_id}": encode_base64(self.key.seed),
            },
            **more,
        }
        return self.sign(keys)

    def one_time_keys(self, *names: str) -> dict[str, Any]:
        return {f"signed_curve25519:{name}": self.sign({"key": encode_base64(token_bytes(32))}) for name in names}

    def fallback_key(self, name: str) -> dict[str, Any]:
        return {f"signed_curve25519:{name}": self.sign({"key": encode_base64(token_bytes(32)), "fallback": True})}

    def sign(self, json: dict[str, Any]) -> dict[str, Any]:
        return sign_json(json, self.user_id, self.key)


class SigningKeys:
    """A user's cross-signing keys."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        self.master, self.self_signing, self.user_signing = (named(make_key()) for _ in range(3))

    def upload(self) -> dict[str, Any]:
        """The body of POST /keys/device_signing/upload."""
        return {
            "master_key": self.object(self.master, "master"),
            "self_signing_key": sign_json(self.object(self.self_signing, "self_signing"), self.user_id, self.master),
            "user_signing_key": sign_json(self.object(self.user_signing, "user_signing"), self.user_id, self.master),
        }

    def object(self, key: SigningKey, usage: str) -> dict[str, Any]:
        public = key.verify_key.to_base64()
        return {"user_id": self.user_id, "usage": [usage], "keys": {f"ed25519:{public}": public}}


def named(key: SigningKey) -> SigningKey:
    """The key under the name of its public half, as cross-signing has it."""
    return SigningKey(key.verify_key.to_base64(), key.seed)


def txn_id() -> str:
    return token_urlsafe(8)
