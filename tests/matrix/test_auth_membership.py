"""The authorisation rules for memberships (rule 5), each with an event that passes and one that fails."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from nacl.signing import SigningKey

from homeserver.matrix.auth_rules import check_auth
from homeserver.matrix.canonical import canonical_json
from homeserver.matrix.errors import AuthRejected
from homeserver.matrix.versions import ROOM_VERSIONS, V1, V6, V7, V8, V9, V10, V11, V12, RoomVersion
from tests.matrix.event_factory import ALICE, BOB, CHARLIE, DAVE, ZARA, Room

ALL = list(ROOM_VERSIONS.values())
every = pytest.mark.parametrize("version", ALL, ids=repr)


def attempt(room: Room, sender: str, target: str | None, content: Any, **kwargs: Any) -> bool:
    """Whether such an m.room.member event would be allowed now; `content` may be just the membership."""
    content = {"membership": content} if isinstance(content, str) else content
    event = room.send(f"try-{room.clock}", "m.room.member", sender, content, target, state=room.state, **kwargs)
    try:
        check_auth(event, room.auth_state())
    except AuthRejected:
        return False
    return True


def room_with(version: RoomVersion, rule: str = "invite", **levels: Any) -> Room:
    """Alice in charge, Bob with 50, Charlie a plain member; then the join rule is set."""
    room = Room(version).opened()
    room.join(BOB)
    room.join(CHARLIE)
    room.levels("levels-bob", ALICE, {ALICE: 100, BOB: 50}, **levels)
    room.join_rule("rule", rule)
    return room


def put(room: Room, target: str, membership: str) -> None:
    """Set a membership without asking the rules."""
    room.member(target, target, membership, f"put-{room.clock}")


# -- 5.1, 5.8 ------------------------------------------------------------------------------------------------


@every
def test_5_1_it_is_state_and_says_a_membership(version: RoomVersion) -> None:
    room = room_with(version, "public")
    assert attempt(room, ZARA, ZARA, "join")
    assert not attempt(room, ZARA, None, "join")
    assert not attempt(room, ALICE, None, "ban")
    assert not attempt(room, ZARA, ZARA, {})


@every
@pytest.mark.parametrize("membership", ["JOIN", "", None, 1, ["join"], "dance"])
def test_5_8_other_memberships_are_unknown(version: RoomVersion, membership: object) -> None:
    assert not attempt(room_with(version, "public"), ZARA, ZARA, {"membership": membership})


# -- 5.3 join ------------------------------------------------------------------------------------------------


@every
def test_5_3_1_the_creator_joins_directly_after_create(version: RoomVersion) -> None:
    room = Room(version)
    assert attempt(room, ALICE, ALICE, "join", prev=(room.create.event_id,))
    assert not attempt(room, BOB, BOB, "join", prev=(room.create.event_id,))
    assert not attempt(room, ALICE, ALICE, "join", prev=(room.create.event_id, "$other:a.org"))
    assert not attempt(room, ALICE, ALICE, "join", prev=("$other:a.org",))


def test_5_3_1_the_creator_is_the_sender_since_v11_and_content_creator_before() -> None:
    for version, user_id in ((V10, BOB), (V11, ALICE), (V12, ALICE)):
        room = Room(version, {"creator": BOB, "additional_creators": [BOB]})
        assert attempt(room, user_id, user_id, "join", prev=(room.create.event_id,))
        other = ALICE if user_id == BOB else BOB
        assert not attempt(room, other, other, "join", prev=(room.create.event_id,))


@every
def test_5_3_2_nobody_joins_for_another(version: RoomVersion) -> None:
    assert not attempt(room_with(version, "public"), ALICE, ZARA, "join")


@every
@pytest.mark.parametrize("rule", ["public", "invite", "restricted"])
def test_5_3_3_who_is_banned_stays_out(version: RoomVersion, rule: str) -> None:
    room = room_with(version, rule)
    put(room, ZARA, "ban")
    assert not attempt(room, ZARA, ZARA, "join")


# Since which version a rule lets in who is invited.
@every
@pytest.mark.parametrize(
    ("rule", "since"),
    [
        ("invite", 1),
        ("knock", 7),
        ("restricted", 8),
        ("knock_restricted", 10),
        ("private", 99),
        ("x", 99),
        (None, 1),
    ],
)
def test_5_3_4_invited_and_joined_users_may_join(version: RoomVersion, rule: str | None, since: int) -> None:
    room = room_with(version)
    room.send("rule-2", "m.room.join_rules", ALICE, {} if rule is None else {"join_rule": rule})
    expected = int(version.identifier) >= since
    put(room, ZARA, "invite")
    assert attempt(room, ZARA, ZARA, "join") == expected
    assert attempt(room, CHARLIE, CHARLIE, "join") == expected
    assert not attempt(room, DAVE, DAVE, "join")


@every
def test_5_3_5_a_member_who_may_invite_can_vouch_since_v8(version: RoomVersion) -> None:
    room = room_with(version, "restricted", invite=50)
    join = {"membership": "join", "join_authorised_via_users_server": BOB}
    assert attempt(room, ZARA, ZARA, join) == (int(version.identifier) >= 8)


@pytest.mark.parametrize(
    ("version", "rule"),
    [(V8, "restricted"), (V9, "restricted"), (V10, "knock_restricted"), (V12, "knock_restricted")],
)
@pytest.mark.parametrize("authoriser", [CHARLIE, DAVE, ZARA, None, 7, "nobody"])
def test_5_3_5_2_others_can_not_vouch(version: RoomVersion, rule: str, authoriser: object) -> None:
    room = room_with(version, rule, invite=50)
    join = {"membership": "join", "join_authorised_via_users_server": authoriser}
    assert not attempt(room, ZARA, ZARA, join)
    assert attempt(room, ZARA, ZARA, {**join, "join_authorised_via_users_server": ALICE})


@pytest.mark.parametrize("version", [V8, V12], ids=repr)
def test_5_3_5_2_who_left_can_not_vouch(version: RoomVersion) -> None:
    room = room_with(version, "restricted", invite=50)
    put(room, BOB, "leave")
    assert not attempt(room, ZARA, ZARA, {"membership": "join", "join_authorised_via_users_server": BOB})


def test_5_3_5_knock_restricted_is_no_rule_in_v9() -> None:
    room = room_with(V9, "knock_restricted")
    assert not attempt(room, ZARA, ZARA, {"membership": "join", "join_authorised_via_users_server": ALICE})


@every
def test_5_3_6_anybody_joins_a_public_room(version: RoomVersion) -> None:
    assert attempt(room_with(version, "public"), ZARA, ZARA, "join")


@every
def test_5_3_7_without_join_rules_a_room_is_for_the_invited(version: RoomVersion) -> None:
    room = Room(version)
    room.first_join()
    assert not attempt(room, ZARA, ZARA, "join")
    put(room, ZARA, "invite")
    assert attempt(room, ZARA, ZARA, "join")


# -- 5.4 invite ----------------------------------------------------------------------------------------------


@every
def test_5_4_2_only_members_invite(version: RoomVersion) -> None:
    room = room_with(version)
    assert attempt(room, CHARLIE, ZARA, "invite")
    assert not attempt(room, DAVE, ZARA, "invite")


@every
@pytest.mark.parametrize(
    ("membership", "expected"), [("join", False), ("ban", False), ("leave", True), ("invite", True)]
)
def test_5_4_3_who_is_in_or_banned_is_not_invited(version: RoomVersion, membership: str, expected: bool) -> None:
    room = room_with(version)
    put(room, ZARA, membership)
    assert attempt(room, ALICE, ZARA, "invite") == expected


@every
def test_5_4_4_inviting_takes_the_invite_level(version: RoomVersion) -> None:
    room = room_with(version, invite=50)
    assert attempt(room, BOB, ZARA, "invite")
    assert not attempt(room, CHARLIE, ZARA, "invite")


IDENTITY_KEY = SigningKey(b"k" * 32)
OTHER_KEY = SigningKey(b"o" * 32)


def encoded(raw: bytes) -> str:
    return b64encode(raw).decode().rstrip("=")


def public_key(key: SigningKey) -> str:
    return encoded(bytes(key.verify_key))


def signed_invite(key: SigningKey = IDENTITY_KEY, **fields: Any) -> dict[str, Any]:
    signed: dict[str, Any] = {"mxid": ZARA, "token": "tok", **fields}
    signed = {name: value for name, value in signed.items() if value is not None}
    signature = encoded(key.sign(canonical_json(signed)).signature)
    signed["signatures"] = {"id.org": {"ed25519:0": signature}}
    return {"membership": "invite", "third_party_invite": {"display_name": "z", "signed": signed}}


def room_with_token(version: RoomVersion, content: dict[str, Any] | None = None) -> Room:
    room = room_with(version, invite=50)
    content = {"public_key": public_key(IDENTITY_KEY)} if content is None else content
    room.send("token", "m.room.third_party_invite", BOB, content, "tok")
    return room


@every
def test_5_4_1_7_a_third_party_invitation_is_taken_up(version: RoomVersion) -> None:
    assert attempt(room_with_token(version), BOB, ZARA, signed_invite())


@every
def test_5_4_1_7_2_the_key_may_be_in_the_list(version: RoomVersion) -> None:
    keys = [
        {"public_key": public_key(OTHER_KEY)},
        "junk",
        {"public_key": 5},
        {"public_key": public_key(IDENTITY_KEY)},
    ]
    assert attempt(room_with_token(version, {"public_keys": keys}), BOB, ZARA, signed_invite())


def test_5_4_1_7_a_key_may_be_url_safe_and_padded() -> None:
    key = public_key(IDENTITY_KEY).replace("+", "-").replace("/", "_") + "="
    assert attempt(room_with_token(V12, {"public_key": key}), BOB, ZARA, signed_invite())


@every
def test_5_4_1_1_the_target_is_not_banned(version: RoomVersion) -> None:
    room = room_with_token(version)
    put(room, ZARA, "ban")
    assert not attempt(room, BOB, ZARA, signed_invite())


@every
@pytest.mark.parametrize(
    "content",
    [
        {"third_party_invite": {}},
        {"third_party_invite": None},
        {"third_party_invite": {"signed": []}},
        {"third_party_invite": {"signed": {"mxid": ZARA, "signatures": {}}}},
        {"third_party_invite": {"signed": {"token": "tok", "signatures": {}}}},
    ],
)
def test_5_4_1_2_3_signed_is_complete(version: RoomVersion, content: dict[str, Any]) -> None:
    # Bob may invite, but an invitation that claims to be a third party's is judged as one.
    assert not attempt(room_with_token(version), BOB, ZARA, {"membership": "invite", **content})


@every
def test_5_4_1_4_it_is_signed_for_the_target(version: RoomVersion) -> None:
    assert not attempt(room_with_token(version), BOB, ZARA, signed_invite(mxid=DAVE))


@every
def test_5_4_1_5_the_token_is_in_the_room(version: RoomVersion) -> None:
    assert not attempt(room_with_token(version), BOB, ZARA, signed_invite(token="other"))


@every
def test_5_4_1_6_the_sender_made_the_invitation(version: RoomVersion) -> None:
    assert not attempt(room_with_token(version), ALICE, ZARA, signed_invite())


@every
@pytest.mark.parametrize(
    "signatures", [None, [], {}, {"id.org": []}, {"id.org": {"ed25519:0": "!"}}, {"a": {"ed25519:0": 1}}]
)
def test_5_4_1_8_without_a_good_signature_it_is_refused(version: RoomVersion, signatures: object) -> None:
    content = signed_invite()
    content["third_party_invite"]["signed"]["signatures"] = signatures
    room = room_with_token(version)
    assert not attempt(room, BOB, ZARA, content)
    assert not attempt(room, BOB, ZARA, signed_invite(OTHER_KEY))


def test_5_4_1_8_keys_of_a_wrong_length_are_no_keys() -> None:
    assert not attempt(room_with_token(V11, {"public_key": "AAAA"}), BOB, ZARA, signed_invite())


# -- 5.5 leave, kick -----------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(
    ("membership", "since"),
    [("invite", 1), ("join", 1), ("knock", 7), ("leave", 99), ("ban", 99), (None, 99)],
)
def test_5_5_1_who_is_in_invited_or_knocking_may_leave(
    version: RoomVersion, membership: str | None, since: int
) -> None:
    room = room_with(version)
    if membership is not None:
        put(room, ZARA, membership)
    assert attempt(room, ZARA, ZARA, "leave") == (int(version.identifier) >= since)


@every
def test_5_5_2_only_members_kick(version: RoomVersion) -> None:
    room = room_with(version)
    put(room, BOB, "leave")
    assert not attempt(room, BOB, CHARLIE, "leave")
    assert attempt(room, ALICE, CHARLIE, "leave")


@every
def test_5_5_3_unbanning_takes_both_levels(version: RoomVersion) -> None:
    room = room_with(version, ban=60, kick=40)
    put(room, ZARA, "ban")
    assert not attempt(room, BOB, ZARA, "leave")
    assert attempt(room, ALICE, ZARA, "leave")
    put(room, ZARA, "join")
    assert attempt(room, BOB, ZARA, "leave")


@every
def test_5_5_4_kicking_takes_the_level_and_more_power_than_the_target(version: RoomVersion) -> None:
    room = room_with(version, kick=50)
    assert attempt(room, BOB, CHARLIE, "leave")
    assert not attempt(room, CHARLIE, BOB, "leave")
    assert not attempt(room, BOB, ALICE, "leave")
    put(room, ZARA, "join")
    room.levels("almost", ALICE, {ALICE: 100, BOB: 49}, kick=50)
    assert not attempt(room, BOB, ZARA, "leave")
    room.levels("level", ALICE, {ALICE: 100, BOB: 50, CHARLIE: 50}, kick=50)
    assert not attempt(room, BOB, CHARLIE, "leave")


# -- 5.6 ban -------------------------------------------------------------------------------------------------


@every
def test_5_6_1_only_members_ban(version: RoomVersion) -> None:
    room = room_with(version)
    put(room, BOB, "leave")
    assert not attempt(room, BOB, CHARLIE, "ban")


@every
def test_5_6_2_banning_takes_the_level_and_more_power_than_the_target(version: RoomVersion) -> None:
    room = room_with(version, ban=50)
    assert attempt(room, BOB, CHARLIE, "ban")
    assert attempt(room, BOB, ZARA, "ban")
    assert not attempt(room, CHARLIE, ZARA, "ban")
    assert not attempt(room, BOB, ALICE, "ban")
    assert not attempt(room, BOB, BOB, "ban")
    room.levels("almost", ALICE, {ALICE: 100, BOB: 49}, ban=50)
    assert not attempt(room, BOB, ZARA, "ban")


def test_creators_of_a_v12_room_are_never_banned_or_kicked() -> None:
    room = Room(V12, {"additional_creators": [CHARLIE]}).opened()
    room.join(BOB)
    room.join(CHARLIE)
    room.levels("bob-max", ALICE, {BOB: 2**53 - 1})
    for membership in ("ban", "leave"):
        assert not attempt(room, BOB, ALICE, membership)
        assert not attempt(room, BOB, CHARLIE, membership)
        assert not attempt(room, ALICE, CHARLIE, membership)
        assert attempt(room, CHARLIE, BOB, membership)


# -- 5.7 knock -----------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize(("rule", "since"), [("knock", 7), ("knock_restricted", 10), ("invite", 99), ("public", 99)])
def test_5_7_1_the_rule_lets_people_knock(version: RoomVersion, rule: str, since: int) -> None:
    assert attempt(room_with(version, rule), ZARA, ZARA, "knock") == (int(version.identifier) >= since)


@pytest.mark.parametrize("version", [V7, V12], ids=repr)
def test_5_7_2_nobody_knocks_for_another(version: RoomVersion) -> None:
    assert not attempt(room_with(version, "knock"), DAVE, ZARA, "knock")


@pytest.mark.parametrize("version", [V7, V12], ids=repr)
@pytest.mark.parametrize(
    ("membership", "expected"),
    [("ban", False), ("invite", False), ("join", False), ("leave", True), ("knock", True)],
)
def test_5_7_3_who_is_in_invited_or_banned_does_not_knock(
    version: RoomVersion, membership: str, expected: bool
) -> None:
    room = room_with(version, "knock")
    put(room, ZARA, membership)
    assert attempt(room, ZARA, ZARA, "knock") == expected


@pytest.mark.parametrize("version", [V1, V6], ids=repr)
def test_there_is_no_knocking_before_v7(version: RoomVersion) -> None:
    assert not attempt(room_with(version, "knock"), ZARA, ZARA, "knock")
