"""Inviting people by an e-mail address, over an identity server that may be slow, wrong or hostile."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.identity_server import V2, VALIDITY, IdentityServer
from tests.federation.resident import MEMBER
from tests.kit.client import Client
from tests.kit.federation import Answer

THIRD_PARTY = "m.room.third_party_invite"
BOB = "bob@example.org"


@pytest.fixture
def identity(start_peer: Any) -> IdentityServer:
    return IdentityServer.start(start_peer())


@pytest.fixture
def alice(start_federated: Any) -> Client:
    client: Client = start_federated().register("alice")
    return client


def invite(client: Client, room_id: str, body: Any, **about: Any) -> Any:
    return client.post("/rooms/{}/invite", body, at=[room_id], **about)


def pending(client: Client, room_id: str) -> dict[str, Any]:
    state = client.get("/rooms/{}/state", at=[room_id])
    return {event["state_key"]: event["content"] for event in state if event["type"] == THIRD_PARTY}


def invited_rooms(client: Client) -> list[str]:
    return list(client.sync(since=None).get("rooms", {}).get("invite", {}))


def test_lookup_hashes_as_the_specification_says(identity: IdentityServer) -> None:
    """Spec: identity-service-api#sha256"""
    assert identity.hash("alice@example.com") == "4kenr7N9drpCJ4AfalmlGQVsOn3o2RHjkADUpXJWZUc"


def test_unknown_address_gets_a_letter_and_waits_in_the_room(alice: Client, identity: IdentityServer) -> None:
    room_id = alice.create_room(name="Den", room_version="11")
    assert invite(alice, room_id, identity.invite("Bob@Example.ORG")) == {}
    (letter,) = identity.stored
    assert letter == {
        "medium": "email",
        "address": BOB,
        "room_id": room_id,
        "sender": alice.user_id,
        "room_name": "Den",
        "room_join_rules": "invite",
        **({"sender_display_name": letter["sender_display_name"]} if "sender_display_name" in letter else {}),
    }
    waiting = pending(alice, room_id)["token1"]
    assert waiting["display_name"] == "b...@e..."
    assert waiting["public_key"] == waiting["public_keys"][0]["public_key"] == identity.key.verify_key.to_base64()
    assert waiting["key_validity_url"].startswith("https://")
    asked = identity.peer.requests
    assert [each.path for each in asked] == [f"{V2}/hash_details", f"{V2}/lookup", f"{V2}/store-invite"]
    assert {each.headers["authorization"] for each in asked} == {"Bearer secret"}
    assert BOB not in str(asked[1].body)


def test_who_proves_the_address_later_is_invited(start_federated: Any, identity: IdentityServer) -> None:
    hearth = start_federated()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room_id = alice.create_room()
    invite(alice, room_id, identity.invite(BOB))
    about = {"medium": "email", "address": BOB, "mxid": bob.user_id}
    signed = identity.sign(bob.user_id, alice.user_id, "token1")
    bound = {**about, "invites": [{**about, "room_id": room_id, "sender": alice.user_id, "signed": signed}]}
    assert hearth.ask("PUT", "/_matrix/federation/v1/3pid/onbind", bound).status_code == 200
    assert invited_rooms(bob) == [room_id]


def test_user_whose_address_is_known_is_invited(start_federated: Any, identity: IdentityServer) -> None:
    hearth = start_federated()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    identity.bound[BOB] = bob.user_id
    room_id = alice.create_room()
    invite(alice, room_id, identity.invite(BOB, reason="Come"))
    assert alice.get_state(room_id, MEMBER, bob.user_id)["reason"] == "Come"
    assert (identity.stored, pending(alice, room_id)) == ([], {})
    assert invited_rooms(bob) == [room_id]


def test_address_that_was_bound_since_the_lookup(start_federated: Any, identity: IdentityServer) -> None:
    hearth = start_federated()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    known = {"errcode": "M_THREEPID_IN_USE", "error": "Known", "mxid": bob.user_id}
    identity.peer.answer("POST", f"{V2}/store-invite", known, status=400)
    room_id = alice.create_room()
    invite(alice, room_id, identity.invite(BOB))
    assert invited_rooms(bob) == [room_id]


def test_room_is_made_with_people_invited_by_address(start_federated: Any, identity: IdentityServer) -> None:
    hearth = start_federated()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    identity.bound[BOB] = bob.user_id
    people = [identity.invite(BOB), identity.invite("carol@example.org"), identity.invite("carol@example.org")]
    room_id = alice.create_room(preset="trusted_private_chat", room_version="11", invite_3pid=people, is_direct=True)
    member = alice.get_state(room_id, MEMBER, bob.user_id)
    assert (member["membership"], member["is_direct"]) == ("invite", True)
    assert alice.get_state(room_id, "m.room.power_levels")["users"][bob.user_id] == 100
    assert list(pending(alice, room_id)) == ["token1"]
    assert [each["address"] for each in identity.stored] == ["carol@example.org"]


