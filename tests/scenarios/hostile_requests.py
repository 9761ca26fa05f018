"""Requests that are almost right, made from the server's own OpenAPI document.

A body follows its schema, so that it gets past the first checks; here and there a part of it is something else: of another
type, huge, empty, a NUL, a lone surrogate, missing. Bodies whose form the document leaves open have their shapes in SHAPES below,
as have the contents of events and account data that the server itself reads. IDs are those of earlier answers.
"""

from __future__ import annotations

import json
from random import Random
from typing import Any, Final
from urllib.parse import quote

from attrs import define, field

Json = Any

HOSTILE: Final[tuple[Json, ...]] = (
    None, True, False, 0, -1, 1, 2**31, 2**53 - 1, 2**53, 2**63, -(2**63) - 1, 2**64, 10**40, 1.5, -0.0, 1e300, "", " ",
    "\0", "a\0b",
    "\ud800", "\U0001f600", "x" * 300, "x" * 70_000, "@", "@a", "@a:b", "@:b", "!a:b", "!", "$a", "#a:b", "#:", ":", "/",
    "..", "%00",
    "1", "true", "*", "m.room.member", [], {}, [[]], [None], [1], [""], ["\0"], [{}], {"": ""}, {"\0": 1}, {"a": {"b": []}},
    {"\ud800": 1}, {"x" * 300: 1}, [0] * 1000, {str(number): number for number in range(300)},
)  # fmt: skip
WORDS: Final = ("a", "b", "hello", "m.room.message", "en", "test.example", "1", "0", "x.y.z")
STATE: Final = {
    "m.room.name": {"name": "text"},
    "m.room.topic": {"topic": "text", "m.topic": {"m.text": [{"body": "text", "mimetype": "text"}]}},
    "m.room.avatar": {"url": "text", "info": {"w": "int"}},
    "m.room.canonical_alias": {"alias": "alias", "alt_aliases": ["alias"]},
    "m.room.join_rules": {"join_rule": "join_rule", "allow": [{"type": "allow_type", "room_id": "room_id"}]},
    "m.room.guest_access": {"guest_access": "guest_access"},
    "m.room.history_visibility": {"history_visibility": "history_visibility"},
    "m.room.encryption": {"algorithm": "text", "rotation_period_ms": "int"},
    "m.room.power_levels": {
        "users": {"user_id": "level"}, "users_default": "level", "events": {"event_type": "level"}, "events_default": "level",
        "state_default": "level", "ban": "level", "kick": "level", "invite": "level", "redact": "level",
        "notifications": {"room": "level"},
    },
    "m.room.member": {
        "membership": "membership", "displayname": "text", "avatar_url": "text", "is_direct": "bool",
        "join_authorised_via_users_server": "user_id", "reason": "text",
        "third_party_invite": {"display_name": "text", "signed": {"mxid": "user_id", "token": "text",
        "signatures": {"a": {"b": "text"}}}},
    },
    "m.room.third_party_invite": {"display_name": "text", "key_validity_url": "text", "public_key": "text",
    "public_keys": [{"public_key": "text"}]},
    "m.room.server_acl": {"allow": ["text"], "deny": ["text"], "allow_ip_literals": "bool"},
    "m.room.tombstone": {"body": "text", "replacement_room": "room_id"},
    "m.room.pinned_events": {"pinned": ["event_id"]},
    "m.space.child": {"via": ["server"], "order": "text", "suggested": "bool"},
    "m.space.parent": {"via": ["server"], "canonical": "bool"},
    "m.room.create": {"room_version": "version", "type": "text", "predecessor": {"room_id": "room_id",
    "event_id": "event_id"}, "m.federate": "bool"},
    "org.matrix.msc3401.call.member": {"application": "text", "call_id": "text", "focus_active": {"type": "text"}},
}  # fmt: skip
MESSAGES: Final = {
    "m.room.message": {
        "msgtype": "text", "body": "text", "m.mentions": {"user_ids": ["user_id"], "room": "bool"},
        "m.relates_to": {"rel_type": "rel_type", "event_id": "event_id", "is_falling_back": "bool",
        "m.in_reply_to": {"event_id": "event_id"}},
        "m.new_content": {"body": "text", "msgtype": "text", "m.mentions": {"user_ids": ["user_id"]}},
    },
    "m.reaction": {"m.relates_to": {"rel_type": "rel_type", "event_id": "event_id", "key": "text"}},
    "m.room.redaction": {"redacts": "event_id", "reason": "text"},
    "m.room.encrypted": {"algorithm": "text", "ciphertext": "text", "session_id": "text",
    "m.relates_to": {"rel_type": "rel_type", "event_id": "event_id"}},
    "m.call.invite": {"call_id": "text", "lifetime": "int"},
}  # fmt: skip
_RULES: Final = {
    "override": [
        {"rule_id": "text", "enabled": "bool", "default": "bool", "actions": ["action"], "conditions": ["condition"]}
    ],
    "content": [{"rule_id": "text", "pattern": "text", "actions": ["action"]}],
}
ACCOUNT_DATA: Final = {
    "m.direct": {"user_id": ["room_id"]},
    "m.ignored_user_list": {"ignored_users": {"user_id": {}}},
    "m.push_rules": {"global": _RULES},
    "m.tag": {"tags": {"text": {"order": "ratio"}}},
    "m.fully_read": {"event_id": "event_id"},
    "m.marked_unread": {"unread": "bool"},
    "m.invite_permission_config": {"default_action": "text"},
    "org.matrix.msc4155.invite_permission_config": {
        "enabled": "bool",
        "allowed_users": ["user_id"],
        "ignored_users": ["user_id"],
        "blocked_users": ["text"],
        "allowed_servers": ["text"],
        "ignored_servers": ["text"],
        "blocked_servers": ["text"],
    },
    "m.secret_storage.default_key": {"key": "text"},
    "x.y": {"a": "text"},
}
_EVENT_FILTER: Final = {
    "limit": "int", "types": ["event_type"], "not_types": ["event_type"], "senders": ["user_id"], "not_senders": ["user_id"],
    "rooms": ["room_id"], "not_rooms": ["room_id"], "contains_url": "bool", "lazy_load_members": "bool",
    "include_redundant_members": "bool", "unread_thread_notifications": "bool", "related_by_rel_types": ["rel_type"],
    "related_by_senders": ["user_id"],
}  # fmt: skip
FILTER: Final = {
    "event_format": "event_format", "event_fields": ["text"], "presence": _EVENT_FILTER, "account_data": _EVENT_FILTER,
    "room": {
        "include_leave": "bool", "rooms": ["room_id"], "not_rooms": ["room_id"], "timeline": _EVENT_FILTER,
        "state": _EVENT_FILTER,
        "ephemeral": _EVENT_FILTER, "account_data": _EVENT_FILTER,
    },
}  # fmt: skip
_KEYS: Final = {
    "user_id": "user_id",
    "device_id": "device_id",
    "algorithms": ["text"],
    "keys": {"key_id": "text"},
    "signatures": {"user_id": {"key_id": "text"}},
}
_ROOM_LIST: Final = {
    "ranges": [["int"]], "timeline_limit": "int", "required_state": [["event_type"]], "sort": ["text"],
    "slow_get_all_rooms": "bool",
    "filters": {"is_dm": "bool", "is_encrypted": "bool", "is_invite": "bool", "room_types": ["text"],
    "not_room_types": ["text"], "tags": ["text"], "spaces": ["room_id"]},
}  # fmt: skip
_EXTENSION: Final = {"enabled": "bool", "lists": ["text"], "rooms": ["room_id"], "since": "since", "limit": "int"}
_SLIDING: Final = {
    "conn_id": "text", "txn_id": "text", "lists": {"all": _ROOM_LIST}, "room_subscriptions": {"room_id": _ROOM_LIST},
    "unsubscribe_rooms": ["room_id"],
    "extensions": dict.fromkeys(("to_device", "e2ee", "account_data", "receipts", "typing",
    "io.element.msc4308.thread_subscriptions"), _EXTENSION),
}  # fmt: skip
_SESSION: Final = {
    "first_message_index": "int",
    "forwarded_count": "int",
    "is_verified": "bool",
    "session_data": {"a": "text"},
}
_CROSS_KEY: Final = {
    "user_id": "user_id",
    "usage": ["usage"],
    "keys": {"key_id": "text"},
    "signatures": {"user_id": {"key_id": "text"}},
}
SHAPES: Final[dict[str, Json]] = {
    "/filter": FILTER,
    "/sync": _SLIDING,
    "/keys/upload": {
        "device_keys": _KEYS,
        "one_time_keys": {"key_id": {"key": "text", "signatures": {"user_id": {"key_id": "text"}}, "fallback": "bool"}},
        "fallback_keys": {"key_id": {"key": "text"}},
    },
    "/keys/device_signing/upload": {"master_key": _CROSS_KEY, "self_signing_key": _CROSS_KEY, "user_signing_key": _CROSS_KEY,
    "auth": {"type": "text", "session": "text"}},
    "/keys/signatures/upload": {"user_id": {"device_id": _KEYS}},
    "/room_keys/keys": {"rooms": {"room_id": {"sessions": {"text": _SESSION}}}},
    "/room_keys/keys/{room_id}": {"sessions": {"text": _SESSION}},
    "/room_keys/keys/{room_id}/{session_id}": _SESSION,
    "/pushrules/global/{kind}/{rule_id}": {"actions": ["action"], "conditions": ["condition"], "pattern": "text"},
    "/profile/{user_id}/{key_name}": {"displayname": "text", "avatar_url": "text", "m.tz": "text", "x": "text"},
    "/tags/{tag}": {"order": "ratio"},
    "/redact/{event_id}/{txn_id}": {"reason": "text", "with_rel_types": ["rel_type"]},
    "/openid/request_token": {},
}  # fmt: skip
# Objects within bodies, by their field's name: of one of these forms.
FREE: Final[dict[str, tuple[Json, ...]]] = {
    "power_level_content_override": (STATE["m.room.power_levels"],),
    "creation_content": (STATE["m.room.create"],),
    "auth": ({"type": "type", "session": "session", "identifier": {"type": "type", "user": "user_id"},
    "password": "password"},),
    "messages": ({"user_id": {"device_id": {"a": "text"}}},),
    "device_keys": (_KEYS, {"user_id": ["device_id"]}),
    "one_time_keys": ({"user_id": {"device_id": "key_algorithm"}}, {"key_id": {"key": "text"}}),
    "fallback_keys": ({"key_id": {"key": "text", "fallback": "bool"}},),
    "auth_data": ({"public_key": "text", "signatures": {"user_id": {"key_id": "text"}}},),
    "device_data": ({"algorithm": "text"},),
}  # fmt: skip
_CHOICES: Final[dict[str, tuple[Json, ...]]] = {
    "join_rule": ("public", "invite", "knock", "restricted", "knock_restricted", "private"),
    "allow_type": ("m.room_membership",),
    "guest_access": ("can_join", "forbidden"),
    "history_visibility": ("world_readable", "shared", "invited", "joined"),
    "membership": ("join", "leave", "invite", "ban", "knock"),
    "level": (0, 50, 100, -1, 2**53 - 1, "50", " 7 "),
    "rel_type": ("m.thread", "m.replace", "m.annotation", "m.reference"),
    "event_format": ("client", "federation"),
    "action": ("notify", "dont_notify", "coalesce", {"set_tweak": "sound", "value": "default"}, {"set_tweak": "highlight"}),
    "condition": (
        {"kind": "event_match", "key": "content.body", "pattern": "he*o?"},
        {"kind": "event_match", "key": "room_id", "pattern": "[a-"},
        {"kind": "room_member_count", "is": ">=2"},
        {"kind": "room_member_count", "is": "99999999999999999999999"},
        {"kind": "contains_display_name"},
        {"kind": "sender_notification_permission", "key": "room"},
        {"kind": "event_property_is", "key": "content.a\\.b", "value": 1},
        {"kind": "event_property_contains", "key": "content.m\\.mentions.user_ids", "value": "@a:b"},
        {"kind": "no.such"},
    ),
    "kind": ("override", "underride", "content", "room", "sender", "postcontent"),
    "key_algorithm": ("signed_curve25519",),
    "usage": ("master", "self_signing", "user_signing"),
    "key_id": ("ed25519:AAAA", "curve25519:AAAA", "signed_curve25519:AAAA", "ed25519:", "x"),
    "version": ("1", "2", "5", "6", "10", "11", "12", "99"),
    "new_version": ("1", "6", "10", "11", "12"),
    "room_version": ("1", "2", "3", "5", "6", "7", "8", "9", "10", "11", "12"),
    "receipt_type": ("m.read", "m.read.private", "m.fully_read"),
    "type": ("m.login.password", "m.login.token", "m.login.dummy", "m.id.user", "m.room.name"),
    "data_type": tuple(ACCOUNT_DATA),
    "key_name": ("displayname", "avatar_url", "m.tz", "x"),
    "tag": ("m.favourite", "u.x"),
    "auth_type": ("m.login.dummy", "m.login.terms", "m.login.recaptcha"),
    "dir": ("b", "f"),
    "format": ("event", "content"),
    "timeout": (0, 1, -1, "x", "", 1.5, 10**30),
    "ratio": (0, 1, 0.5, -1),
    "int": (0, 1, 2, 5, 100),
    "limit": (0, 1, 2, 50, 10**6),
    "bool": (True, False),
    "ts": (0, 1, 2**41, 2**53 - 1),
    "server": ("test.example",),
    "via": ("test.example", "127.0.0.1", "[::1]", ""),
    "set_presence": ("online", "offline", "unavailable"),
    "presence": ("online", "offline", "unavailable"),
    "medium": ("email", "msisdn"),
    "include": ("all", "participated"),
    "event_type": (*STATE, *MESSAGES, "*", "$LAZY", "$ME"),
    "org.matrix.msc4140.delay": (1, 5, 1000),
}  # fmt: skip
# What is harvested from answers, and where it may be put.
_SAME: Final = {
    "room_id_or_alias": "room_id", "mxid": "user_id", "from": "since", "to": "since", "since": "since", "pos": "pos",
    "at": "since",
    "room_alias": "alias", "state_key": "user_id", "redacts": "event_id", "rule_id": "text", "user": "user_id",
    "invite": "user_id",
    "devices": "device_id", "before": "text", "after": "text", "event_field": "text",
}  # fmt: skip


