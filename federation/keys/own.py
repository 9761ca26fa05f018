"""Our own keys as others see them.

The first key of the signing key file signs. Every other key in the file was in use before: at the first start of the server
that finds it there it is written down as old, with that time as the end of its use. So nothing that was signed until the server
stopped is called in question, and the private half of an old key may be deleted afterwards. Commands that run beside a
server must not do this: it may be signing with that key still.

Spec: server-server-api#publishing-keys
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import define, field

from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import KeyId, SigningKey, VerifyKey, sign_json
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store.server_keys import OwnOldKeyRow, load_own_old_keys, save_own_old_keys

# How long others may go without asking anew. After a rotation they learn of the new key when it first signs something.
VALIDITY_MS: Final = 24 * 3600 * 1000


@define(eq=False)
class OwnKeys:
    server_name: ServerName
    signing_key: SigningKey
    database: Database
    clock: Clock
    _old: dict[KeyId, OwnOldKeyRow] = field(init=False, factory=dict)

    async def start(self) -> None:
        """Read which keys are old."""
        rows = await self.database.read(load_own_old_keys)
        self._old = {KeyId(row.key_id): row for row in rows if row.key_id != self.signing_key.key_id}

    async def retire(self, keys_in_file: Sequence[SigningKey]) -> None:
        """Write down which keys are old by now: from now on nobody signs with them."""
        now_ms = self.clock.time_ms()
        current = self.signing_key.key_id
        old = [OwnOldKeyRow(key.key_id, key.verify_key.public_key, now_ms) for key in keys_in_file]
        await self.database.run(save_own_old_keys, [row for row in old if row.key_id != current], current)
        await self.start()

    def document(self) -> dict[str, Any]:
        """What is published, signed, valid from now. In canonical JSON's order, for those who verify without sorting."""
        document = {
            "old_verify_keys": {
                key_id: {"expired_ts": row.expired_ts_ms, "key": encode_base64(row.public_key)}
                for key_id, row in sorted(self._old.items())
            },
            "server_name": self.server_name,
            "valid_until_ts": self.clock.time_ms() + VALIDITY_MS,
            "verify_keys": {self.signing_key.key_id: {"key": self.signing_key.verify_key.to_base64()}},
        }
        return sign_json(document, self.server_name, self.signing_key)

    def get_verify_key(self, key_id: KeyId, valid_at_ms: int | None) -> VerifyKey | None:
        """A key of ours, for what we signed ourselves at that time."""
        if key_id == self.signing_key.key_id:
            return self.signing_key.verify_key
        row = self._old.get(key_id)
        if row is None or (valid_at_ms is not None and valid_at_ms > row.expired_ts_ms):
            return None
        return VerifyKey(key_id, row.public_key)
