"""The push rules of a user, as clients read them from m.push_rules.

Spec: client-server-api#push-rules-events
"""

from __future__ import annotations

import orjson

from homeserver.matrix.ids import UserId
from homeserver.matrix.push_rules import DEFAULT_RULE_SET


class PushRules:
    """Every user has the predefined rules; there is no way to change them yet."""

    async def load_content(self, user_id: UserId) -> bytes:
        """The content of m.push_rules, as JSON."""
        return orjson.dumps({"global": DEFAULT_RULE_SET.to_json(user_id)["global"]})
