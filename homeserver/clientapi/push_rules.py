"""Push rules.

Spec: client-server-api#push-rules-api
"""

from __future__ import annotations

from typing import Any

import msgspec

from homeserver.accounts.limits import check_text
from homeserver.accounts.requester import Requester
from homeserver.matrix.errors import NotFound
from homeserver.matrix.push_rule_changes import delete_rule, put_rule, set_actions, set_enabled
from homeserver.matrix.push_rules import Kind, parse_kind
from homeserver.push.rules import PushRules
from homeserver.runtime.http.endpoint import Auth, JsonObject, JsonValue, endpoint

TAG = "Push notifications"
MAX_RULE_ID_BYTES = 255
RULE_PATH = "/_matrix/client/v3/pushrules/global/{kind}/{rule_id}"


class RulePath(msgspec.Struct):
    kind: str
    rule_id: str


class PlaceQuery(msgspec.Struct):
    before: str | None = None
    after: str | None = None


class EnabledBody(msgspec.Struct):
    enabled: bool


class ActionsBody(msgspec.Struct):
    actions: JsonValue


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
        return (await self._rules.load(requester.user_id)).to_json(requester.user_id, self._rules.kinds)

    @endpoint(
        "GET",
        "/_matrix/client/v3/pushrules/global/",
        auth=Auth.USER,
        tag=TAG,
        aliases=("/_matrix/client/v3/pushrules/global",),
        spec="client-server-api#get_matrixclientv3pushrulesglobal",
    )
    async def get_global_rules(self, requester: Requester) -> JsonObject:
        rules: JsonObject = (await self.get_rules(requester))["global"]
        return rules

    @endpoint(
        "GET", RULE_PATH, auth=Auth.USER, tag=TAG, spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleid"
    )
    async def get_rule(self, requester: Requester, path: RulePath) -> JsonObject:
        return await self._rule(requester, path)

    @endpoint(
        "GET",
        RULE_PATH + "/enabled",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidenabled",
    )
    async def get_enabled(self, requester: Requester, path: RulePath) -> JsonObject:
        return {"enabled": (await self._rule(requester, path))["enabled"]}

    @endpoint(
        "GET",
        RULE_PATH + "/actions",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#get_matrixclientv3pushrulesglobalkindruleidactions",
    )
    async def get_actions(self, requester: Requester, path: RulePath) -> JsonObject:
        return {"actions": (await self._rule(requester, path))["actions"]}

    @endpoint(
        "PUT",
        RULE_PATH,
        auth=Auth.USER,
        limit="other",
        tag=TAG,
        spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleid",
    )
    async def put_rule(self, requester: Requester, path: RulePath, query: PlaceQuery, body: JsonObject) -> JsonObject:
        kind = parse_kind(path.kind)
        check_text("ruleId", path.rule_id, MAX_RULE_ID_BYTES)
        await self._rules.change(
            requester.user_id,
            lambda rules: put_rule(rules, kind, path.rule_id, body, before=query.before, after=query.after),
        )
        return {}

    @endpoint(
        "DELETE",
        RULE_PATH,
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#delete_matrixclientv3pushrulesglobalkindruleid",
    )
    async def delete_rule(self, requester: Requester, path: RulePath) -> JsonObject:
        kind = self._kind(path)
        await self._rules.change(requester.user_id, lambda rules: delete_rule(rules, kind, path.rule_id))
        return {}

    @endpoint(
        "PUT",
        RULE_PATH + "/enabled",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleidenabled",
    )
    async def put_enabled(self, requester: Requester, path: RulePath, body: EnabledBody) -> JsonObject:
        kind = self._kind(path)
        await self._rules.change(requester.user_id, lambda rules: set_enabled(rules, kind, path.rule_id, body.enabled))
        return {}

    @endpoint(
        "PUT",
        RULE_PATH + "/actions",
        auth=Auth.USER,
        tag=TAG,
        spec="client-server-api#put_matrixclientv3pushrulesglobalkindruleidactions",
    )
    async def put_actions(self, requester: Requester, path: RulePath, body: ActionsBody) -> JsonObject:
        kind = self._kind(path)
        await self._rules.change(requester.user_id, lambda rules: set_actions(rules, kind, path.rule_id, body.actions))
        return {}

    async def _rule(self, requester: Requester, path: RulePath) -> dict[str, Any]:
        """Raises: InvalidParam, NotFound."""
        kind = self._kind(path)
        return (await self._rules.load(requester.user_id)).rule(kind, path.rule_id).to_json(kind, requester.user_id)

    def _kind(self, path: RulePath) -> Kind:
        """Raises: InvalidParam; NotFound for a kind that has no rules here."""
        kind = parse_kind(path.kind)
        if kind not in self._rules.kinds:
            raise NotFound("The push rule was not found.")
        return kind
