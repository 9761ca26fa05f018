"""What this server asks of relations between events beyond the authorisation rules, which know of none.

Spec: client-server-api#forming-relationships-between-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import define

from homeserver.folds.events import EventCache
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import EventId, UserId
from homeserver.matrix.relations import ANNOTATION, THREAD, relation_of
from homeserver.rooms.errors import DuplicateAnnotation
from homeserver.rooms.head import RoomHead
from homeserver.runtime.db import Database
from homeserver.store.relations import load_annotation_keys


@define(eq=False)
class RelationPolicy:
    """Asked before a message event is sent."""

    database: Database
    events: EventCache

    async def check_relation(self, head: RoomHead, sender: UserId, type: str, content: Mapping[str, Any]) -> None:
        """Raises: DuplicateAnnotation; M_UNKNOWN for a thread that can't be begun."""
        relation = relation_of(content)
        if relation is None or not head.is_joined(sender):
            return
        if relation.rel_type == THREAD:
            await self._check_thread_root(head, relation.target)
        elif relation.rel_type == ANNOTATION:
            known = await self.database.read(load_annotation_keys, head.room_id, relation.target, sender, type)
            key = content["m.relates_to"].get("key")
            if isinstance(key, str) and key in known:
                raise DuplicateAnnotation("You have annotated that event with this key already")

    async def _check_thread_root(self, head: RoomHead, root: EventId) -> None:
        """Spec: client-server-api#validation-of-mthread-relationships"""
        event = await self.events.load(root, head.room_id, head.version)
        if event is not None and relation_of(event.pdu.content) is not None:
            raise MatrixError("A thread can't begin at an event that relates to another")