def test_room_is_not_made_when_the_identity_server_fails_before(alice: Client, identity: IdentityServer) -> None:
    identity.peer.answer("GET", f"{V2}/hash_details", {}, status=500)
    alice.post("/createRoom", {"invite_3pid": [identity.invite(BOB)]}, expect=502)
    assert alice.get("/joined_rooms") == {"joined_rooms": []}
    many = [identity.invite(f"{number}@example.org") for number in range(21)]
    assert alice.post("/createRoom", {"invite_3pid": many}, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_room_is_there_when_the_letter_can_not_be_written(alice: Client, identity: IdentityServer) -> None:
    identity.peer.answer("POST", f"{V2}/store-invite", {}, status=500)
    room_id = alice.create_room(invite_3pid=[identity.invite(BOB)])
    assert pending(alice, room_id) == {}


def test_pepper_that_changed_is_asked_for_again(alice: Client, identity: IdentityServer) -> None:
    changed: list[Any] = []

    def lookup(received: Any) -> Any:
        changed.append(received)
        if len(changed) == 1:
            return Answer({"errcode": "M_INVALID_PEPPER", "error": "Rotated"}, 400)
        return identity.lookup(received)

    identity.peer.answer("POST", f"{V2}/lookup", lookup)
    room_id = alice.create_room()
    invite(alice, room_id, identity.invite(BOB))
    assert list(pending(alice, room_id)) == ["token1"]


# -- who may -------------------------------------------------------------------------------------------------------------


def test_who_may_not_invite_has_nobody_asked(start_federated: Any, identity: IdentityServer) -> None:
    hearth = start_federated()
    alice, bob, carol = (hearth.register(name) for name in ("alice", "bob", "carol"))
    room_id = alice.create_room(preset="public_chat", power_level_content_override={"invite": 50})
    bob.join(room_id)
    for client, room in ((bob, room_id), (carol, room_id), (carol, "!nothing:example.org")):
        assert invite(client, room, identity.invite(BOB), expect=403)["errcode"] == "M_FORBIDDEN"
    assert identity.peer.requests == []


@pytest.mark.parametrize("settings", [{"enabled": False}, {"allowed": ["id.example.org", "localhost"]}])
def test_identity_server_that_the_admin_does_not_name_is_not_asked(
    start_federated: Any, identity: IdentityServer, settings: dict[str, Any]
) -> None:
    alice = start_federated(settings={"identity_servers": settings}).register("alice")
    room_id = alice.create_room()
    assert invite(alice, room_id, identity.invite(BOB), expect=403)["errcode"] == "M_SERVER_NOT_TRUSTED"
    body = {"invite_3pid": [identity.invite(BOB)]}
    assert alice.post("/createRoom", body, expect=403)["errcode"] == "M_SERVER_NOT_TRUSTED"
    assert identity.peer.requests == []


def test_identity_server_that_the_admin_names_is_asked(start_federated: Any, identity: IdentityServer) -> None:
    allowed = {"allowed": [identity.peer.server_name.upper()]}
    alice = start_federated(settings={"identity_servers": allowed}).register("alice")
    room_id = alice.create_room()
    invite(alice, room_id, identity.invite(BOB))
    assert list(pending(alice, room_id)) == ["token1"]


def test_private_addresses_are_not_asked_and_nothing_is_told_of_them(
    start_federated: Any, identity: IdentityServer
) -> None:
    alice = start_federated(settings={"federation": {"allow_private_addresses": False}}).register("alice")
    room_id = alice.create_room()
    there, nothing = identity.peer.server_name, "localhost:1"
    errors = [invite(alice, room_id, identity.invite(BOB, id_server=name), expect=502) for name in (there, nothing)]
    assert errors[0]["error"].replace(there, "x") == errors[1]["error"].replace(nothing, "x")
    assert identity.peer.requests == []


@pytest.mark.parametrize(
    ("changes", "errcode"),
    [
        ({"id_server": "https://id.example.org"}, "M_INVALID_PARAM"),
        ({"id_server": "id.example.org/path"}, "M_INVALID_PARAM"),
        ({"id_server": "user@id.example.org"}, "M_INVALID_PARAM"),
        ({"id_access_token": "a\r\nX: y"}, "M_INVALID_PARAM"),
        ({"id_access_token": ""}, "M_INVALID_PARAM"),
        ({"medium": "pigeon"}, "M_INVALID_PARAM"),
        ({"medium": "msisdn"}, "M_INVALID_PARAM"),
        ({"address": "bob"}, "M_INVALID_PARAM"),
        ({"address": "bob@example.org email"}, "M_INVALID_PARAM"),
        ({"address": "b" * 600 + "@example.org"}, "M_INVALID_PARAM"),
        ({"address": None}, "M_MISSING_PARAM"),
        ({"address": 5}, "M_BAD_JSON"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_malformed_invite_is_refused(
    alice: Client, identity: IdentityServer, changes: dict[str, Any], errcode: str
) -> None:
    room_id = alice.create_room()
    body = {**identity.invite(BOB), **changes}
    assert invite(alice, room_id, body, expect=400)["errcode"] == errcode
    assert identity.peer.requests == []


# -- what identity servers answer ----------------------------------------------------------------------------------------


def error(errcode: str, status: int) -> Answer:
    return Answer({"errcode": errcode, "error": "No"}, status)


KEY = {"public_key": "a", "key_validity_url": "https://id.example.org"}
STORED = {"token": "token", "public_keys": [KEY], "display_name": "b..."}


@pytest.mark.parametrize(
    ("path", "answer", "status", "errcode"),
    [
        ("hash_details", error("M_TERMS_NOT_SIGNED", 403), 403, "M_TERMS_NOT_SIGNED"),
        ("hash_details", error("M_UNAUTHORIZED", 401), 403, "M_FORBIDDEN"),
        ("hash_details", error("M_UNKNOWN_TOKEN", 401), 403, "M_FORBIDDEN"),
        ("hash_details", Answer(b"<html>", 200), 502, "M_UNKNOWN"),
        ("hash_details", Answer([], 200), 502, "M_UNKNOWN"),
        ("hash_details", Answer({"lookup_pepper": 5, "algorithms": ["sha256"]}), 502, "M_UNKNOWN"),
        ("hash_details", Answer({"lookup_pepper": "x", "algorithms": ["md5"]}), 502, "M_UNKNOWN"),
        ("hash_details", Answer(b" " * 1_000_000 + b"{}"), 502, "M_UNKNOWN"),
        ("hash_details", Answer({}, 302, {"Location": "https://localhost:1/"}), 502, "M_UNKNOWN"),
        ("lookup", Answer({"mappings": []}), 502, "M_UNKNOWN"),
        ("lookup", error("M_INVALID_PEPPER", 400), 502, "M_UNKNOWN"),
        ("store-invite", error("M_UNRECOGNIZED", 400), 400, "M_INVALID_PARAM"),
        ("store-invite", error("M_THREEPID_IN_USE", 400), 502, "M_UNKNOWN"),
        ("store-invite", error("M_LIMIT_EXCEEDED", 429), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "token": "a/b"}), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "token": ""}), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "public_keys": []}), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "public_keys": [KEY, {"public_key": 5}]}), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "display_name": None}), 502, "M_UNKNOWN"),
        ("store-invite", Answer({**STORED, "display_name": "x" * 10_000}), 502, "M_UNKNOWN"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_answer_that_is_of_no_use_is_told_plainly(
    alice: Client, identity: IdentityServer, path: str, answer: Answer, status: int, errcode: str
) -> None:
    identity.peer.answer("GET", f"{V2}/{path}", answer)
    identity.peer.answer("POST", f"{V2}/{path}", answer)
    room_id = alice.create_room()
    assert invite(alice, room_id, identity.invite(BOB), expect=status)["errcode"] == errcode
    assert pending(alice, room_id) == {}


def test_lookup_that_names_no_user_is_of_no_use(alice: Client, identity: IdentityServer) -> None:
    identity.bound[BOB] = "bob"
    assert invite(alice, alice.create_room(), identity.invite(BOB), expect=502)["errcode"] == "M_UNKNOWN"


def test_identity_server_that_is_down(alice: Client, identity: IdentityServer) -> None:
    identity.peer.stop()
    assert invite(alice, alice.create_room(), identity.invite(BOB), expect=502)["errcode"] == "M_UNKNOWN"


# -- taking such an invite up on another server --------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_signed_invite_is_taken_up_through_the_inviters_server(
    start_federated: Any, identity: IdentityServer, version: str
) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob = one.register("alice"), two.register("bob")
    room_id = alice.create_room(room_version=version, preset="private_chat")
    invite(alice, room_id, identity.invite(BOB))
    signed = identity.sign(bob.user_id, alice.user_id, "token1")
    wrong = {**signed, "token": "another"}
    about: dict[str, Any] = {"at": [room_id], "query": {"via": [one.server_name]}}
    assert bob.post("/join/{}", {"third_party_signed": wrong}, expect=403, **about)["errcode"] == "M_FORBIDDEN"
    bob.post("/join/{}", {"third_party_signed": signed}, **about)
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"


