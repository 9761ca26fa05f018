"""Spec: client-server-api#room-membership"""

from __future__ import annotations

from typing import Any

import pytest
from nacl.signing import SigningKey as NaclKey

from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.hashing import encode_base64
from homeserver.matrix.ids import RoomId
from homeserver.store.account_data import save_account_data
from tests.rooms.fixtures import server
from tests.rooms.harness import ALICE, BOB, CAROL, GUEST, V3, RoomsServer, in_path

__all__ = ["server"]


def public(server: RoomsServer, **body: Any) -> RoomId:
    return server.create(preset="public_chat", **body)


def joined(server: RoomsServer, room: RoomId, *users: str) -> None:
    for user_id in users:
        assert server.do("join", room, user_id).status == 200


def restricted(server: RoomsServer, rule: str = "restricted", **body: Any) -> tuple[RoomId, RoomId]:
    """(a room, and the room whose members may join it)."""
    parent = public(server)
    rules = {"join_rule": rule, "allow": [{"type": "m.room_membership", "room_id": parent}]}
    return server.create(initial_state=[{"type": "m.room.join_rules", "content": rules}], **body), parent


def test_join_by_alias_and_twice(server: RoomsServer) -> None:
    room = public(server, room_alias_name="place")
    server.profiles.known[BOB] = {"displayname": "Bob"}
    answer = server.post(f"/join/{in_path('#place:test.example')}?via=x.example", {"reason": "hi"}, BOB)
    assert (answer.status, answer.json) == (200, {"room_id": room})
    assert server.member(room, BOB) == {"membership": "join", "displayname": "Bob", "reason": "hi"}
    events = len(server.timeline(room))
    assert server.do("join", room, BOB).json == {"room_id": room}
    assert len(server.timeline(room)) == events
    assert server.get(f"{V3}/joined_rooms", BOB).json == {"joined_rooms": [room]}


@pytest.mark.parametrize(
    ("path", "status", "errcode"),
    [
        ("/join/nonsense", 400, "M_INVALID_PARAM"),
        ("/join/%23no%3Atest.example", 404, "M_NOT_FOUND"),
        ("/join/%23no%3Aelse.example", 404, "M_NOT_FOUND"),
        ("/join/!no%3Aelse.example", 404, "M_NOT_FOUND"),
        ("/join/!no%3Aelse.example?via=%20", 400, "M_INVALID_PARAM"),
        ("/knock/!no%3Aelse.example", 404, "M_NOT_FOUND"),
        ("/rooms/!no%3Aelse.example/leave", 404, "M_NOT_FOUND"),
    ],
)
def test_rooms_that_are_not_there(server: RoomsServer, path: str, status: int, errcode: str) -> None:
    answer = server.post(path)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_a_private_room_takes_an_invite(server: RoomsServer) -> None:
    room = server.create()
    assert server.do("join", room, BOB).errcode == "M_FORBIDDEN"
    assert server.act("invite", room, BOB, reason="come").status == 200
    assert server.member(room, BOB) == {"membership": "invite", "reason": "come"}
    events = len(server.timeline(room))
    assert server.act("invite", room, BOB).status == 200
    assert len(server.timeline(room)) == events
    joined(server, room, BOB)
    assert server.act("invite", room, BOB).errcode == "M_FORBIDDEN"


def test_invites_by_those_who_may_not(server: RoomsServer) -> None:
    room = public(server)
    assert server.act("invite", room, CAROL, BOB).errcode == "M_FORBIDDEN"
    joined(server, room, BOB)
    assert server.act("invite", room, CAROL, BOB).errcode == "M_FORBIDDEN"
    assert server.act("invite", RoomId("!no:test.example"), CAROL, BOB).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_MISSING_PARAM"),
        ({"user_id": 5}, 400, "M_BAD_JSON"),
        ({"user_id": "bob"}, 400, "M_INVALID_PARAM"),
        ({"user_id": BOB, "reason": []}, 400, "M_BAD_JSON"),
        ({"medium": "email", "address": "a@b.example"}, 400, "M_MISSING_PARAM"),
        (
            {"medium": "email", "address": "a@b.example", "id_server": "i", "id_access_token": "t"},
            403,
            "M_SERVER_NOT_TRUSTED",
        ),
        ({"user_id": "@x:else.example"}, 403, "M_FORBIDDEN"),
    ],
)
def test_bad_invites(server: RoomsServer, body: dict[str, Any], status: int, errcode: str) -> None:
    answer = server.post(f"/rooms/{in_path(server.create())}/invite", body)
    assert (answer.status, answer.errcode) == (status, errcode)


def test_who_blocks_invites_gets_none(server: RoomsServer) -> None:
    server.wait(
        server.database.run(save_account_data, BOB, "", "m.invite_permission_config", b'{"default_action":"block"}', 1)
    )
    room = server.create()
    assert server.act("invite", room, BOB).errcode == "M_INVITE_BLOCKED"
    assert server.post("/createRoom", {"invite": [CAROL, BOB]}).errcode == "M_INVITE_BLOCKED"