@define
class Known:
    """Values by name; the newest few of each, mixed with those that are known to be good."""

    values: dict[str, list[str]] = field(factory=dict)

    def add(self, name: str, value: str) -> None:
        values = self.values.setdefault(name, [])
        if value not in values:
            values.append(value)
            del values[:-12]

    def put_first(self, name: str, values: list[str]) -> None:
        """In place of all values, several times over: these are good ones."""
        self.values[name] = values * 3

    def harvest(self, answer: Json) -> None:
        """Keeps IDs and tokens of an answer."""
        if not isinstance(answer, dict):
            return
        for name in (
            "room_id",
            "event_id",
            "filter_id",
            "delay_id",
            "session",
            "nonce",
            "pos",
            "version",
            "replacement_room",
        ):
            if isinstance(answer.get(name), str):
                self.add("room_id" if name == "replacement_room" else name, answer[name])
        for name in ("next_batch", "start", "end"):
            if isinstance(answer.get(name), str):
                self.add("since", answer[name])


@define
class Attempt:
    """One request."""

    method: str
    template: str
    target: str
    body: bytes | None


class RequestMaker:
    """Makes requests; the same ones for the same seed and the same answers."""

    def __init__(self, document: Json, seed: int, known: Known) -> None:
        self.random = Random(seed)
        self.known = known
        self._rate = 0.0
        self._schemas = document["components"]["schemas"]
        self._operations = [
            (method.upper(), path, operation)
            for path, methods in sorted(document["paths"].items())
            for method, operation in sorted(methods.items())
        ]
        self.operations_made: set[tuple[str, str]] = set()

    @property
    def operation_count(self) -> int:
        return len(self._operations)

    def _is_hostile(self) -> bool:
        return self.random.random() < self._rate

    def make(self) -> Attempt:
        self._rate = self.random.choice(
            (0.0, 0.0, 0.02, 0.1)
        )  # a request without any fault leads further than the rest
        method, template, operation = self._choose()
        self.operations_made.add((method, template))
        values = {
            parameter["name"]: self._parameter({"type": "data_type"}.get(parameter["name"], parameter["name"]))
            for parameter in operation["parameters"]
            if parameter["in"] == "path"
        }
        target = template
        for name, value in values.items():
            target = target.replace("{" + name + "}", _quoted(value))
        query = self._query(operation)
        body = self._body(template, operation, values)
        return Attempt(method, template, target + ("?" + query if query else ""), body)

    def _choose(self) -> tuple[str, str, Json]:
        if self.random.random() < 0.25:  # what poisons a room or an account for all that read it
            busy = [one for one in self._operations if one[0] == "PUT" and ("/state/" in one[1] or "/send/" in one[1])]
            return self.random.choice(busy)
        return self.random.choice(self._operations)

    def _query(self, operation: Json) -> str:
        pairs = []
        for parameter in operation["parameters"]:
            if parameter["in"] == "query" and (
                parameter["name"] in ("timeout", "dir", "ts") or self.random.random() < 0.4
            ):
                name = parameter["name"]
                value = FILTER if name == "filter" and self.random.random() < 0.7 else None
                made = self._parameter(name) if value is None else json.dumps(self._fill(value))
                pairs.append(f"{quote(name)}={_quoted(made)}")
        return "&".join(pairs)

    def _parameter(self, name: str) -> Json:
        return self._value(name)

    def _body(self, template: str, operation: Json, values: dict[str, Json]) -> bytes | None:
        content = operation.get("requestBody", {}).get("content")
        if not content:
            return None
        if self._rate and self.random.random() < 0.05:
            return self.random.choice(
                (b"", b"{", b"[" * 5000, b'{"a":' * 3000, b"\xff\xfe", b'{"a":NaN}', b"null", b'"x"', b"[]", b"0")
            )
        shape = self._shape(template, values)
        if shape is not None:
            return json.dumps(self._fill(shape)).encode()
        if "application/json" not in content:
            return b"a=b"
        return json.dumps(self._of_schema(content["application/json"]["schema"])).encode()

    def _shape(self, template: str, values: dict[str, Json]) -> Json | None:
        event_type = values.get("event_type", values.get("type"))
        if "/state/" in template:
            return STATE.get(event_type, {"a": "text"}) if isinstance(event_type, str) else {}
        if "/send/" in template:
            return MESSAGES.get(event_type, {"a": "text"}) if isinstance(event_type, str) else {}
        if "/account_data/" in template:
            return ACCOUNT_DATA.get(event_type, {"a": "text"}) if isinstance(event_type, str) else {}
        return next((shape for end, shape in SHAPES.items() if template.endswith(end)), None)

    def _fill(self, shape: Json) -> Json:
        """A value of the shape: names of values become values, each part may be something else or missing."""
        if self._is_hostile():
            return self.random.choice(HOSTILE)
        if isinstance(shape, list):
            return [self._fill(shape[0]) for _ in range(self.random.choice((0, 1, 1, 2, 3)))]
        if isinstance(shape, dict):
            kept = [(key, inner) for key, inner in shape.items() if self.random.random() < 0.8]
            return {self._key(key): self._fill(inner) for key, inner in kept}
        return self._value(shape)

    def _key(self, key: str) -> str:
        if key in ("user_id", "room_id", "device_id", "event_type", "key_id", "text") and self.random.random() < 0.9:
            value = self._value(key)
            return value if isinstance(value, str) else json.dumps(value)
        return key

    def _of_schema(self, schema: Json, name: str = "") -> Json:
        if "$ref" in schema:
            return self._of_schema(self._schemas[schema["$ref"].rpartition("/")[2]], name)
        if self._is_hostile():
            return self.random.choice(HOSTILE)
        if "anyOf" in schema:
            return self._of_schema(self.random.choice(schema["anyOf"]), name)
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        kind = schema.get("type")
        if kind == "object":
            return self._object(schema, name)
        if kind == "array":
            inner = schema.get("items", {})
            return [self._of_schema(inner, name) for _ in range(self.random.choice((0, 1, 1, 2)))]
        return {"boolean": self._value("bool"), "integer": self._value("int"), "null": None}.get(
            kind, self._value(name)
        )

    def _object(self, schema: Json, name: str) -> Json:
        if name in FREE and "properties" not in schema:
            return self._fill(self.random.choice(FREE[name]))
        required = schema.get("required", ())
        made = {
            key: self._of_schema(inner, key)
            for key, inner in schema.get("properties", {}).items()
            if self.random.random() < (0.95 if key in required else 0.5)
        }
        if isinstance(schema.get("additionalProperties"), dict):
            made[self._key(self.random.choice(("user_id", "text")))] = self._of_schema(
                schema["additionalProperties"], name
            )
        if set(made) >= {"type", "content"} and self.random.random() < 0.8:  # createRoom's initial_state
            made["type"] = self.random.choice(list(STATE))
            made["content"] = self._fill(STATE[made["type"]])
        return made

    def _value(self, name: str) -> Json:
        name = _SAME.get(name, name)
        if name == "timeout":
            return self.random.choice(_CHOICES[name])
        if self._is_hostile():
            return self.random.choice(HOSTILE)
        if name in self.known.values:
            return self.random.choice(self.known.values[name])
        if name == "event_type":
            return self.random.choice((*STATE, *MESSAGES))
        return self.random.choice(_CHOICES.get(name, WORDS))


def _quoted(value: Json) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return quote(text[:3000].encode("utf-8", "surrogatepass"), safe="") or "%20"
