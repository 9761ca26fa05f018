"""Signatures on JSON and on events, compatible with signedjson.

A server signs with a SigningKey (kept in a file) and is verified with a VerifyKey (fetched from it). Which
keys are to be believed at what time is for the key store to say; here is the arithmetic, and the rule for one
key (is_key_valid_for).

Spec: appendices#signing-json
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NewType

import attrs
from nacl.bindings import (
    crypto_sign,
    crypto_sign_BYTES,
    crypto_sign_open,
    crypto_sign_PUBLICKEYBYTES,
    crypto_sign_seed_keypair,
    crypto_sign_SEEDBYTES,
)
from nacl.exceptions import CryptoError

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import BadSignature
from homeserver.matrix.hashing import decode_base64, encode_base64, signed_bytes
from homeserver.matrix.ids import ServerName, domain_of
from homeserver.matrix.versions import RoomVersion

KeyId = NewType("KeyId", str)
"""`ed25519:version`."""

ALGORITHM = "ed25519"
MAX_KEY_VALIDITY_AHEAD_MS = 7 * 24 * 3600 * 1000
_KEY_VERSION = re.compile(r"[A-Za-z0-9_]+")


class KeyFileError(ValueError):
    """A signing key file is not of the form `ed25519 version base64seed`; the text says where."""


# -- keys ----------------------------------------------------------------------------------------------------


@attrs.frozen
class VerifyKey:
    """Another server's public key."""

    key_id: KeyId
    public_key: bytes

    @classmethod
    def from_base64(cls, key_id: str, public_key: str) -> VerifyKey:
        """From the key's id and base64 as servers publish them.

        Raises: ValueError if it is no ed25519 key.
        """
        raw = decode_base64(public_key)
        if not is_supported_key_id(key_id) or len(raw) != crypto_sign_PUBLICKEYBYTES:
            raise ValueError("not an ed25519 public key")
        return cls(KeyId(key_id), raw)

    def to_base64(self) -> str:
        return encode_base64(self.public_key)

    def is_signature(self, message: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over the message."""
        if len(signature) != crypto_sign_BYTES:
            return False
        try:
            crypto_sign_open(signature + message, self.public_key)
        except (CryptoError, ValueError):
            return False
        return True


@attrs.frozen(repr=False)
class SigningKey:
    """One of our own keys: 32 secret bytes and a version that names it."""

    version: str
    seed: bytes
    key_id: KeyId = attrs.field(init=False, eq=False)
    verify_key: VerifyKey = attrs.field(init=False, eq=False)
    _secret: bytes = attrs.field(init=False, eq=False)

    def __attrs_post_init__(self) -> None:
        public, secret = crypto_sign_seed_keypair(self.seed)
        key_id = KeyId(f"{ALGORITHM}:{self.version}")
        object.__setattr__(self, "key_id", key_id)
        object.__setattr__(self, "verify_key", VerifyKey(key_id, public))
        object.__setattr__(self, "_secret", secret)

    def sign(self, message: bytes) -> bytes:
        """The 64 bytes of signature over the message."""
        return crypto_sign(message, self._secret)[:crypto_sign_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id!r})"


def parse_signing_keys(text: str) -> list[SigningKey]:
    """The keys in a key file, one on each line, the one to sign with first. Empty lines and # comments are
    skipped.

    Raises: KeyFileError. The text never holds key material.
    """
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    keys = [_parse_key_line(number, line) for number, line in numbered if line and not line.startswith("#")]
    if not keys:
        raise KeyFileError("the file holds no key")
    return keys


def _parse_key_line(number: int, line: str) -> SigningKey:
    words = line.split()
    if len(words) != 3 or words[0] != ALGORITHM:
        raise KeyFileError(f"line {number}: expected `{ALGORITHM} <version> <base64 seed>`")
    if not _KEY_VERSION.fullmatch(words[1]):
        raise KeyFileError(f"line {number}: the key version may only hold a-z, A-Z, 0-9 and _")
    try:
        seed = decode_base64(words[2])
    except ValueError:
        raise KeyFileError(f"line {number}: the seed is not base64") from None
    if len(seed) != crypto_sign_SEEDBYTES:
        raise KeyFileError(f"line {number}: the seed is {len(seed)} bytes, not {crypto_sign_SEEDBYTES}")
    return SigningKey(words[1], seed)


def format_signing_keys(keys: Iterable[SigningKey]) -> str:
    """The text of a key file, which parse_signing_keys reads back."""
    return "".join(f"{ALGORITHM} {key.version} {encode_base64(key.seed)}\n" for key in keys)


def is_supported_key_id(key_id: str) -> bool:
    """Whether the key id is of the one algorithm there is."""
    return key_id.startswith(f"{ALGORITHM}:")


def is_key_valid_for(version: RoomVersion, *, origin_server_ts_ms: int, valid_until_ts_ms: int, now_ms: int) -> bool:
    """Whether a key that its server calls valid until valid_until_ts_ms may have signed an event of that
    time.

    Always before room version 5, which did not look at it.

    Spec: rooms/v5#signing-key-validity-period
    """
    if not version.enforce_key_validity:
        return True
    return origin_server_ts_ms <= min(valid_until_ts_ms, now_ms + MAX_KEY_VALIDITY_AHEAD_MS)


# -- JSON objects --------------------------------------------------------------------------------------------


def sign_json(json: dict[str, Any], signer: str, key: SigningKey) -> dict[str, Any]:
    """The object with the signer's signature added; a new dict, the signatures that were there stay.

    Spec: appendices#signing-details
    """
    signature = encode_base64(key.sign(_json_signed_bytes(json)))
    signatures = json.get("signatures", {})
    return {
        **json,
        "signatures": {**signatures, signer: {**signatures.get(signer, {}), key.key_id: signature}},
    }


def verify_json(json: dict[str, Any], signer: str, key: VerifyKey) -> None:
    """Raises BadSignature unless the object bears the signer's signature with that key.

    Spec: appendices#checking-for-a-signature
    """
    verify_signature(json, signer, key, _json_signed_bytes(json))


def signature_key_ids(json: dict[str, Any], signer: str) -> list[KeyId]:
    """The ids of the keys the signer says to have signed with, of algorithms we know.

    Spec: appendices#checking-for-a-signature
    """
    signatures = json.get("signatures")
    by_key = signatures.get(signer) if isinstance(signatures, dict) else None
    if not isinstance(by_key, dict):
        return []
    return [KeyId(key_id) for key_id in by_key if is_supported_key_id(key_id)]


def _json_signed_bytes(json: dict[str, Any]) -> bytes:
    return canonical_json({key: value for key, value in json.items() if key not in ("signatures", "unsigned")})


def verify_signature(json: dict[str, Any], signer: str, key: VerifyKey, message: bytes) -> None:
    """Raises BadSignature unless the object bears the signer's signature of the message, its signed bytes, with that key."""
    try:
        signature = decode_base64(json["signatures"][signer][key.key_id])
    except (KeyError, TypeError):
        raise BadSignature(f"No signature by {signer} with key {key.key_id}") from None
    except (ValueError, AttributeError):
        raise BadSignature(f"The signature by {signer} with key {key.key_id} is not base64") from None
    if not key.is_signature(message, signature):
        raise BadSignature(f"Wrong signature by {signer} with key {key.key_id}")


# -- events --------------------------------------------------------------------------------------------------


def verify_event_signature(json: dict[str, Any], version: RoomVersion, server: str, key: VerifyKey) -> None:
    """Raises BadSignature unless the server signed the event with that key (receipt check 2).

    Spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    verify_signature(json, server, key, signed_bytes(json, version))


def sign_event(json: dict[str, Any], version: RoomVersion, server: ServerName, key: SigningKey) -> dict[str, Any]:
    """The event with our signature added to those it bears (invites, restricted joins); a new dict.

    The event's own server hashes and signs with build_pdu.

    Spec: server-server-api#signing-events
    """
    signature = encode_base64(key.sign(signed_bytes(json, version)))
    signatures = json.get("signatures", {})
    return {
        **json,
        "signatures": {**signatures, server: {**signatures.get(server, {}), key.key_id: signature}},
    }


def required_signers(json: dict[str, Any], version: RoomVersion) -> set[ServerName]:
    """The servers whose signature a well-formed event must bear to be accepted.

    Spec: server-server-api#validating-hashes-and-signatures-on-received-events
    """
    signers = set() if _is_third_party_invite(json) else {domain_of(json["sender"])}
    if version.event_id_on_wire:
        signers.add(domain_of(json["event_id"]))
    authorising_user = _authorising_user(json) if version.restricted_join else None
    if authorising_user is not None:
        signers.add(domain_of(authorising_user))
    return signers


def _is_third_party_invite(json: dict[str, Any]) -> bool:
    content = json["content"]
    return (
        json["type"] == "m.room.member"
        and content.get("membership") == "invite"
        and isinstance(content.get("third_party_invite"), dict)
        and "signed" in content["third_party_invite"]
    )


def _authorising_user(json: dict[str, Any]) -> str | None:
    """The user on whose server's word a restricted join rests.

    SPEC(rooms/v8 names any membership): only of joins. Clients copy the key into their leave events, which no
    other server demands a signature for; being stricter than all would split rooms.
    """
    content = json["content"]
    if json["type"] != "m.room.member" or content.get("membership") != "join":
        return None
    user = content.get("join_authorised_via_users_server")
    return user if isinstance(user, str) else None