def test_who_blocks_invites_while_invited_is_not_invited_again(server: RoomsServer) -> None:
    room = server.create(invite=[BOB])
    assert server.act("invite", room, BOB).status == 200
    server.wait(
        server.database.run(save_account_data, BOB, "", "m.invite_permission_config", b'{"default_action":"block"}', 1)
    )
    assert server.act("invite", room, BOB).errcode == "M_INVITE_BLOCKED"


def test_refusing_an_invite_and_leaving(server: RoomsServer) -> None:
    room = server.create(invite=[BOB])
    assert server.do("leave", room, BOB, reason="no").status == 200
    assert server.member(room, BOB) == {"membership": "leave", "reason": "no"}
    assert server.do("leave", room, BOB).status == 200
    assert server.do("leave", room, CAROL).errcode == "M_FORBIDDEN"
    assert server.do("leave", room, ALICE).status == 200


def test_an_empty_public_room_can_be_joined_again(server: RoomsServer) -> None:
    room = public(server)
    server.do("leave", room, ALICE)
    joined(server, room, ALICE)


def test_kicking(server: RoomsServer) -> None:
    room = public(server)
    assert server.act("kick", room, BOB).errcode == "M_FORBIDDEN"
    joined(server, room, BOB, CAROL)
    assert server.act("kick", room, CAROL, BOB).errcode == "M_FORBIDDEN"
    assert server.act("kick", room, BOB, reason="spam").status == 200
    assert server.member(room, BOB) == {"membership": "leave", "reason": "spam"}


def test_banning_and_unbanning(server: RoomsServer) -> None:
    room = public(server)
    assert server.act("unban", room, BOB).errcode == "M_BAD_STATE"
    assert server.act("ban", room, BOB, reason="spam").status == 200
    assert server.do("join", room, BOB).errcode == "M_FORBIDDEN"
    assert server.act("invite", room, BOB).errcode == "M_FORBIDDEN"
    assert server.act("kick", room, BOB).errcode == "M_BAD_STATE"
    events = len(server.timeline(room))
    assert server.act("ban", room, BOB, reason="spam").status == 200
    assert len(server.timeline(room)) == events
    assert server.act("unban", room, BOB).status == 200
    joined(server, room, BOB)


def test_forgetting(server: RoomsServer) -> None:
    room = public(server)
    joined(server, room, BOB)
    assert server.do("forget", room, BOB).status == 400
    assert server.do("forget", room, CAROL).status == 400
    server.do("leave", room, BOB)
    assert server.do("forget", room, BOB).status == 200
    assert server.do("forget", room, BOB).status == 200
    assert [row.kind for row in server.rows].count("forgotten") == 1
    assert server.wait(server.memberships.load(BOB))[room].forgotten
    joined(server, room, BOB)
    assert not server.wait(server.memberships.load(BOB))[room].forgotten


def test_knocking(server: RoomsServer) -> None:
    room = server.create(initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}])
    answer = server.post(f"/knock/{in_path(room)}", {"reason": "please"}, BOB)
    assert (answer.status, answer.json) == (200, {"room_id": room})
    assert server.member(room, BOB) == {"membership": "knock", "reason": "please"}
    assert server.do("leave", room, BOB).status == 200
    server.post(f"/knock/{in_path(room)}", {}, BOB)
    assert server.act("invite", room, BOB).status == 200
    joined(server, room, BOB)
    assert server.post(f"/knock/{in_path(room)}", {}, BOB).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize("version", ["6", "11"])
def test_nobody_knocks_where_nobody_may(server: RoomsServer, version: str) -> None:
    room = server.create(room_version=version)
    assert server.post(f"/knock/{in_path(room)}", {}, BOB).errcode == "M_FORBIDDEN"


@pytest.mark.parametrize(("version", "rule"), [("8", "restricted"), ("10", "knock_restricted"), ("12", "restricted")])
def test_members_of_another_room_join_a_restricted_one(server: RoomsServer, version: str, rule: str) -> None:
    room, parent = restricted(server, rule, room_version=version)
    assert server.do("join", room, BOB).errcode == "M_FORBIDDEN"
    joined(server, parent, BOB)
    joined(server, room, BOB)
    assert server.member(room, BOB) == {"membership": "join", "join_authorised_via_users_server": ALICE}


def test_a_restricted_room_takes_invites_without_vouching(server: RoomsServer) -> None:
    room, _ = restricted(server, invite=[BOB])
    joined(server, room, BOB)
    assert server.member(room, BOB) == {"membership": "join"}


def test_nobody_with_the_power_to_let_in(server: RoomsServer) -> None:
    room, parent = restricted(server, room_version="11", power_level_content_override={"invite": 100}, invite=[CAROL])
    joined(server, parent, BOB)
    joined(server, room, CAROL)
    server.do("leave", room, ALICE)
    answer = server.do("join", room, BOB)
    assert (answer.status, answer.errcode) == (400, "M_UNABLE_TO_GRANT_JOIN")


