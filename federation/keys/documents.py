"""Key documents: what servers publish at /_matrix/key/v2/server.

Spec: server-server-api#publishing-keys
"""

from __future__ import annotations

from typing import Any, Final

from attrs import frozen

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import BadSignature, MatrixError
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import (
    MAX_KEY_VALIDITY_AHEAD_MS,
    KeyId,
    VerifyKey,
    is_supported_key_id,
    signature_key_ids,
    verify_json,
)
from homeserver.store.server_keys import KeyDocumentRow, ServerKeyRow

MAX_DOCUMENT_BYTES: Final = 64 * 1024
MAX_KEYS: Final = 100
MAX_TS_MS: Final = 2**53 - 1
MAX_KEY_ID_LENGTH: Final = 255


class BadKeyDocument(MatrixError):
    """A key document that is not to be believed; the text says why."""

    status = 502


@frozen
class KeyDocument:
    """A document whose own signature was checked.

    `valid_until_ts_ms` is never further ahead than the 7 days which the specification allows, counted from the fetch.
    """

    server: ServerName
    keys: tuple[ServerKeyRow, ...]
    valid_until_ts_ms: int
    json: dict[str, Any]

    def to_row(self, now_ms: int) -> KeyDocumentRow:
        return KeyDocumentRow(self.server, canonical_json(self.json), self.valid_until_ts_ms, now_ms)


def parse_key_document(json: Any, server: ServerName, now_ms: int) -> KeyDocument:
    """The document of that server. Raises: BadKeyDocument."""
    if not isinstance(json, dict):
        raise BadKeyDocument("The key document is not an object")
    if json.get("server_name") != server:
        raise BadKeyDocument(f"The key document is not of {server}")
    valid_until_ts_ms = min(_timestamp(json, "valid_until_ts"), now_ms + MAX_KEY_VALIDITY_AHEAD_MS)
    current = _current_keys(json)
    _check_signed(json, server, current)
    rows = {key.key_id: ServerKeyRow(server, key.key_id, key.public_key, valid_until_ts_ms, False) for key in current}
    for key, expired_ts_ms in _old_keys(json):
        rows.setdefault(key.key_id, ServerKeyRow(server, key.key_id, key.public_key, expired_ts_ms, True))
    return KeyDocument(server, tuple(rows.values()), valid_until_ts_ms, json)


def _check_signed(json: dict[str, Any], server: ServerName, keys: list[VerifyKey]) -> None:
    """By one of its keys at least, and by none wrongly."""
    signed_with = set(signature_key_ids(json, server))
    signing = [key for key in keys if key.key_id in signed_with]
    if not signing:
        raise BadKeyDocument("The key document is not signed with a key that it lists")
    try:
        for key in signing:
            verify_json(json, server, key)
    except BadSignature as error:
        raise BadKeyDocument(f"The key document: {error.error}") from None
    except MatrixError:
        raise BadKeyDocument("The key document can't be encoded as canonical JSON") from None


def _current_keys(json: dict[str, Any]) -> list[VerifyKey]:
    keys = [_parse_key(key_id, about) for key_id, about in _keys_in(json, "verify_keys")]
    if not keys:
        raise BadKeyDocument("The key document lists no key of an algorithm known here")
    return keys


def _old_keys(json: dict[str, Any]) -> list[tuple[VerifyKey, int]]:
    return [
        (_parse_key(key_id, about), _timestamp(about, "expired_ts"))
        for key_id, about in _keys_in(json, "old_verify_keys")
    ]


def _keys_in(json: dict[str, Any], field: str) -> list[tuple[str, dict[str, Any]]]:
    """Those of algorithms that are known; the others are for servers that know them."""
    keys = json.get(field, {})
    if not isinstance(keys, dict) or len(keys) > MAX_KEYS:
        raise BadKeyDocument(f"The key document's {field} is not an object of at most {MAX_KEYS} keys")
    for key_id, about in keys.items():
        if not isinstance(about, dict) or len(key_id) > MAX_KEY_ID_LENGTH or "\0" in key_id:
            raise BadKeyDocument(f"The key document's {field} holds something that is not a key")
    return [(key_id, about) for key_id, about in keys.items() if is_supported_key_id(key_id)]


def _parse_key(key_id: str, about: dict[str, Any]) -> VerifyKey:
    try:
        return VerifyKey.from_base64(key_id, about["key"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise BadKeyDocument(f"The key document's {KeyId(key_id)} is not an ed25519 key") from None


def _timestamp(json: dict[str, Any], field: str) -> int:
    value = json.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_TS_MS:
        raise BadKeyDocument(f"The key document's {field} is not a time")
    return value
