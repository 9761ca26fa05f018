"""Member events made from the templates that a resident server gives: for joins, knocks and leaves.

From the template comes only where the event stands in the room (prev_events, auth_events, depth) and who vouches for a
restricted join. All else is ours: a server can't make us sign anything but the membership that our user asked for.

Spec: server-server-api#joining-rooms
"""

from __future__ import annotations

from collections.abc import Mapping
from secrets import token_urlsafe
from typing import Any, Final, Literal

from attrs import define, frozen

from federation.client import V1, FederationClient, quote_path
from federation.errors import BadAnswer
from homeserver.matrix.build import build_pdu
from homeserver.matrix.errors import UnsupportedRoomVersion
from homeserver.matrix.ids import EventId, RoomId, ServerName, UserId, is_user_id
from homeserver.matrix.limits import MAX_AUTH_EVENTS, MAX_ID_BYTES, MAX_PREV_EVENTS
from homeserver.matrix.pdu import Pdu
from homeserver.matrix.signing import SigningKey
from homeserver.matrix.versions import ROOM_VERSIONS, RoomVersion, room_version
from homeserver.runtime.clock import Clock

Membership = Literal["join", "knock", "leave"]
AUTHORISED_VIA: Final = "join_authorised_via_users_server"
MAKE_TIMEOUT_MS: Final = 30_000
MAX_TEMPLATE_BYTES: Final = 256 * 1024


@frozen
class Template:
    """Where a member event goes. prev_events and auth_events: event id -> reference hash ("" where the version has none)."""

    version: RoomVersion
    prev_events: Mapping[EventId, str]
    auth_events: Mapping[EventId, str]
    depth: int
    authoriser: UserId | None


@define(eq=False)
class Templates:
    """Fetches templates and makes events of them."""

    client: FederationClient
    signing_key: SigningKey
    clock: Clock

    async def fetch_event(
        self, server: ServerName, room_id: RoomId, user_id: UserId, membership: Membership, content: Mapping[str, Any]
    ) -> Pdu:
        """The signed member event with this content, where the server says that it goes.

        Raises: BadAnswer, RemoteRefused, RemoteUnreachable, UnsupportedRoomVersion; BadJson, TooLarge for bad content.
        """
        query = {"ver": list(ROOM_VERSIONS)} if membership != "leave" else None
        answer = await self.client.get(
            server,
            quote_path(f"{V1}/make_{membership}", room_id, user_id),
            query,
            timeout_ms=MAKE_TIMEOUT_MS,
            max_bytes=MAX_TEMPLATE_BYTES,
            patient=True,
        )
        return self.build(parse_template(server, answer, room_id, user_id, membership), room_id, user_id, content)

    def build(self, template: Template, room_id: RoomId, user_id: UserId, content: Mapping[str, Any]) -> Pdu:
        version = template.version
        content = {key: value for key, value in content.items() if key != AUTHORISED_VIA}
        if template.authoriser is not None:
            content[AUTHORISED_VIA] = template.authoriser
        hashes = {**template.prev_events, **template.auth_events}
        server_name = self.client.server_name
        return build_pdu(
            version,
            type="m.room.member",
            sender=user_id,
            room_id=room_id,
            content=content,
            state_key=user_id,
            prev_events=list(template.prev_events),
            auth_events=list(template.auth_events),
            depth=template.depth,
            origin_server_ts=self.clock.time_ms(),
            signing_key=self.signing_key,
            server_name=server_name,
            event_id=EventId(f"${token_urlsafe(18)}:{server_name}") if version.event_id_on_wire else None,
            hashes_of=hashes.__getitem__ if version.references_carry_hashes else None,
        )


def parse_template(
    server: ServerName, answer: Any, room_id: RoomId, user_id: UserId, membership: Membership
) -> Template:
    """Raises: BadAnswer, UnsupportedRoomVersion.

    Spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
    """
    event = answer.get("event") if isinstance(answer, dict) else None
    if not isinstance(event, dict):
        raise BadAnswer(server, "there is no event in it")
    version = _parse_version(answer.get("room_version", "1"))
    wanted = {"type": "m.room.member", "room_id": room_id, "sender": user_id, "state_key": user_id}
    for name, value in wanted.items():
        if event.get(name) != value:
            raise BadAnswer(server, f"the template's {name} is not {value}")
    content = event.get("content")
    if not isinstance(content, dict) or content.get("membership") != membership:
        raise BadAnswer(server, f"the template's membership is not {membership}")
    depth = event.get("depth")
    if type(depth) is not int or not 0 <= depth <= version.max_depth:
        raise BadAnswer(server, "the template's depth is no depth")
    prev_events = _parse_references(server, event.get("prev_events"), MAX_PREV_EVENTS, version)
    auth_events = _parse_references(server, event.get("auth_events"), MAX_AUTH_EVENTS, version)
    if not prev_events:
        raise BadAnswer(server, "the template has no prev_events")
    authoriser = content.get(AUTHORISED_VIA) if membership == "join" and version.restricted_join else None
    if authoriser is not None and not is_user_id(authoriser):
        raise BadAnswer(server, "the user who vouches for the join is no user")
    return Template(version, prev_events, auth_events, depth, authoriser)


def _parse_version(identifier: Any) -> RoomVersion:
    if not isinstance(identifier, str):
        raise UnsupportedRoomVersion("The room's version is not supported")
    return room_version(identifier)


def _parse_references(server: ServerName, value: Any, most: int, version: RoomVersion) -> dict[EventId, str]:
    if not isinstance(value, list) or len(value) > most:
        raise BadAnswer(server, "the template's references are no list of events")
    found = {}
    for reference in value:
        event_id, hash_ = _parse_reference(reference) if version.references_carry_hashes else (reference, "")
        if not _is_reference(event_id, hash_):
            raise BadAnswer(server, "the template's references are no list of events")
        found[EventId(event_id)] = hash_
    return found


def _is_reference(event_id: Any, hash_: Any) -> bool:
    """Not too long, either: the event that we make may be too large for what our user says only."""
    if not isinstance(event_id, str) or not event_id.startswith("$") or not isinstance(hash_, str):
        return False
    return len(event_id.encode()) <= MAX_ID_BYTES and len(hash_) <= MAX_ID_BYTES


def _parse_reference(reference: Any) -> tuple[Any, Any]:
    """The id and hash of `[event_id, {"sha256": hash}]`. Some servers leave out the hash, which nobody looks at: ""."""
    if isinstance(reference, list) and len(reference) == 2 and isinstance(reference[1], dict):
        return reference[0], reference[1].get("sha256", "")
    return None, None
