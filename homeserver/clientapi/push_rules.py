"""Push rules, to read. (Changing them is not here yet: everybody has the predefined ones.)

Spec: client-server-api#push-rules-api
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.accounts.requester import Requester
from homeserver.matrix.push_rules import parse_kind
from homeserver.push.rules import PushRules
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint

TAG = "Push notifications"
RULE_PATH = "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}"


class RulePath(msgspec.Struct):
    kind: str
    rule_id: str


class PushRuleEndpoints:
    def __init__(self, rules: PushRules) -> None:
        self._rules = rules

    @endpoint(
        "GET",
        "/_matrix/client/v3/pushrules/",
        auth=Auth.USER,
        tag=TAG,
        aliases=("/_matrix/client/v3/pushrules",),
        spec="client-server-api#get_matrixclientv3pushrules",
    )
    async def get_rules(self, requester: Requester) -> JsonObject:
        return self._rules.get_set(requester.user_id).to_json(requester.user_id)

    @endpoint(
        "GET",
        "/_matrix/client/v3/pushrules/global/",
        auth=Auth.USER,
        tag=TAG,
        aliases=("/_matrix/client/v3/pushrules/global",),
        spec="client-server-api#get_matrixclientv3pushrulesglobal",
    )
    async def get_global_rules(self, requester: Requester) -> JsonObject:
        rules: JsonObject = self._rules.get_set(requester.user_id).to_json(requester.user_id)["global"]
        return rules

    @endpoint(
        "GET", RULE_PATH, auth=Auth.USER, tag=TAG, spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleid"
    )
    async def get_rule(self, requester: Requester, path: RulePath) -> JsonObject:
        return self._rule(requester, path)

    @endpoint(
        "GET",
        RULE_PATH + "/enabled",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidenabled",
    )
    async def get_enabled(self, requester: Requester, path: RulePath) -> JsonObject:
        return {"enabled": self._rule(requester, path)["enabled"]}

    @endpoint(
        "GET",
        RULE_PATH + "/actions",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidactions",
    )
    async def get_actions(self, requester: Requester, path: RulePath) -> JsonObject:
        return {"actions": self._rule(requester, path)["actions"]}

    def _rule(self, requester: Requester, path: RulePath) -> dict[str, Any]:
        """Raises: InvalidParam, NotFound."""
        kind = parse_kind(path.kind)
        return self._rules.get_set(requester.user_id).rule(kind, path.rule_id).to_json(kind, requester.user_id)
