"""The push rules of users, and their changes; `kinds` are those that there are here.

Log rows made here: "push_rules" {} keyed by user.

Spec: client-server-api#push-rules
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import orjson
from attrs import define, field
from sqlalchemy import Connection

from homeserver.accounts.folded_cache import FoldedCache
from homeserver.matrix.canonical import encode_json
from homeserver.matrix.errors import TooLarge
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.push_rule_changes import copy_room_rules
from homeserver.matrix.push_rules import DEFAULT_RULE_SET, USUAL_KINDS, Kind, RuleSet
from homeserver.runtime.db import Database
from homeserver.store.log import LogRow
from homeserver.store.log_writer import LogItem, LogWriter
from homeserver.store.push_rules import load_rule_sets, save_rule_set

KIND = "push_rules"
MAX_CACHED = 20_000
MAX_CONTENTS = 1_000  # of some 4 KiB each
MAX_STORED_BYTES = 128 * 1024

Change = Callable[[RuleSet], RuleSet]


@define(eq=False)
class PushRules:
    """Follows the log."""

    database: Database
    log_writer: LogWriter
    kinds: Collection[Kind] = USUAL_KINDS
    _cache: FoldedCache[UserId, RuleSet] = field(factory=lambda: FoldedCache(MAX_CACHED), init=False)
    # Each with the rules that it was made of.
    _contents: OrderedDict[UserId, tuple[RuleSet, bytes]] = field(factory=OrderedDict, init=False)

    async def load(self, user_id: UserId) -> RuleSet:
        known = self._cache.get(user_id)
        if known is not None:
            return known
        version = self._cache.version
        found = await self.database.read(load_rule_sets, [user_id])
        rules = found.get(user_id, DEFAULT_RULE_SET)
        self._cache.put(user_id, rules, version)
        return rules

    async def load_content(self, user_id: UserId, /) -> bytes:
        """The content of m.push_rules, as JSON."""
        return self._content(user_id, await self.load(user_id))

    def get_content(self, user_id: UserId, /) -> bytes | None:
        """As load_content, if memory has the rules."""
        rules = self._cache.get(user_id)
        return None if rules is None else self._content(user_id, rules)

    def _content(self, user_id: UserId, rules: RuleSet) -> bytes:
        known = self._contents.get(user_id)
        if known is not None and known[0] is rules:
            return known[1]
        content = orjson.dumps({"global": rules.to_json(user_id, self.kinds)["global"]})
        self._contents[user_id] = rules, content
        if len(self._contents) > MAX_CONTENTS:
            self._contents.popitem(last=False)
        return content

    async def change(self, user_id: UserId, change: Change) -> None:
        """Put what `change` makes of the user's rules in their place.

        It is called on what memory has, which finds most errors, and then within the transaction: no change is lost.
        Raises: what `change` raises; TooLarge.
        """
        _encode(change(await self.load(user_id)))

        def save(conn: Connection, _position: int) -> None:
            rules = load_rule_sets(conn, [user_id]).get(user_id, DEFAULT_RULE_SET)
            save_rule_set(conn, user_id, _encode(change(rules)))

        await self.log_writer.submit(LogItem(KIND, user_id, {}, save))

    async def copy_room_rules(self, user_id: UserId, old_room: RoomId, new_room: RoomId) -> None:
        """What the user has set for a room holds for the one that replaces it.

        Spec: client-server-api#server-behaviour-16
        """
        known = await self.load(user_id)
        if copy_room_rules(known, old_room, new_room) is not known:
            await self.change(user_id, lambda rules: copy_room_rules(rules, old_room, new_room))

    def on_rows(self, rows: Sequence[LogRow]) -> None:
        for row in rows:
            if row.kind == KIND:
                self._cache.drop(UserId(row.key))


def _encode(rules: RuleSet) -> bytes:
    encoded = encode_json(rules.to_stored())
    if len(encoded) > MAX_STORED_BYTES:
        raise TooLarge(f"The push rules take {len(encoded)} bytes, of at most {MAX_STORED_BYTES}")
    return encoded
