"""The push rules of a user.

Spec: client-server-api#push-rules
"""

from __future__ import annotations

import orjson

from homeserver.matrix.ids import UserId
from homeserver.matrix.push_rules import DEFAULT_RULE_SET, RuleSet


class PushRules:
    """Every user has the predefined rules; there is no way to change them yet."""

    def get_set(self, _user_id: UserId) -> RuleSet:
        return DEFAULT_RULE_SET

    async def load_content(self, user_id: UserId) -> bytes:
        """The content of m.push_rules, as JSON."""
        return orjson.dumps({"global": self.get_set(user_id).to_json(user_id)["global"]})