def test_signed_invite_is_taken_up_where_this_server_is_in_the_room(
    start_federated: Any, identity: IdentityServer
) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob, carol = one.register("alice"), two.register("bob"), two.register("carol")
    room_id = alice.create_room(preset="private_chat", invite=[carol.user_id])
    invite(alice, room_id, identity.invite(BOB))
    carol.join(room_id)
    signed = identity.sign(bob.user_id, alice.user_id, "token1")
    bob.post("/rooms/{}/join", {"third_party_signed": signed}, at=[room_id])
    assert carol.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"


def test_invite_that_is_signed_for_somebody_else_is_not_taken_up(
    start_federated: Any, identity: IdentityServer
) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob, carol = one.register("alice"), two.register("bob"), two.register("carol")
    room_id = alice.create_room(preset="private_chat")
    invite(alice, room_id, identity.invite(BOB))
    signed = identity.sign(carol.user_id, alice.user_id, "token1")
    bob.post("/rooms/{}/join", {"third_party_signed": signed}, at=[room_id], expect=403)


# -- keys that hold no more ----------------------------------------------------------------------------------------------


def test_invite_that_is_signed_with_a_revoked_key_is_not_taken_up(
    start_federated: Any, identity: IdentityServer
) -> None:
    one, two = start_federated("one"), start_federated("two")
    alice, bob, carol = one.register("alice"), two.register("bob"), one.register("carol")
    room_id = alice.create_room(preset="private_chat")
    for address in (BOB, "carol@example.org"):
        invite(alice, room_id, identity.invite(address))
    by_bob = {"third_party_signed": identity.sign(bob.user_id, alice.user_id, "token1")}
    by_carol = {"third_party_signed": identity.sign(carol.user_id, alice.user_id, "token2")}
    about: dict[str, Any] = {"at": [room_id], "query": {"via": [one.server_name]}}
    identity.is_revoked = True
    assert bob.post("/join/{}", by_bob, expect=403, **about)["errcode"] == "M_FORBIDDEN"
    assert carol.post("/join/{}", by_carol, expect=403, at=[room_id])["errcode"] == "M_FORBIDDEN"
    bound = {"medium": "email", "address": "carol@example.org", "mxid": carol.user_id}
    about_carol = {**bound, "room_id": room_id, "sender": alice.user_id, "signed": by_carol["third_party_signed"]}
    body = {**bound, "invites": [about_carol]}
    assert one.ask("PUT", "/_matrix/federation/v1/3pid/onbind", body).status_code == 200
    assert invited_rooms(carol) == []
    identity.is_revoked = False
    bob.post("/join/{}", by_bob, **about)
    carol.post("/join/{}", by_carol, at=[room_id])
    assert alice.get_state(room_id, MEMBER, bob.user_id)["membership"] == "join"
    assert alice.get_state(room_id, MEMBER, carol.user_id)["membership"] == "join"


