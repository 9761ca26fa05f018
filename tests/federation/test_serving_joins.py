"""Users of another server join, leave and knock by way of this one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.federation.visitor import Visitor, create_room, restrict
from tests.kit.client import Client
from tests.kit.waiting import until

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def alice(visitor: Visitor) -> Client:
    return visitor.hearth.register("alice")


@pytest.mark.parametrize("version", VERSIONS)
def test_user_joins_and_leaves(visitor: Visitor, alice: Client, version: str) -> None:
    room_id, bob = create_room(alice, version), visitor.user("bob")
    before = {event["type"] for event in alice.get("/rooms/{}/state", at=[room_id])}
    answer, join = visitor.join(room_id, bob)
    assert {event["type"] for event in answer["state"]} == before
    assert answer["members_omitted"] is False
    assert answer["event"] == join.json
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "join"
    visitor.leave(room_id, bob)
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "leave"


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_auth_chain_of_the_answer_is_whole(visitor: Visitor, alice: Client, version: str) -> None:
    room_id = create_room(alice, version)
    for level in range(3):
        content = alice.get_state(room_id, "m.room.power_levels")
        alice.set_state(room_id, "m.room.power_levels", {**content, "events_default": level})
    answer, join = visitor.join(room_id, visitor.user("bob"))
    events = visitor.parse_all(version, [*answer["state"], *answer["auth_chain"]])
    known = {event.event_id for event in events}
    for event in [*events, join]:
        assert set(event.auth_events) <= known


def test_join_with_members_omitted(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, name="The room")
    visitor.hearth.register("carol").join(room_id)
    answer, join = visitor.join(room_id, visitor.user("bob"), query={"omit_members": "true"})
    assert answer["members_omitted"] is True
    assert answer["servers_in_room"] == [visitor.hearth.server_name]
    state = visitor.parse_all("11", answer["state"])
    chain = visitor.parse_all("11", answer["auth_chain"])
    assert "m.room.member" not in {event.type for event in state}
    assert not {event.event_id for event in state} & {event.event_id for event in chain}
    known = {event.event_id for event in [*state, *chain]}
    for event in [*state, *chain, join]:
        assert set(event.auth_events) <= known


def test_members_who_name_the_room_are_not_omitted(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    answer, _ = visitor.join(room_id, visitor.user("bob"), query={"omit_members": "true"})
    members = [event["state_key"] for event in answer["state"] if event["type"] == "m.room.member"]
    assert members == [alice.user_id]
    again, _ = visitor.join(room_id, visitor.user("carl"), query={"omit_members": "true"})
    assert again["servers_in_room"] == sorted([visitor.hearth.server_name, visitor.name])


def test_members_are_not_omitted_where_name_and_alias_were_removed(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, name="The room", room_alias_name="the_room")
    query = {"omit_members": "true"}

    def members(name: str) -> list[str]:
        answer, _ = visitor.join(room_id, visitor.user(name), query=query)
        return sorted(event["state_key"] for event in answer["state"] if event["type"] == "m.room.member")

    alice.set_state(room_id, "m.room.name", {"name": ""})
    assert members("bob") == []
    alice.set_state(room_id, "m.room.canonical_alias", {})
    assert members("carl") == sorted([alice.user_id, visitor.user("bob")])


def test_old_endpoints_answer_with_the_status(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice, "6"), visitor.user("bob")
    status, answer = visitor.submit("join", room_id, visitor.sign(visitor.make("join", room_id, bob)), version="v1")
    assert status == 200 and answer["state"]
    leave = visitor.sign(visitor.make("leave", room_id, bob))
    assert visitor.submit("leave", room_id, leave, version="v1") == [200, {}]
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "leave"


def test_same_join_twice_is_one(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    answer, join = visitor.join(room_id, bob)
    assert visitor.submit("join", room_id, join)["event"] == answer["event"]
    joins = [event for event in alice.messages(room_id, limit=50)["chunk"] if event.get("state_key") == bob]
    assert len(joins) == 1


def test_templates_made_at_once_are_all_good(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    templates = [visitor.make("join", room_id, visitor.user(f"u{number}")) for number in range(5)]
    alice.send(room_id, "meanwhile")
    for template in templates:
        visitor.submit("join", room_id, visitor.sign(template))
    members = alice.get("/rooms/{}/joined_members", at=[room_id])["joined"]
    assert len(members) == 6
    assert alice.send(room_id, "after")


def test_join_in_the_newest_state_reads_no_state_anew(visitor: Visitor, alice: Client, monkeypatch: Any) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("bob"))
    alice.send(room_id, "message")

    def load_state(*_: Any) -> Any:
        raise AssertionError("the head has it")

    monkeypatch.setattr("federation.resident.state.load_state", load_state)
    answer, _ = visitor.join(room_id, visitor.user("carl"))
    members = {event["state_key"] for event in answer["state"] if event["type"] == "m.room.member"}
    assert members == {alice.user_id, visitor.user("bob")}


# -- refusals --------------------------------------------------------------------------------------------------------


def test_template_that_was_tampered_with(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    other = create_room(alice)
    template = visitor.make("join", room_id, bob)
    tampered: list[dict[str, Any]] = [
        {"type": "m.room.name"},
        {"content": {"membership": "leave"}},
        {"content": {"membership": "ban"}},
        {"content": {}},
        {"content": {"membership": ["join"]}},
        {"state_key": visitor.user("carl")},
        {"state_key": alice.user_id},
        {"sender": alice.user_id, "state_key": alice.user_id},
        {"sender": alice.user_id},
        {"room_id": other},
        {"prev_events": []},
        {"prev_events": ["$unknown"]},
        {"prev_events": visitor.make("join", other, bob)["event"]["prev_events"]},
        {"auth_events": ["$unknown"]},
    ]
    for changes in tampered:
        event = visitor.sign(template, **changes)
        refused = visitor.submit("join", room_id, event, expect=400)
        assert refused["errcode"] == "M_INVALID_PARAM", changes
        for membership in ("leave", "knock"):
            visitor.submit(membership, room_id, event, expect=[400, 403])
    assert alice.get("/rooms/{}/joined_members", at=[room_id])["joined"].keys() == {alice.user_id}


def test_missing_auth_events_are_refused_by_the_rules(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    template = visitor.make("join", room_id, visitor.user("bob"))
    visitor.submit("join", room_id, visitor.sign(template, auth_events=[]), expect="M_FORBIDDEN")
    alice.get_state(room_id, "m.room.member", visitor.user("bob"), expect="M_NOT_FOUND")


def test_event_of_another_path_or_without_its_proofs(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    join = visitor.sign(visitor.make("join", room_id, bob))
    visitor.put("/v2/send_join/{}/{}", join.json, at=[room_id, "$other"], expect="M_INVALID_PARAM")
    visitor.put("/v2/send_join/{}/{}", join.json, at=[create_room(alice), join.event_id], expect="M_INVALID_PARAM")
    unsigned = {**join.json, "signatures": {}}
    forged = {**join.json, "signatures": {visitor.name: {visitor.peer.key.key_id: "A" * 86}}}
    unknown = {**join.json, "signatures": {visitor.name: {"ed25519:other": "A" * 86}}}
    wrong_content = {**join.json, "content": {"membership": "join", "displayname": "Bob"}}
    for event in (unsigned, forged, unknown, wrong_content):
        visitor.put("/v2/send_join/{}/{}", event, at=[room_id, join.event_id], expect="M_INVALID_PARAM")
    for event in ({}, {"type": "m.room.member"}, {**join.json, "depth": -1}, {**join.json, "prev_events": "x"}):
        visitor.put("/v2/send_join/{}/{}", event, at=[room_id, join.event_id], expect=400)
    assert visitor.submit("join", room_id, join)


def test_user_banned_since_the_template_stays_out(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    join = visitor.sign(visitor.make("join", room_id, bob))
    alice.ban(room_id, bob)
    visitor.submit("join", room_id, join, expect="M_FORBIDDEN")
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "ban"
    leave = visitor.sign({**visitor.make("join", create_room(alice), bob)}, room_id=room_id)
    visitor.submit("leave", room_id, leave, expect=400)


def test_room_closed_since_the_template(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    join = visitor.sign(visitor.make("join", room_id, bob))
    alice.set_state(room_id, "m.room.join_rules", {"join_rule": "invite"})
    visitor.submit("join", room_id, join, expect="M_FORBIDDEN")


def test_server_shut_out_since_the_template(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    join = visitor.sign(visitor.make("join", room_id, bob))
    alice.set_state(room_id, "m.room.server_acl", {"allow": ["*"], "deny": ["localhost"]})
    visitor.submit("join", room_id, join, expect="M_FORBIDDEN")


def test_room_that_does_not_federate(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, creation_content={"m.federate": False})
    visitor.make("join", room_id, visitor.user("bob"), expect="M_FORBIDDEN")


def test_one_server_cannot_send_another_ones_join(visitor: Visitor, alice: Client, start_peer: Any) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    join = visitor.sign(visitor.make("join", room_id, bob))
    thief = Visitor(start_peer(), visitor.hearth)
    thief.submit("join", room_id, join, expect="M_INVALID_PARAM")
    thief.make("leave", room_id, bob, expect="M_FORBIDDEN")


# -- knocking --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["7", "10", "11", "12"])
def test_user_knocks_and_takes_it_back(visitor: Visitor, alice: Client, version: str) -> None:
    room_id, bob = create_room(alice, version, preset="private_chat", name="Closed"), visitor.user("bob")
    alice.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    answer = visitor.submit("knock", room_id, visitor.sign(visitor.make("knock", room_id, bob)))
    shown = visitor.parse_all(version, answer["knock_room_state"])
    assert {"m.room.create", "m.room.name", "m.room.join_rules"} <= {event.type for event in shown}
    assert "m.room.member" not in {event.type for event in shown}
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "knock"
    visitor.leave(room_id, bob)
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "leave"


def test_knock_tells_no_history(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice, preset="private_chat"), visitor.user("bob")
    alice.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    event_id = alice.send(room_id, "secret")
    visitor.submit("knock", room_id, visitor.sign(visitor.make("knock", room_id, bob)))
    visitor.get("/v1/event/{}", at=[event_id], expect="M_FORBIDDEN")
    visitor.get("/v1/backfill/{}", at=[room_id], query={"v": event_id, "limit": 5}, expect="M_FORBIDDEN")


# -- restricted joins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["8", "10", "11", "12"])
def test_restricted_join_is_signed_for(visitor: Visitor, alice: Client, version: str) -> None:
    room_id, other, bob = create_room(alice, version), create_room(alice), visitor.user("bob")
    restrict(alice, room_id, other)
    visitor.make("join", room_id, bob, expect="M_FORBIDDEN")
    visitor.join(other, bob)
    template = visitor.make("join", room_id, bob)
    assert template["event"]["content"]["join_authorised_via_users_server"] == alice.user_id
    answer = visitor.submit("join", room_id, visitor.sign(template))
    assert set(answer["event"]["signatures"]) == {visitor.name, visitor.hearth.server_name}
    assert alice.get_state(room_id, "m.room.member", bob)["membership"] == "join"


def test_restricted_join_is_signed_only_while_the_condition_is_met(visitor: Visitor, alice: Client) -> None:
    room_id, other, bob = create_room(alice), create_room(alice), visitor.user("bob")
    restrict(alice, room_id, other)
    visitor.join(other, bob)
    join = visitor.sign(visitor.make("join", room_id, bob))
    visitor.leave(other, bob)
    visitor.submit("join", room_id, join, expect="M_FORBIDDEN")
    alice.get_state(room_id, "m.room.member", bob, expect="M_NOT_FOUND")


def test_server_cannot_vouch_for_its_own_user(visitor: Visitor, alice: Client) -> None:
    room_id, other, carl, bob = create_room(alice), create_room(alice), visitor.user("carl"), visitor.user("bob")
    visitor.join(room_id, carl)
    restrict(alice, room_id, other)
    visitor.join(other, bob)
    template = visitor.make("join", room_id, bob)
    via = "join_authorised_via_users_server"
    for authoriser in (carl, f"@nobody:{visitor.hearth.server_name}", "@x:elsewhere.example", 7):
        content = {"membership": "join", via: authoriser}
        visitor.submit("join", room_id, visitor.sign(template, content=content), expect=[400, 403])
    without = visitor.sign(template, content={"membership": "join"})
    visitor.submit("join", room_id, without, expect="M_FORBIDDEN")
    alice.get_state(room_id, "m.room.member", bob, expect="M_NOT_FOUND")


def test_nobody_here_has_the_power_to_let_in(visitor: Visitor, alice: Client) -> None:
    room_id, other, bob, carl = create_room(alice), create_room(alice), visitor.user("bob"), visitor.user("carl")
    visitor.join(room_id, carl)
    visitor.join(other, bob)
    restrict(alice, room_id, other)
    levels = alice.get_state(room_id, "m.room.power_levels")
    alice.set_state(room_id, "m.room.power_levels", {**levels, "users": {carl: 100}, "invite": 100})
    visitor.make("join", room_id, bob, expect="M_UNABLE_TO_GRANT_JOIN")


# -- passing on ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1", "11"])
def test_other_servers_of_the_room_are_told(visitor: Visitor, alice: Client, start_peer: Any, version: str) -> None:
    """Who joins and leaves by way of this server does so for all: the joining server knows nobody to tell."""
    room_id, bob = create_room(alice, version), visitor.user("bob")
    witness = Visitor(start_peer(), visitor.hearth)
    for peer in (witness.peer, visitor.peer):
        peer.answer("PUT", "/_matrix/federation/v1/send/", {"pdus": {}})
    witness.join(room_id, witness.user("eve"))
    _, join = visitor.join(room_id, bob)
    leave = visitor.leave(room_id, bob)

    def told() -> set[str]:
        sent = [each.json for each in witness.peer.received("/_matrix/federation/v1/send/")]
        pdus = [pdu for transaction in sent for pdu in transaction["pdus"]]
        return {pdu.event_id for pdu in witness.parse_all(version, pdus)}

    until(alice, lambda: {join.event_id, leave.event_id} <= told())
    back = [each.json["pdus"] for each in visitor.peer.received("/_matrix/federation/v1/send/")]
    assert not any(pdu.get("state_key") == bob for pdus in back for pdu in pdus)
