"""Cross-signing keys, and the signatures with which users vouch for keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import orjson
from attrs import asdict, frozen
from sqlalchemy import Connection, bindparam, delete, select

from homeserver.matrix.ids import UserId
from homeserver.store.events import chunked
from homeserver.store.tables.e2ee import cross_signing_keys, key_signatures
from homeserver.store.upsert import upsert

MASTER = "master"
SELF_SIGNING = "self_signing"
USER_SIGNING = "user_signing"


@frozen
class KeySignature:
    """`signer_user_id` signed the key of `user_id` that `target` (a device id or a public key) names."""

    user_id: UserId
    target: str
    signer_user_id: UserId
    signer_key_id: str
    signature: str


_OF_USERS = select(cross_signing_keys.c.user_id, cross_signing_keys.c.usage, cross_signing_keys.c.json).where(
    cross_signing_keys.c.user_id.in_(bindparam("users", expanding=True))
)
_SIGNATURES = select(
    key_signatures.c.user_id,
    key_signatures.c.target,
    key_signatures.c.signer_user_id,
    key_signatures.c.signer_key_id,
    key_signatures.c.signature,
)
_BY_THEMSELVES = _SIGNATURES.where(
    key_signatures.c.user_id.in_(bindparam("users", expanding=True)),
    key_signatures.c.signer_user_id == key_signatures.c.user_id,
)
_BY_SIGNER = _SIGNATURES.where(
    key_signatures.c.signer_user_id == bindparam("signer"), key_signatures.c.user_id != bindparam("signer")
)
_UPSERT_KEY = upsert(cross_signing_keys)
_UPSERT_SIGNATURE = upsert(key_signatures)


def load_cross_signing_keys(conn: Connection, user_ids: Collection[UserId]) -> dict[UserId, dict[str, bytes]]:
    """User -> usage -> key object as JSON."""
    found: dict[UserId, dict[str, bytes]] = {}
    for chunk in chunked(user_ids):
        for user_id, usage, json in conn.execute(_OF_USERS, {"users": list(chunk)}):
            found.setdefault(user_id, {})[usage] = json
    return found


def is_cross_signing_key(conn: Connection, user_id: UserId, name: str) -> bool:
    """One of the user's keys is called so."""
    keys = load_cross_signing_keys(conn, [user_id]).get(user_id, {})
    return any(name in orjson.loads(json)["keys"].values() for json in keys.values())


def save_cross_signing_key(conn: Connection, user_id: str, usage: str, json: bytes) -> None:
    conn.execute(_UPSERT_KEY, {"user_id": user_id, "usage": usage, "json": json})


def delete_cross_signing_keys(conn: Connection, user_id: str) -> None:
    """The user's keys, and what they and others signed of them."""
    conn.execute(delete(cross_signing_keys).where(cross_signing_keys.c.user_id == user_id))
    conn.execute(delete(key_signatures).where(key_signatures.c.user_id == user_id))


def load_own_signatures(conn: Connection, user_ids: Collection[UserId]) -> list[KeySignature]:
    """What the users signed of their own keys: for everybody to see.

    Spec: client-server-api#key-and-signature-security
    """
    return [
        KeySignature(*row)
        for chunk in chunked(user_ids)
        for row in conn.execute(_BY_THEMSELVES, {"users": list(chunk)})
    ]


def load_signatures_by(conn: Connection, signer: UserId) -> list[KeySignature]:
    """What somebody signed of others' keys: for the signer alone to see."""
    return [KeySignature(*row) for row in conn.execute(_BY_SIGNER, {"signer": signer})]


def save_signatures(conn: Connection, signatures: Sequence[KeySignature], position: int) -> None:
    if signatures:
        conn.execute(_UPSERT_SIGNATURE, [{**asdict(signature), "position": position} for signature in signatures])


def load_signed_users(conn: Connection, signer: str, after: int, upto: int) -> set[UserId]:
    """Whose keys the signer signed at positions in (after, upto]."""
    k = key_signatures.c
    return set(
        conn.scalars(
            select(k.user_id).where(k.signer_user_id == signer, k.position > after, k.position <= upto).distinct()
        )
    )


def delete_signatures(conn: Connection, user_id: str, targets: Collection[str]) -> None:
    """Forget what was signed of keys that are gone or replaced."""
    conn.execute(
        delete(key_signatures).where(key_signatures.c.user_id == user_id, key_signatures.c.target.in_(targets))
    )
