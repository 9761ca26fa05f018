"""The push rules that every user has, in the specification's order and with its definitions.

The rules that looked for display names, localparts and "@room" in the body went with v1.17; the conditions
they used still work in users' own rules.

Spec: client-server-api#predefined-rules
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from homeserver.matrix.push_conditions import THREAD_SUBSCRIPTION, Template

NOTIFY: Final = "notify"
HIGHLIGHT: Final = {"set_tweak": "highlight"}
SOUND: Final = {"set_tweak": "sound", "value": "default"}
RING: Final = {"set_tweak": "sound", "value": "ring"}

_TWO_MEMBERS: Final = {"kind": "room_member_count", "is": "2"}


def _match(key: str, pattern: str | Template) -> dict[str, Any]:
    return {"kind": "event_match", "key": key, "pattern": pattern}


def _rule(
    rule_id: str,
    conditions: Sequence[Mapping[str, Any]],
    actions: Sequence[Any] = (),
    *,
    enabled: bool = True,
) -> dict[str, Any]:
    return {"rule_id": rule_id, "enabled": enabled, "conditions": list(conditions), "actions": list(actions)}


# The one rule that stands before the user's own.
MASTER_RULE: Final = _rule(".m.rule.master", [], enabled=False)

# Spec: client-server-api#default-override-rules
OVERRIDE_RULES: Final = (
    _rule(".m.rule.suppress_notices", [_match("content.msgtype", "m.notice")]),
    _rule(
        ".m.rule.invite_for_me",
        [
            _match("type", "m.room.member"),
            _match("content.membership", "invite"),
            _match("state_key", Template.USER_ID),
        ],
        [NOTIFY, SOUND],
    ),
    _rule(".m.rule.member_event", [_match("type", "m.room.member")]),
    _rule(
        ".m.rule.is_user_mention",
        [
            {
                "kind": "event_property_contains",
                "key": r"content.m\.mentions.user_ids",
                "value": Template.USER_ID,
            }
        ],
        [NOTIFY, SOUND, HIGHLIGHT],
    ),
    _rule(
        ".m.rule.is_room_mention",
        [
            {"kind": "event_property_is", "key": r"content.m\.mentions.room", "value": True},
            {"kind": "sender_notification_permission", "key": "room"},
        ],
        [NOTIFY, HIGHLIGHT],
    ),
    _rule(
        ".m.rule.tombstone",
        [_match("type", "m.room.tombstone"), _match("state_key", "")],
        [NOTIFY, HIGHLIGHT],
    ),
    _rule(".m.rule.reaction", [_match("type", "m.reaction")]),
    _rule(".m.rule.room.server_acl", [_match("type", "m.room.server_acl"), _match("state_key", "")]),
    _rule(
        ".m.rule.suppress_edits",
        [{"kind": "event_property_is", "key": r"content.m\.relates_to.rel_type", "value": "m.replace"}],
    ),
)

# Only where subscriptions to threads count.
# Spec: MSC4306
POSTCONTENT_RULES: Final = (
    _rule(".io.element.msc4306.rule.unsubscribed_thread", [{"kind": THREAD_SUBSCRIPTION, "subscribed": False}]),
    _rule(
        ".io.element.msc4306.rule.subscribed_thread",
        [{"kind": THREAD_SUBSCRIPTION, "subscribed": True}],
        [NOTIFY, SOUND],
    ),
)

# Spec: client-server-api#default-underride-rules
UNDERRIDE_RULES: Final = (
    _rule(".m.rule.call", [_match("type", "m.call.invite")], [NOTIFY, RING]),
    _rule(
        ".m.rule.encrypted_room_one_to_one",
        [_TWO_MEMBERS, _match("type", "m.room.encrypted")],
        [NOTIFY, SOUND],
    ),
    _rule(".m.rule.room_one_to_one", [_TWO_MEMBERS, _match("type", "m.room.message")], [NOTIFY, SOUND]),
    _rule(".m.rule.message", [_match("type", "m.room.message")], [NOTIFY]),
    _rule(".m.rule.encrypted", [_match("type", "m.room.encrypted")], [NOTIFY]),
)
