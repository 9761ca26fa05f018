"""The bodies of key uploads, read and checked.

Spec: client-server-api#post_matrixclientv3keysupload
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec
from attrs import frozen

from homeserver.e2ee.limits import (
    MAX_DEVICE_KEYS_BYTES,
    MAX_KEY_BYTES,
    MAX_KEYS_PER_UPLOAD,
    MAX_NAME_BYTES,
    check_count,
    check_object,
    check_size,
    check_string,
    encode_bounded,
)
from homeserver.e2ee.signatures import check_signatures
from homeserver.matrix.canonical import decode_json, encode_json
from homeserver.matrix.errors import BadJson, InvalidParam
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.store.device_keys import Keys

SIGNED_ALGORITHM = "signed_curve25519"
_MSC2732 = "org.matrix.msc2732.fallback_keys"


@frozen
class KeyUpload:
    """What a request brings. device_keys: as JSON, without unsigned; None where it brings none."""

    device_keys: bytes | None
    one_time_keys: Keys
    fallback_keys: Keys

    @property
    def has_keys(self) -> bool:
        return bool(self.one_time_keys or self.fallback_keys)

    def signed(self) -> list[tuple[str, bytes]]:
        """What the device has to sign: the field, and its value as JSON."""
        device_keys = [("device_keys", self.device_keys)] if self.device_keys is not None else []
        return device_keys + [
            (f"{field}.{SIGNED_ALGORITHM}:{key_id}", json)
            for field, keys in (("one_time_keys", self.one_time_keys), ("fallback_keys", self.fallback_keys))
            for key_id, json in keys.get(SIGNED_ALGORITHM, {}).items()
        ]


def read_upload(user_id: UserId, device_id: DeviceId, content: bytes) -> KeyUpload:
    """Raises: NotJson, BadJson, InvalidParam, TooLarge."""
    usual = _read_usual(content)
    if usual is not None:
        return _make_upload(user_id, device_id, *usual)
    body = decode_json(content)
    if not isinstance(body, dict):
        raise BadJson("The body must be a JSON object")
    return parse_upload(user_id, device_id, body)


def parse_upload(user_id: UserId, device_id: DeviceId, body: Mapping[str, Any]) -> KeyUpload:
    """Raises: InvalidParam, TooLarge."""
    return _make_upload(user_id, device_id, body, _parse_keys(body.get("one_time_keys"), "one_time_keys"))


def _make_upload(user_id: UserId, device_id: DeviceId, body: Mapping[str, Any], one_time_keys: Keys) -> KeyUpload:
    device_keys = body.get("device_keys")
    fallback = body.get("fallback_keys")
    if fallback is None:
        fallback = body.get(_MSC2732)
    fallback_keys = _parse_keys(fallback, "fallback_keys")
    if any(len(of_it) > 1 for of_it in fallback_keys.values()):
        raise InvalidParam("fallback_keys", "at most one for each algorithm")
    parsed = parse_device_keys(user_id, device_id, device_keys) if device_keys is not None else None
    return KeyUpload(parsed, one_time_keys, fallback_keys)


def parse_device_keys(user_id: UserId, device_id: DeviceId, value: object) -> bytes:
    """Identity keys as JSON, without unsigned.

    Raises: InvalidParam when they aren't that device's; TooLarge.

    Spec: client-server-api#device-keys
    """
    field = "device_keys"
    keys = check_object(value, field)
    if keys.get("user_id") != user_id:
        raise InvalidParam(f"{field}.user_id", f"must be {user_id}, whose token this is")
    if keys.get("device_id") != device_id:
        raise InvalidParam(f"{field}.device_id", f"must be {device_id}, whose token this is")
    algorithms = keys.get("algorithms")
    if not isinstance(algorithms, list) or not all(isinstance(name, str) for name in algorithms):
        raise InvalidParam(f"{field}.algorithms", "must be a list of strings")
    for name, key in check_object(keys.get("keys"), f"{field}.keys").items():
        check_string(key, f"{field}.keys.{name}", MAX_KEY_BYTES)
    check_signatures(keys.get("signatures"), field)
    own = {name: part for name, part in keys.items() if name != "unsigned"}
    return encode_bounded(own, field, MAX_DEVICE_KEYS_BYTES)


# -- one-time and fallback keys --------------------------------------------------------------------------------


def _parse_keys(value: object, field: str) -> Keys:
    if value is None:
        return {}
    keys = check_object(value, field)
    check_count(len(keys), field, MAX_KEYS_PER_UPLOAD)
    encoded = {check_string(name, field): _encode_key(key, f"{field}.{name}") for name, key in keys.items()}
    return _by_algorithm(encoded.items(), field)


def _by_algorithm(keys: Iterable[tuple[str, bytes]], field: str) -> Keys:
    """Raises: InvalidParam."""
    found: dict[str, dict[str, bytes]] = {}
    for name, json in keys:
        algorithm, _, key_id = name.partition(":")
        if not (algorithm and key_id):
            raise InvalidParam(field, 'names must be "<algorithm>:<key id>"')
        if algorithm in found:
            found[algorithm][key_id] = json
        else:
            found[algorithm] = {key_id: json}
    return found


def _encode_key(key: object, where: str) -> bytes:
    """Raises: InvalidParam, TooLarge."""
    if isinstance(key, dict):
        check_string(key.get("key"), f"{where}.key", MAX_KEY_BYTES)
        if "signatures" in key:
            check_signatures(key["signatures"], where)
    elif not isinstance(key, str):
        raise InvalidParam(where, "must be a string or an object")
    json = encode_json(key)
    check_size(json, where, MAX_KEY_BYTES)
    return json


# -- the usual body --------------------------------------------------------------------------------------------


class _SignedKey(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    key: str
    signatures: dict[str, dict[str, str]]


class _UsualBody(msgspec.Struct, forbid_unknown_fields=True, rename={"msc2732": _MSC2732}):
    one_time_keys: dict[str, _SignedKey] = {}
    device_keys: msgspec.Raw = msgspec.Raw()
    fallback_keys: msgspec.Raw = msgspec.Raw()
    msc2732: msgspec.Raw = msgspec.Raw()


_USUAL = msgspec.json.Decoder(_UsualBody)
_encode_lines = msgspec.json.Encoder().encode_lines


def _read_usual(content: bytes) -> tuple[dict[str, Any], Keys] | None:
    """The body without its one-time keys, and these; None where it has to be looked at part by part.

    PERF(a quarter of the CPU of an upload of fifty keys): what has this shape, is short and is without NUL needs no other
    check.
    """
    try:
        usual = _USUAL.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    names = usual.one_time_keys
    lines = _encode_lines([*names.values()])
    encoded = lines.split(b"\n")
    del encoded[-1]  # behind the last line
    if len(names) > MAX_KEYS_PER_UPLOAD or not _are_plain(names, encoded, lines):
        return None
    keys = _by_algorithm(zip(names, encoded, strict=True), "one_time_keys")
    others = {"device_keys": usual.device_keys, "fallback_keys": usual.fallback_keys, _MSC2732: usual.msc2732}
    return {name: decode_json(bytes(json)) for name, json in others.items() if json}, keys


def _are_plain(names: Collection[str], encoded: Collection[bytes], lines: bytes) -> bool:
    is_short = (
        max(map(len, names), default=0) * 4 <= MAX_NAME_BYTES and max(map(len, encoded), default=0) <= MAX_KEY_BYTES
    )
    return is_short and "\0" not in "".join(names) and b"\\" not in lines  # as NUL would be written
