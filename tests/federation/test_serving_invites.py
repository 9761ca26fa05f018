"""Users of this server are invited by other servers."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.build import add_signature
from homeserver.matrix.ids import parse_server_name
from homeserver.matrix.pdu import Pdu, parse_pdu
from homeserver.matrix.signing import SigningKey, sign_json, verify_event_signature
from homeserver.matrix.versions import ROOM_VERSIONS
from tests.federation.identity_server import IdentityServer
from tests.federation.resident import MEMBER, PeerRoom
from tests.federation.visitor import Visitor, create_room
from tests.kit.client import Client
from tests.kit.federation import Received

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def alice(visitor: Visitor) -> Client:
    return visitor.hearth.register("alice")


def build_invite(room: PeerRoom, user_id: str, **content: Any) -> Pdu:
    return room.build(MEMBER, {"membership": "invite", **content}, user_id, room.creator, prev=list(room.tips))


def invite(visitor: Visitor, room: PeerRoom, pdu: Pdu, **about: Any) -> Any:
    body = {
        "event": pdu.json,
        "room_version": room.version.identifier,
        "invite_room_state": [event.json for event in room.shown()],
        **about.pop("body", {}),
    }
    return visitor.put("/v2/invite/{}/{}", body, at=[room.room_id, pdu.event_id], **about)


def invited_rooms(client: Client) -> dict[str, list[dict[str, Any]]]:
    """Room id -> the stripped state shown with the invite."""
    client.next_batch = None
    rooms = client.sync().get("rooms", {}).get("invite", {})
    return {room_id: room["invite_state"]["events"] for room_id, room in rooms.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_invite_is_signed_and_shown(visitor: Visitor, alice: Client, version: str) -> None:
    room = PeerRoom.create(visitor.peer, version)
    pdu = build_invite(room, alice.user_id)
    signed = invite(visitor, room, pdu)["event"]
    assert {key: value for key, value in signed.items() if key != "signatures"} == {
        key: value for key, value in pdu.json.items() if key != "signatures"
    }
    server = visitor.hearth.server_name
    verify_event_signature(signed, room.version, server, visitor.hearth.running.services.core.signing_key.verify_key)
    assert visitor.name in signed["signatures"]
    [(room_id, shown)] = invited_rooms(alice).items()
    assert room_id == room.room_id
    assert {"m.room.create", "m.room.name", "m.room.member"} <= {event["type"] for event in shown}
    assert all(set(event) == {"type", "state_key", "sender", "content"} for event in shown)


@pytest.mark.parametrize("version", ["1", "2"])
def test_old_endpoint_for_old_rooms(visitor: Visitor, alice: Client, version: str) -> None:
    room = PeerRoom.create(visitor.peer, version)
    pdu = build_invite(room, alice.user_id)
    shown = [{"type": "m.room.name", "state_key": "", "sender": room.creator, "content": {"name": "Old"}}]
    body = {**pdu.json, "unsigned": {"invite_room_state": shown}}
    status, answer = visitor.put("/v1/invite/{}/{}", body, at=[room.room_id, pdu.event_id])
    assert status == 200 and set(answer["event"]["signatures"]) == {visitor.name, visitor.hearth.server_name}
    names = [event["content"] for event in invited_rooms(alice)[room.room_id] if event["type"] == "m.room.name"]
    assert names == [{"name": "Old"}]


def test_stripped_state_of_older_servers_is_shown_in_older_rooms(visitor: Visitor, alice: Client) -> None:
    room = PeerRoom.create(visitor.peer, "10")
    entry = {"type": "m.room.name", "state_key": "", "sender": room.creator, "content": {"name": "Old"}}
    garbage = [1, "x", {}, {**entry, "content": 1}, {**entry, "type": 2}, {**entry, "type": "x" * 1000}]
    invite(visitor, room, build_invite(room, alice.user_id), body={"invite_room_state": [entry, *garbage]})
    shown = [event for event in invited_rooms(alice)[room.room_id] if event["type"] != "m.room.member"]
    assert shown == [entry]


def test_forged_room_state_is_left_out(visitor: Visitor, alice: Client) -> None:
    room = PeerRoom.create(visitor.peer, "11")
    name = room.events[room.state[("m.room.name", "")]]
    forged = {**name.json, "signatures": {visitor.name: {visitor.peer.key.key_id: "A" * 86}}}
    changed = {**name.json, "content": {"name": "Your bank"}}
    create = room.events[room.state[("m.room.create", "")]].json
    body = {"invite_room_state": [create, forged, changed]}
    invite(visitor, room, build_invite(room, alice.user_id), body=body)
    shown = invited_rooms(alice)[room.room_id]
    assert "Your bank" not in str(shown)
    assert "m.room.create" in {event["type"] for event in shown}


def test_invite_to_a_room_whose_id_is_a_hash_must_bring_its_create_event(visitor: Visitor, alice: Client) -> None:
    room, other = PeerRoom.create(visitor.peer, "12"), PeerRoom.create(visitor.peer, "12", type="other")
    pdu = build_invite(room, alice.user_id)
    foreign = [event.json for event in other.shown()]
    stripped = [{"type": "m.room.create", "state_key": "", "sender": room.creator, "content": {"room_version": "12"}}]
    for shown in ([], foreign, stripped):
        invite(visitor, room, pdu, body={"invite_room_state": shown}, expect="M_MISSING_PARAM")
    assert invited_rooms(alice) == {}


def test_version_that_this_server_does_not_know(visitor: Visitor, alice: Client) -> None:
    room = PeerRoom.create(visitor.peer, "11")
    pdu = build_invite(room, alice.user_id)
    refused = invite(visitor, room, pdu, body={"room_version": "x.99"}, expect="M_INCOMPATIBLE_ROOM_VERSION")
    assert refused["errcode"] == "M_INCOMPATIBLE_ROOM_VERSION"
    invite(visitor, room, pdu, body={"room_version": "x" * 1000}, expect=400)
    visitor.put("/v2/invite/{}/{}", {"event": pdu.json}, at=[room.room_id, pdu.event_id], expect=400)


@pytest.mark.parametrize(("version", "errcode"), [("5", "M_INVALID_PARAM"), ("6", "M_BAD_JSON"), ("11", "M_BAD_JSON")])
def test_event_that_is_no_canonical_json(visitor: Visitor, alice: Client, version: str, errcode: str) -> None:
    """From version 6 on that is an error of its own; before, the event is only not the one that its id names."""
    room = PeerRoom.create(visitor.peer, version)
    pdu = build_invite(room, alice.user_id)
    event = {**pdu.json, "content": {**pdu.content, "org.example.number": 1.5}}
    body = {"room_version": version, "event": event, "invite_room_state": []}
    visitor.put("/v2/invite/{}/{}", body, at=[room.room_id, pdu.event_id], expect=errcode)
    assert invited_rooms(alice) == {}


def test_hostile_invites(visitor: Visitor, alice: Client, start_peer: Any) -> None:
    room = PeerRoom.create(visitor.peer, "11")
    good = build_invite(room, alice.user_id)
    prev = list(room.tips)

    def built(content: dict[str, Any], target: str | None, sender: str = room.creator, type_: str = MEMBER) -> Pdu:
        return room.build(type_, content, target, sender, prev=prev)

    refused = [
        built({"membership": "join"}, alice.user_id),
        built({"membership": "ban"}, alice.user_id),
        built({}, alice.user_id),
        built({"membership": "invite"}, alice.user_id, type_="m.room.name"),
        built({"membership": "invite"}, None),
        built({"membership": "invite"}, visitor.user("carl")),
        built({"membership": "invite"}, "@alice:elsewhere.example"),
        built({"membership": "invite"}, f"@nobody:{visitor.hearth.server_name}"),
        built({"membership": "invite"}, alice.user_id, sender=f"@mallory:{start_peer().server_name}"),
        built({"membership": "invite"}, alice.user_id, sender=alice.user_id),
        room.build(
            MEMBER, {"membership": "invite"}, alice.user_id, room.creator, prev=prev, key=SigningKey("peer", b"x" * 32)
        ),
    ]
    for pdu in refused:
        invite(visitor, room, pdu, expect=[400, 403, 404])
    other = PeerRoom.create(visitor.peer, "11")
    visitor.put(
        "/v2/invite/{}/{}",
        {"event": good.json, "room_version": "11", "invite_room_state": []},
        at=[f"!another:{visitor.name}", good.event_id],
        expect="M_INVALID_PARAM",
    )
    visitor.put(
        "/v2/invite/{}/{}",
        {"event": good.json, "room_version": "11", "invite_room_state": []},
        at=[other.room_id, "$x"],
        expect="M_INVALID_PARAM",
    )
    altered = {**good.json, "content": {"membership": "invite", "displayname": "You"}}
    invite(visitor, room, good, body={"event": altered}, expect="M_INVALID_PARAM")
    for wrong in ({"event": []}, {"invite_room_state": "x"}, {"invite_room_state": [{}] * 1000}, {"room_version": 11}):
        invite(visitor, room, good, body=wrong, expect=400)
    assert invited_rooms(alice) == {}


def test_another_server_cannot_pass_on_an_invite(visitor: Visitor, alice: Client, start_peer: Any) -> None:
    room = PeerRoom.create(visitor.peer, "11")
    thief = Visitor(start_peer(), visitor.hearth)
    invite(thief, room, build_invite(room, alice.user_id), expect="M_INVALID_PARAM")


def test_who_takes_no_invites_gets_none(visitor: Visitor, alice: Client) -> None:
    path = "/user/{}/account_data/m.invite_permission_config"
    alice.put(path, {"default_action": "block"}, at=[alice.user_id])
    room = PeerRoom.create(visitor.peer, "11")
    invite(visitor, room, build_invite(room, alice.user_id), expect="M_INVITE_BLOCKED")
    assert invited_rooms(alice) == {}


@pytest.mark.parametrize("kind", ["users", "servers"])
def test_who_blocks_or_ignores_an_inviter_of_another_server(visitor: Visitor, alice: Client, kind: str) -> None:
    path = "/user/{}/account_data/org.matrix.msc4155.invite_permission_config"
    room = PeerRoom.create(visitor.peer, "11")
    name = room.creator if kind == "users" else visitor.name.partition(":")[0]
    alice.put(path, {f"blocked_{kind}": [name]}, at=[alice.user_id])
    invite(visitor, room, build_invite(room, alice.user_id), expect="M_INVITE_BLOCKED")
    alice.put(path, {f"ignored_{kind}": [name], f"blocked_{kind}": [name]}, at=[alice.user_id])
    signed = invite(visitor, room, build_invite(room, alice.user_id))["event"]
    assert visitor.hearth.server_name in signed["signatures"]
    assert invited_rooms(alice) == {}
    alice.put(path, {"enabled": False, f"ignored_{kind}": [name]}, at=[alice.user_id])
    assert list(invited_rooms(alice)) == [room.room_id]


def test_invite_into_a_room_that_this_server_is_in(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    carol = visitor.hearth.register("carol")
    visitor.join(room_id, bob)
    levels = alice.get_state(room_id, "m.room.power_levels")
    alice.set_state(room_id, "m.room.power_levels", {**levels, "invite": 0})
    template = visitor.make("leave", room_id, bob)
    pdu = visitor.sign_member(template, alice, room_id, carol.user_id, {"membership": "invite"})
    body = {"event": pdu.json, "room_version": "11", "invite_room_state": []}
    visitor.put("/v2/invite/{}/{}", body, at=[room_id, pdu.event_id])
    assert room_id in invited_rooms(carol)
    carol.join(room_id)
    alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["localhost"]})
    dave = visitor.hearth.register("dave")
    again = visitor.sign_member(template, alice, room_id, dave.user_id, {"membership": "invite"})
    visitor.put("/v2/invite/{}/{}", {**body, "event": again.json}, at=[room_id, again.event_id], expect="M_FORBIDDEN")


def test_invite_by_somebody_without_the_power_is_refused(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    carol = visitor.hearth.register("carol")
    visitor.join(room_id, bob)
    levels = alice.get_state(room_id, "m.room.power_levels")
    alice.set_state(room_id, "m.room.power_levels", {**levels, "invite": 50})
    template = visitor.make("leave", room_id, bob)
    pdu = visitor.sign_member(template, alice, room_id, carol.user_id, {"membership": "invite"})
    body = {"event": pdu.json, "room_version": "11", "invite_room_state": []}
    visitor.put("/v2/invite/{}/{}", body, at=[room_id, pdu.event_id], expect="M_FORBIDDEN")
    assert invited_rooms(carol) == {}


# -- third-party invites ---------------------------------------------------------------------------------------------

IDENTITY_KEY = SigningKey("0", bytes(range(32)))


def third_party_room(visitor: Visitor, alice: Client, token: str = "token", version: str = "11") -> str:
    room_id = create_room(alice, version, preset="private_chat")
    public = IDENTITY_KEY.verify_key.to_base64()
    content = {
        "display_name": "c...@example.org",
        "key_validity_url": IdentityServer.start(visitor.peer).validity_url,
        "public_key": public,
        "public_keys": [{"public_key": public}],
    }
    alice.set_state(room_id, "m.room.third_party_invite", content, token)
    return room_id


def signed_for(user_id: str, token: str = "token", key: SigningKey = IDENTITY_KEY) -> dict[str, Any]:
    return sign_json({"mxid": user_id, "token": token}, parse_server_name("id.example.org"), key)


def test_local_user_who_bound_an_address_is_invited(visitor: Visitor, alice: Client) -> None:
    room_id, carol = third_party_room(visitor, alice), visitor.hearth.register("carol")
    wait = {"medium": "email", "address": "carol@example.org", "mxid": carol.user_id}
    about = {**wait, "room_id": room_id, "sender": alice.user_id}

    def bind(*invites: Any) -> int:
        body = {**wait, "invites": list(invites)}
        return int(visitor.hearth.ask("PUT", "/_matrix/federation/v1/3pid/onbind", body).status_code)

    forged = signed_for(carol.user_id, key=SigningKey("0", b"y" * 32))
    other_token = signed_for(carol.user_id, "other")
    garbage = [1, {}, {**about, "signed": 1}, {**about, "signed": signed_for(alice.user_id)}]
    assert bind({**about, "signed": forged}, {**about, "signed": other_token}, *garbage) == 200
    assert invited_rooms(carol) == {}
    assert bind({**about, "signed": signed_for(carol.user_id)}) == 200
    assert room_id in invited_rooms(carol)
    member = alice.get_state(room_id, "m.room.member", carol.user_id)
    assert member["third_party_invite"]["display_name"] == "c...@example.org"


def test_onbind_asks_the_inviters_server(visitor: Visitor, alice: Client) -> None:
    visitor.peer.answer("PUT", "/_matrix/federation/v1/exchange_third_party_invite/", {})
    about = {"medium": "email", "address": "a@example.org", "mxid": alice.user_id}
    room_id, sender = f"!room:{visitor.name}", visitor.user("bob")
    pending = {**about, "room_id": room_id, "sender": sender, "signed": signed_for(alice.user_id)}
    response = visitor.hearth.ask("PUT", "/_matrix/federation/v1/3pid/onbind", {**about, "invites": [pending] * 100})
    assert response.status_code == 200
    asked = visitor.peer.received("/_matrix/federation/v1/exchange_third_party_invite/")
    assert 1 <= len(asked) <= 20
    assert asked[0].json["state_key"] == alice.user_id and asked[0].json["sender"] == sender
    assert asked[0].json["content"]["third_party_invite"]["signed"] == signed_for(alice.user_id)
    other = {**about, "mxid": sender, "invites": []}
    assert visitor.hearth.ask("PUT", "/_matrix/federation/v1/3pid/onbind", other).status_code == 404


def test_exchange_of_what_nobody_has_a_right_to(visitor: Visitor, alice: Client) -> None:
    room_id, bob = third_party_room(visitor, alice), visitor.user("bob")

    def body(**changes: Any) -> dict[str, Any]:
        signed = changes.pop("signed", signed_for(bob))
        content = {"membership": "invite", "third_party_invite": {"display_name": "b", "signed": signed}}
        return {
            "type": MEMBER,
            "room_id": room_id,
            "sender": alice.user_id,
            "state_key": bob,
            "content": content,
            **changes,
        }

    for wrong in (
        body(state_key=alice.user_id),
        body(state_key="@x:elsewhere.example"),
        body(type="m.room.name"),
        body(room_id="!other:x"),
        body(sender=bob),
        body(sender=7),
        body(signed=signed_for(visitor.user("carl"))),
        body(signed={}),
        body(signed=signed_for(bob, "other")),
        body(content={}),
        body(content={"membership": "join"}),
        {},
    ):
        visitor.put("/v1/exchange_third_party_invite/{}", wrong, at=[room_id], expect=[400, 403])
    alice.get_state(room_id, "m.room.member", bob, expect="M_NOT_FOUND")
    visitor.put("/v1/exchange_third_party_invite/{}", body(), at=["!nothing:x.example"], expect="M_NOT_FOUND")


@pytest.mark.parametrize("version", ["6", "11", "12"])
def test_other_servers_user_who_bound_an_address_is_invited(visitor: Visitor, alice: Client, version: str) -> None:
    room_id, bob = third_party_room(visitor, alice, version=version), visitor.user("bob")
    asked: list[Any] = []

    def sign(received: Received) -> Any:
        asked.append(received.json)
        invite = parse_pdu(dict(received.json["event"]), ROOM_VERSIONS[version])
        return {"event": add_signature(invite, visitor.peer.key, visitor.peer.server_name).json}

    visitor.peer.answer("PUT", "/_matrix/federation/v2/invite/", sign)
    event = {
        "type": MEMBER,
        "room_id": room_id,
        "sender": alice.user_id,
        "state_key": bob,
        "content": {"membership": "invite", "third_party_invite": {"display_name": "x", "signed": signed_for(bob)}},
    }
    for _ in range(2):  # the second has nothing to do
        assert visitor.put("/v1/exchange_third_party_invite/{}", event, at=[room_id]) == {}
    assert len(asked) == 1 and asked[0]["room_version"] == version
    member = alice.get_state(room_id, MEMBER, bob)
    assert member["membership"] == "invite"
    assert member["third_party_invite"] == {"display_name": "c...@example.org", "signed": signed_for(bob)}
    visitor.join(room_id, bob)
    assert alice.get_state(room_id, MEMBER, bob)["membership"] == "join"


def listed(client: Client, **filters: Any) -> set[str]:
    """The rooms of a list of sliding sync with the filters."""
    path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
    wanted = {"ranges": [[0, 20]], "timeline_limit": 1, "required_state": [], "filters": filters}
    return set(client.post(path, {"lists": {"all": wanted}})["rooms"])


def test_filters_of_lists_look_at_what_the_invite_tells_of_the_room(visitor: Visitor, alice: Client) -> None:
    space, plain = PeerRoom.create(visitor.peer, "12", type="m.space"), PeerRoom.create(visitor.peer, "12")
    encryption = plain.send("m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"}, "")
    invite(visitor, space, build_invite(space, alice.user_id))
    told = [event.json for event in (*plain.shown(), encryption)]
    invite(visitor, plain, build_invite(plain, alice.user_id), body={"invite_room_state": told})
    assert listed(alice) == {space.room_id, plain.room_id}
    assert listed(alice, room_types=["m.space"]) == listed(alice, is_encrypted=False) == {space.room_id}
    assert listed(alice, not_room_types=["m.space"]) == listed(alice, room_types=[None]) == {plain.room_id}
    assert listed(alice, is_encrypted=True) == {plain.room_id}


def test_lists_stand_a_room_whose_type_is_none(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    alice, room = hearth.register("alice"), PeerRoom.create(peer, "11", type=["m.space"]).serve()
    alice.post("/join/{}", {}, at=[room.room_id], query={"via": [peer.server_name]})
    assert listed(alice, not_room_types=["m.space"]) == listed(alice, room_types=[None]) == {room.room_id}
    assert listed(alice, room_types=["m.space"]) == set()