def test_guests_join_only_where_guests_may(server: RoomsServer) -> None:
    closed = public(server)
    assert server.do("join", closed, GUEST).errcode == "M_GUEST_ACCESS_FORBIDDEN"
    server.send_state(closed, "m.room.guest_access", {"guest_access": "can_join"})
    joined(server, closed, GUEST)


def test_suspended_users_leave_but_do_not_join(server: RoomsServer) -> None:
    room = public(server, invite=["@suspended:test.example"])
    assert server.do("join", room, "@suspended:test.example").errcode == "M_USER_SUSPENDED"
    assert server.do("leave", room, "@suspended:test.example").status == 200


def test_a_third_party_invite_is_taken_up_with_its_signature(server: RoomsServer) -> None:
    room = server.create()
    key = NaclKey(b"k" * 32)
    public_key = encode_base64(bytes(key.verify_key))
    invite = {"display_name": "b…", "public_key": public_key}
    unasked = {**invite, "key_validity_url": "https://i/"}
    server.send_state(room, "m.room.third_party_invite", unasked, state_key="tok")
    signed: dict[str, Any] = {"mxid": BOB, "sender": ALICE, "token": "tok"}
    signature = encode_base64(key.sign(canonical_json(signed)).signature)
    wrong = {**signed, "signatures": {"i": {"ed25519:0": encode_base64(bytes(64))}}}
    assert server.do("join", room, BOB, third_party_signed=wrong).errcode == "M_FORBIDDEN"
    right = {**signed, "signatures": {"i": {"ed25519:0": signature}}}
    # Where a server does not federate, there is no way to ask whether the key holds.
    assert server.do("join", room, BOB, third_party_signed=right).errcode == "M_FORBIDDEN"
    server.send_state(room, "m.room.third_party_invite", invite, state_key="tok")
    assert server.do("join", room, BOB, third_party_signed=right).status == 200
    assert server.member(room, BOB) == {"membership": "join"}


def change(server: RoomsServer, room: RoomId, target: str, content: dict[str, Any], user_id: str = ALICE) -> Any:
    requester = server.site_requester(user_id)
    return server.wait(server.membership.change(requester, room, target, content))


def test_put_state_changes_ones_own_name_in_a_room_once(server: RoomsServer) -> None:
    room = server.create()
    first = change(server, room, ALICE, {"membership": "join", "displayname": "Boss"})
    assert server.member(room, ALICE) == {"membership": "join", "displayname": "Boss"}
    assert change(server, room, ALICE, {"membership": "join", "displayname": "Boss"}) == first


def test_put_state_never_takes_a_voucher_from_a_client(server: RoomsServer) -> None:
    room = public(server)
    change(server, room, BOB, {"membership": "join", "join_authorised_via_users_server": ALICE}, BOB)
    assert server.member(room, BOB) == {"membership": "join"}


@pytest.mark.parametrize(
    ("target", "content", "errcode"),
    [
        (ALICE, {}, "M_MISSING_PARAM"),
        (ALICE, {"membership": "here"}, "M_BAD_JSON"),
        (ALICE, {"membership": 1}, "M_BAD_JSON"),
        ("nobody", {"membership": "ban"}, "M_INVALID_PARAM"),
        (BOB, {"membership": "join"}, "M_FORBIDDEN"),
        (BOB, {"membership": "knock"}, "M_FORBIDDEN"),
    ],
)
def test_put_state_with_bad_memberships(
    server: RoomsServer, target: str, content: dict[str, Any], errcode: str
) -> None:
    room = server.create()
    with pytest.raises(Exception) as raised:
        change(server, room, target, content)
    assert raised.value.errcode == errcode  # type: ignore[attr-defined]


def test_concurrent_joins_make_one_event(server: RoomsServer) -> None:
    from twisted.internet.defer import Deferred, gatherResults

    room = public(server)
    before = len(server.timeline(room))
    requester = server.site_requester(BOB)
    joins = [Deferred.fromCoroutine(server.membership.join(requester, room)) for _ in range(5)]
    server.wait(gatherResults(joins))
    assert len(server.timeline(room)) == before + 1


def test_a_deactivated_user_leaves_everything(server: RoomsServer) -> None:
    in_room, invited = public(server), server.create(invite=[BOB])
    joined(server, in_room, BOB)
    server.wait(server.departures.leave_all_rooms(BOB))
    assert server.membership_of(in_room, BOB) == server.membership_of(invited, BOB) == "leave"


def test_a_new_name_goes_into_all_rooms(server: RoomsServer) -> None:
    rooms = [public(server) for _ in range(20)]
    left = public(server)
    server.do("leave", left, ALICE)
    server.profiles.known[ALICE] = {"displayname": "Queen"}
    server.wait(server.room_profiles.propagate(ALICE, "displayname", "Queen"))
    assert all(server.member(room, ALICE) == {"membership": "join", "displayname": "Queen"} for room in rooms)
    assert server.member(left, ALICE) == {"membership": "leave"}
    server.wait(server.room_profiles.stop())
