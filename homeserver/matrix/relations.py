"""How an event relates to another.

Spec: client-server-api#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from attrs import frozen

from homeserver.matrix.ids import EventId
from homeserver.matrix.limits import MAX_ID_BYTES

ANNOTATION: Final = "m.annotation"
REFERENCE: Final = "m.reference"
REPLACE: Final = "m.replace"
THREAD: Final = "m.thread"


@frozen
class Relation:
    target: EventId
    rel_type: str


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """None for an event that relates to none, or names none that could be."""
    relates_to = content.get("m.relates_to")
    if not isinstance(relates_to, dict):
        return None
    target, rel_type = relates_to.get("event_id"), relates_to.get("rel_type")
    if not _is_name(target) or not _is_name(rel_type):
        return None
    return Relation(EventId(target), rel_type)


def _is_name(value: object) -> TypeGuard[str]:
    return (
        isinstance(value, str) and 0 < len(value.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES and "\0" not in value
    )
