"""What people who are not in a room may be told of it.

Spec: client-server-api#room-summaries
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from attrs import define

from homeserver.folds.events import EventCache
from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId, domain_of
from homeserver.rooms.head import RoomHead
from homeserver.rooms.heads import RoomHeads
from homeserver.rooms.membership import is_resident
from homeserver.rooms.ports import RemoteRoom, RemoteServers
from homeserver.rooms.restricted_joins import allowed_rooms

# The state that a summary is made of; all of it has an empty state key.
SUMMARISED_TYPES: Final = frozenset(
    {
        "m.room.create",
        "m.room.name",
        "m.room.topic",
        "m.room.avatar",
        "m.room.canonical_alias",
        "m.room.join_rules",
        "m.room.history_visibility",
        "m.room.guest_access",
        "m.room.encryption",
    }
)
OPEN_RULES = ("public", "knock", "knock_restricted")

Contents = Mapping[str, Mapping[str, Any]]


@define(eq=False)
class RoomSummaries:
    """Summaries of rooms, for those who may see them."""

    server_name: ServerName
    heads: RoomHeads
    events: EventCache
    memberships: Memberships
    remote: RemoteServers

    async def load(self, room_id: RoomId, user_id: UserId | None, via: Sequence[ServerName] = ()) -> dict[str, Any]:
        """The summary; user_id is None for people who are not logged in.

        Raises: NotFound, also for rooms that the user may not know of.

        Spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
        """
        return (await self.load_with_children(room_id, user_id, via))[0]

    async def load_with_children(
        self, room_id: RoomId, user_id: UserId | None, via: Sequence[ServerName] = ()
    ) -> tuple[dict[str, Any], Sequence[dict[str, Any]] | None]:
        """The summary, and the children of a space that no local user is in (RemoteRoom); None where one is.

        Raises: NotFound.
        """
        head = (await self.heads.load_many([room_id])).get(room_id)
        if head is None or not is_resident(head, self.server_name):
            room = await self._fetch(room_id, user_id, via)
            return dict(room.entry), room.children
        if not await self._may_see(head, user_id):
            raise NotFound("Room not found")
        summary = await self.build(head)
        membership = head.membership(user_id) if user_id is not None else None
        if user_id is not None:
            summary["membership"] = membership or "leave"
        return summary, None

    async def build(self, head: RoomHead) -> dict[str, Any]:
        """The summary of a room that is known here, for whoever may see it."""
        ids = [event_id for type_ in SUMMARISED_TYPES if (event_id := head.state.get((type_, "")))]
        found = await self.events.load_many(dict.fromkeys(ids, head.room_id), {head.room_id: head.version})
        contents = {event.pdu.type: event.pdu.content for event in found.values()}
        summary = published_room(head.room_id, head.joined, contents)
        summary["room_version"] = head.version.identifier
        algorithm = _text(contents, "m.room.encryption", "algorithm")
        if algorithm is not None:
            summary["encryption"] = algorithm
        if rooms := allowed_rooms(head):
            summary["allowed_room_ids"] = rooms
        return summary

    async def _fetch(self, room_id: RoomId, user_id: UserId | None, via: Sequence[ServerName]) -> RemoteRoom:
        """A room that no local user is in; its entry also says what the user is to it.

        Raises: NotFound, also for rooms that the user may not know of.
        """
        known = (await self.memberships.load(user_id)).get(room_id) if user_id is not None else None
        inviter = [domain_of(known.sender)] if known is not None else []
        room = await self.remote.fetch_room(room_id, [*via, *inviter, domain_of(room_id)])
        if known is None or known.membership not in ("invite", "knock"):
            await self._check_open(room.entry, user_id)
        if user_id is None:
            return room
        return RemoteRoom({**room.entry, "membership": known.membership if known else "leave"}, room.children)

    async def _check_open(self, entry: Mapping[str, Any], user_id: UserId | None) -> None:
        """Raises: NotFound."""
        if entry.get("join_rule", "public") in OPEN_RULES or entry.get("world_readable"):
            return
        rooms = await self.memberships.load(user_id) if user_id is not None else {}
        allowed = (rooms.get(room_id) for room_id in entry.get("allowed_room_ids", ()))
        if not any(row is not None and row.membership == "join" for row in allowed):
            raise NotFound("Room not found")

    async def _may_see(self, head: RoomHead, user_id: UserId | None) -> bool:
        if is_open(head):
            return True
        if user_id is None:
            return False
        if head.membership(user_id) in ("join", "invite", "knock"):
            return True
        rooms = await self.memberships.load(user_id)
        return any(
            (row := rooms.get(room_id)) is not None and row.membership == "join" for room_id in allowed_rooms(head)
        )


def is_open(head: RoomHead) -> bool:
    """Everybody may know of the room, for they can join it, knock on it, or read it."""
    rule, version = head.join_rule, head.version
    return (
        rule == "public"
        or (rule == "knock" and version.knock)
        or (rule == "knock_restricted" and version.knock_restricted)
        or head.history_visibility == "world_readable"
    )


def published_room(room_id: RoomId, joined: int, contents: Contents) -> dict[str, Any]:
    """A PublishedRoomsChunk; contents: event type -> content of the summarised state.

    Values of the wrong type are left out: another server's user may have set them.

    Spec: client-server-api#get_matrixclientv3publicrooms
    """
    avatar = _text(contents, "m.room.avatar", "url")
    shown = {
        "name": _text(contents, "m.room.name", "name"),
        "topic": plain_topic(contents.get("m.room.topic", {})),
        "avatar_url": avatar if avatar is not None and avatar.startswith("mxc://") else None,
        "canonical_alias": _text(contents, "m.room.canonical_alias", "alias"),
        "join_rule": _text(contents, "m.room.join_rules", "join_rule") or "invite",
        "room_type": _text(contents, "m.room.create", "type"),
    }
    return {
        "room_id": room_id,
        "num_joined_members": joined,
        "world_readable": _text(contents, "m.room.history_visibility", "history_visibility") == "world_readable",
        "guest_can_join": _text(contents, "m.room.guest_access", "guest_access") == "can_join",
        **{name: value for name, value in shown.items() if value is not None},
    }


def plain_topic(content: Mapping[str, Any]) -> str | None:
    """The topic as plain text: the rich form's, if there is a rich form.

    Spec: client-server-api#mroomtopic
    """
    block = content.get("m.topic")
    texts = block.get("m.text") if isinstance(block, dict) else None
    if isinstance(texts, list):
        for text in texts:
            if isinstance(text, dict) and text.get("mimetype", "text/plain") == "text/plain":
                body = text.get("body")
                return body if isinstance(body, str) and body else None
        return None
    topic = content.get("topic")
    return topic if isinstance(topic, str) and topic else None


def _text(contents: Contents, type_: str, name: str) -> str | None:
    value = contents.get(type_, {}).get(name)
    return value if isinstance(value, str) and value else None
