"""A scripted peer that asks a Hearth as another server does: signed, and each answer checked against the specification.

visitor = Visitor(peer, hearth)
template = visitor.get("/v1/make_join/{}/{}", at=[room_id, visitor.user("bob")], query={"ver": "11"})
visitor.get("/v1/event/{}", at=[event_id], expect=403)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from attrs import define

from homeserver.matrix.auth_types import auth_types_for
from homeserver.matrix.build import build_pdu
from homeserver.matrix.ids import EventId, RoomId, UserId
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.kit.client import Client, Unexpected
from tests.kit.federation import FederatedServer, ScriptedPeer
from tests.kit.specification import FEDERATION

PREFIX = "/_matrix/federation"
VERSIONS = list(ROOM_VERSIONS)


@define
class Visitor:
    peer: ScriptedPeer
    hearth: FederatedServer

    @property
    def name(self) -> str:
        return self.peer.server_name

    def user(self, localpart: str) -> str:
        return f"@{localpart}:{self.name}"

    # -- requests --------------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        at: Iterable[str] = (),
        query: Mapping[str, str | int | Sequence[str]] | None = None,
        expect: int | str | Sequence[int] | None = None,
    ) -> Any:
        """The decoded answer. `expect` names the status or errcode that must come, or statuses.

        Raises: Unexpected, NotAsSpecified.
        """
        path = PREFIX + path.format(*(quote(part, safe="") for part in at))
        uri = f"{path}?{urlencode(query, doseq=True)}" if query else path
        response = self.peer.send(method, self.hearth, uri, body)
        answer = response.json()
        FEDERATION.check_response(method, path, response.status_code, answer)
        errcode = answer.get("errcode") if isinstance(answer, dict) else None
        wanted = expect if isinstance(expect, list | tuple) else [expect]
        if response.status_code in wanted or errcode in wanted if expect else response.ok:
            return answer
        raise Unexpected(f"{method} {path}", response.status_code, answer, str(expect))

    def get(self, path: str, **about: Any) -> Any:
        return self.request("GET", path, **about)

    def put(self, path: str, body: Any, **about: Any) -> Any:
        return self.request("PUT", path, body, **about)

    def post(self, path: str, body: Any, **about: Any) -> Any:
        return self.request("POST", path, body, **about)

    # -- membership ------------------------------------------------------------------------------------------------

    def make(self, what: str, room_id: str, user_id: str, **about: Any) -> Any:
        """`what` is join, leave or knock."""
        query = {"ver": VERSIONS} if what != "leave" else None
        return self.get(f"/v1/make_{what}/{{}}/{{}}", at=[room_id, user_id], **{"query": query, **about})

    def sign(self, template: Mapping[str, Any], **changes: Any) -> Pdu:
        """The event that a template becomes; `changes` replace what the template says."""
        return sign(self.peer, template["room_version"], {**template["event"], **changes})

    def sign_member(
        self, template: Mapping[str, Any], resident: Client, room_id: str, target: str, content: Mapping[str, Any]
    ) -> Pdu:
        """A member event about somebody else, made by the user whom the template is for; in rooms of version 3 and later.

        `resident` says what the room's state is, so that the auth events are right.
        """
        event = template["event"]
        keys = auth_types_for(ROOM_VERSIONS[template["room_version"]], event["type"], event["sender"], target, content)
        state = {
            (each["type"], each["state_key"]): each["event_id"]
            for each in resident.get("/rooms/{}/state", at=[room_id])
        }
        auth_events = [state[key] for key in keys if key in state]
        return self.sign(template, state_key=target, content=content, auth_events=auth_events)

    def submit(self, what: str, room_id: str, event: Pdu, *, version: str | None = None, **about: Any) -> Any:
        """Send the signed event."""
        prefix = version or ("v1" if what == "knock" else "v2")
        return self.put(f"/{prefix}/send_{what}/{{}}/{{}}", event.json, at=[room_id, event.event_id], **about)

    def join(self, room_id: str, user_id: str, **about: Any) -> tuple[Any, Pdu]:
        """The answer, and the event."""
        event = self.sign(self.make("join", room_id, user_id))
        return self.submit("join", room_id, event, **about), event

    def leave(self, room_id: str, user_id: str) -> Pdu:
        event = self.sign(self.make("leave", room_id, user_id))
        self.submit("leave", room_id, event)
        return event

    def parse_all(self, version: str, events: Iterable[dict[str, Any]]) -> list[Pdu]:
        """Events of an answer. Raises: MatrixError for those that are none of the version."""
        return [parse_pdu(dict(event), ROOM_VERSIONS[version]) for event in events]


def sign(peer: ScriptedPeer, version: str, event: Mapping[str, Any]) -> Pdu:
    """An event of the peer's own making, with its hash and signature."""
    rules = ROOM_VERSIONS[version]
    carries = rules.references_carry_hashes
    prev, auth = event["prev_events"], event["auth_events"]
    hashes = {each[0]: each[1]["sha256"] for each in [*prev, *auth]} if carries else {}
    ids = [[each[0] if carries else each for each in references] for references in (prev, auth)]
    wire_id = EventId(f"$made{event['origin_server_ts']}{event['depth']}:{peer.server_name}")
    return build_pdu(
        rules,
        type=event["type"],
        sender=UserId(event["sender"]),
        room_id=RoomId(event["room_id"]),
        content=dict(event["content"]),
        state_key=event.get("state_key"),
        prev_events=ids[0],
        auth_events=ids[1],
        depth=event["depth"],
        origin_server_ts=event["origin_server_ts"],
        signing_key=peer.key,
        server_name=peer.server_name,
        event_id=wire_id if rules.event_id_on_wire else None,
        hashes_of=hashes.__getitem__ if carries else None,
    )


def create_room(alice: Client, version: str = "11", **about: Any) -> str:
    """A public room."""
    return alice.create_room(**{"preset": "public_chat", "room_version": version, **about})


def restrict(alice: Client, room_id: str, *rooms: str) -> None:
    """Members of these rooms may join that one."""
    allow = [{"type": "m.room_membership", "room_id": room} for room in rooms]
    alice.set_state(room_id, "m.room.join_rules", {"join_rule": "restricted", "allow": allow})