@pytest.mark.parametrize(
    ("answer", "errcode"),
    [
        (Answer({"valid": "yes"}), "M_FORBIDDEN"),
        (Answer({}), "M_FORBIDDEN"),
        (Answer({"valid": True}, 404), "M_UNKNOWN"),
        (Answer({"valid": True}, 302, {"Location": "https://localhost:1/"}), "M_UNKNOWN"),
        (Answer(b"true"), "M_UNKNOWN"),
        (Answer(b"<html>"), "M_UNKNOWN"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_key_holds_only_where_its_server_says_so(
    start_federated: Any, identity: IdentityServer, answer: Answer, errcode: str
) -> None:
    hearth = start_federated()
    alice, bob = hearth.register("alice"), hearth.register("bob")
    room_id = alice.create_room(preset="private_chat")
    invite(alice, room_id, identity.invite(BOB))
    identity.peer.answer("GET", VALIDITY, answer)
    signed = identity.sign(bob.user_id, alice.user_id, "token1")
    bob.post("/join/{}", {"third_party_signed": signed}, at=[room_id], expect=errcode)
    assert [each.path for each in identity.peer.received(VALIDITY)] == [VALIDITY]


@pytest.mark.parametrize("url", ["http://{}/", "https://user@{}/", "https://{}/a b", "//{}/", "{}", "https://[", "", 5])
def test_key_is_asked_for_over_https_only(alice: Client, identity: IdentityServer, url: Any) -> None:
    room_id = alice.create_room(preset="private_chat")
    url = url.format(identity.peer.server_name) if isinstance(url, str) else url
    public = identity.key.verify_key.to_base64()
    content = {"display_name": "b", "public_key": public, "public_keys": [{"public_key": public}]}
    alice.set_state(room_id, THIRD_PARTY, {**content, "key_validity_url": url}, "token")
    bob = Client(alice.base_url)
    bob.register("bob", "a long password")
    signed = identity.sign(bob.user_id, alice.user_id, "token")
    bob.post("/join/{}", {"third_party_signed": signed}, at=[room_id], expect="M_FORBIDDEN")
    assert identity.peer.requests == []
