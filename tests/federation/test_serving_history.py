"""Events, history and state of rooms, as other servers may read them, and as they may not."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.pdu import Pdu
from homeserver.store.partial_rooms import save_partial_room
from tests.federation.visitor import Visitor, create_room
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

VERSIONS = ["1", "6", "10", "11", "12"]
DENIED = {"allow": ["*"], "deny": ["localhost"]}


@pytest.fixture
def alice(visitor: Visitor) -> Client:
    return visitor.hearth.register("alice")


def backfill(visitor: Visitor, room_id: str, *start: str, limit: int = 100, version: str = "11", **about: Any) -> Any:
    query = {"v": list(start), "limit": limit}
    answer = visitor.get("/v1/backfill/{}", at=[room_id], query=query, **about)
    return answer if "expect" in about else visitor.parse_all(version, answer["pdus"])


def missing(
    visitor: Visitor, room_id: str, earliest: list[str], latest: list[str], version: str = "11", **more: Any
) -> list[Pdu]:
    body = {"earliest_events": earliest, "latest_events": latest, **more}
    return visitor.parse_all(version, visitor.post("/v1/get_missing_events/{}", body, at=[room_id])["events"])


def event(visitor: Visitor, event_id: str, version: str = "11") -> Pdu:
    answer = visitor.get("/v1/event/{}", at=[event_id])
    assert answer["origin"] == visitor.hearth.server_name
    [pdu] = visitor.parse_all(version, answer["pdus"])
    return pdu


def texts(events: list[Pdu]) -> list[str]:
    return [pdu.content["body"] for pdu in events if pdu.type == "m.room.message" and "body" in pdu.content]


# -- what a server in the room reads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_server_in_the_room_reads_events_and_history(visitor: Visitor, alice: Client, version: str) -> None:
    room_id = create_room(alice, version)
    sent = [alice.send(room_id, f"message {number}") for number in range(5)]
    visitor.join(room_id, visitor.user("bob"))
    latest = alice.send(room_id, "latest")
    assert event(visitor, sent[2], version).content["body"] == "message 2"
    whole = backfill(visitor, room_id, latest, version=version)
    assert whole[0].event_id == latest and whole[-1].type == "m.room.create"
    assert texts(whole) == ["latest", *(f"message {number}" for number in reversed(range(5)))]
    assert [pdu.event_id for pdu in backfill(visitor, room_id, sent[3], limit=3, version=version)] == sent[3:0:-1]
    between = missing(visitor, room_id, [sent[1]], [sent[4]], version)
    assert [pdu.event_id for pdu in between] == sent[2:4]


@pytest.mark.parametrize("version", VERSIONS)
def test_state_before_an_event(visitor: Visitor, alice: Client, version: str) -> None:
    room_id = create_room(alice, version, name="first")
    old = alice.send(room_id, "old")
    alice.set_state(room_id, "m.room.name", {"name": "second"})
    visitor.join(room_id, visitor.user("bob"))
    answer = visitor.get("/v1/state/{}", at=[room_id], query={"event_id": old})
    state = visitor.parse_all(version, answer["pdus"])
    assert [pdu.content["name"] for pdu in state if pdu.type == "m.room.name"] == ["first"]
    assert visitor.user("bob") not in {pdu.state_key for pdu in state}
    chain = visitor.parse_all(version, answer["auth_chain"])
    known = {pdu.event_id for pdu in [*state, *chain]}
    assert all(set(pdu.auth_events) <= known for pdu in [*state, *chain])
    ids = visitor.get("/v1/state_ids/{}", at=[room_id], query={"event_id": old})
    assert set(ids["pdu_ids"]) == {pdu.event_id for pdu in state}
    assert set(ids["auth_chain_ids"]) == {pdu.event_id for pdu in chain}


@pytest.mark.parametrize("version", ["1", "11", "12"])
def test_auth_chain_of_an_event(visitor: Visitor, alice: Client, version: str) -> None:
    room_id = create_room(alice, version)
    visitor.join(room_id, visitor.user("bob"))
    event_id = alice.send(room_id, "message")
    answer = visitor.get("/v1/event_auth/{}/{}", at=[room_id, event_id])
    chain = visitor.parse_all(version, answer["auth_chain"])
    known = {pdu.event_id for pdu in chain}
    assert event_id not in known
    assert set(event(visitor, event_id, version).auth_events) <= known
    assert all(set(pdu.auth_events) <= known for pdu in chain)
    [create] = [pdu.event_id for pdu in chain if pdu.type == "m.room.create"]
    assert visitor.get("/v1/event_auth/{}/{}", at=[room_id, create])["auth_chain"] == []


def test_event_closest_to_a_time(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    first = alice.send(room_id, "first")
    visitor.join(room_id, visitor.user("bob"))
    ts = event(visitor, first).origin_server_ts
    asked = {"ts": ts + 10**9, "dir": "b"}
    found = visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query=asked)
    assert found["origin_server_ts"] >= ts
    visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query={**asked, "dir": "f"}, expect="M_NOT_FOUND")
    visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query={"ts": -(2**70), "dir": "b"}, expect=[400, 404])
    visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query={"ts": ts, "dir": "x"}, expect="M_INVALID_PARAM")
    visitor.get("/v1/timestamp_to_event/{}", at=[room_id], query={"ts": ts}, expect="M_MISSING_PARAM")


def test_redacted_event_is_shown_redacted(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    event_id = alice.send(room_id, "secret")
    alice.redact(room_id, event_id)
    visitor.join(room_id, visitor.user("bob"))
    assert event(visitor, event_id).content == {}
    name_id = alice.set_state(room_id, "m.room.name", {"name": "secret"})
    alice.redact(room_id, name_id)
    latest = alice.send(room_id, "latest")
    state = visitor.get("/v1/state/{}", at=[room_id], query={"event_id": latest})
    assert "secret" not in str(state)


def test_history_on_both_sides_of_a_fork(visitor: Visitor, alice: Client) -> None:
    room_id, bob, carl = create_room(alice), visitor.user("bob"), visitor.user("carl")
    templates = [visitor.make("join", room_id, user) for user in (bob, carl)]
    alice.send(room_id, "meanwhile")
    joins = [visitor.sign(template) for template in templates]
    for join in joins:
        visitor.submit("join", room_id, join)
    latest = alice.send(room_id, "after")
    pdu = event(visitor, latest)
    assert len(pdu.prev_events) == 3
    found = {each.event_id for each in backfill(visitor, room_id, latest)}
    assert {join.event_id for join in joins} <= found
    between = missing(visitor, room_id, [joins[0].event_id], [latest])
    assert joins[1].event_id in {each.event_id for each in between}
    state = visitor.get("/v1/state_ids/{}", at=[room_id], query={"event_id": joins[1].event_id})["pdu_ids"]
    assert joins[0].event_id not in state


# -- what others read: nothing ---------------------------------------------------------------------------------------


def refused_everywhere(visitor: Visitor, room_id: str, event_id: str, expect: Any = "M_FORBIDDEN") -> None:
    for path, at, query in (
        ("/v1/event/{}", [event_id], None),
        ("/v1/state/{}", [room_id], {"event_id": event_id}),
        ("/v1/state_ids/{}", [room_id], {"event_id": event_id}),
        ("/v1/event_auth/{}/{}", [room_id, event_id], None),
        ("/v1/backfill/{}", [room_id], {"v": event_id, "limit": 10}),
        ("/v1/timestamp_to_event/{}", [room_id], {"ts": 0, "dir": "f"}),
    ):
        visitor.get(path, at=at, query=query, expect=expect)
    body = {"earliest_events": [], "latest_events": [event_id]}
    visitor.post("/v1/get_missing_events/{}", body, at=[room_id], expect=expect)


@pytest.mark.parametrize("visibility", ["shared", "world_readable"])
def test_server_outside_reads_nothing(visitor: Visitor, alice: Client, visibility: str) -> None:
    room_id = create_room(alice)
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": visibility})
    refused_everywhere(visitor, room_id, alice.send(room_id, "secret"))
    visitor.get("/v1/state/{}", at=[room_id], query={"event_id": "$unknown"}, expect="M_FORBIDDEN")


def test_banned_server_reads_what_was_while_it_was_there(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    before = alice.send(room_id, "before")
    visitor.join(room_id, bob)
    while_there = alice.send(room_id, "while there")
    alice.ban(room_id, bob)
    after = alice.send(room_id, "after")
    refused_everywhere(visitor, room_id, after)
    assert event(visitor, while_there).content["body"] == "while there"
    visitor.get("/v1/event/{}", at=[before], expect="M_FORBIDDEN")
    visitor.get("/v1/backfill/{}", at=[room_id], query={"v": while_there, "limit": 5}, expect="M_FORBIDDEN")
    state = visitor.get("/v1/state_ids/{}", at=[room_id], query={"event_id": while_there})
    assert state["pdu_ids"]


def test_server_that_left_does_not_read_on(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    visitor.join(room_id, bob)
    leave = visitor.leave(room_id, bob)
    refused_everywhere(visitor, room_id, alice.send(room_id, "after"))
    assert event(visitor, leave.event_id).content["membership"] == "leave"


def test_server_shut_out_by_acl_reads_nothing(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("bob"))
    event_id = alice.send(room_id, "message")
    alice.set_state(room_id, "m.room.server_acl", DENIED)
    refused_everywhere(visitor, room_id, event_id)


def test_event_of_another_room_is_not_found_by_way_of_ones_own(visitor: Visitor, alice: Client) -> None:
    """Being in one room must open no other: whichever ids are put together."""
    mine, other = create_room(alice), create_room(alice, preset="private_chat")
    visitor.join(mine, visitor.user("bob"))
    secret = alice.send(other, "secret")
    visitor.get("/v1/event/{}", at=[secret], expect="M_FORBIDDEN")
    for path in ("/v1/state/{}", "/v1/state_ids/{}"):
        visitor.get(path, at=[mine], query={"event_id": secret}, expect="M_NOT_FOUND")
    visitor.get("/v1/event_auth/{}/{}", at=[mine, secret], expect="M_NOT_FOUND")
    assert backfill(visitor, mine, secret) == []
    assert missing(visitor, mine, [], [secret]) == []


def test_unknown_rooms_and_events(visitor: Visitor, alice: Client) -> None:
    refused_everywhere(visitor, "!nothing:elsewhere.example", "$unknown", "M_NOT_FOUND")
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("bob"))
    visitor.get("/v1/state/{}", at=[room_id], query={"event_id": "$unknown"}, expect="M_NOT_FOUND")
    assert backfill(visitor, room_id, "$unknown") == []


# -- rooms whose members are not all here yet ------------------------------------------------------------------------


def test_room_that_was_joined_without_its_members(visitor: Visitor, alice: Client) -> None:
    """Whoever the resident server named may read on; nobody gets a state that is not whole, and nobody comes in by us."""
    room_id = create_room(alice)
    event_id = alice.send(room_id, "message")
    core = visitor.hearth.running.services.core
    run_in_reactor(core.database.run, save_partial_room, room_id, event_id, [visitor.name], 1)
    run_in_reactor(core.partial.start)
    assert event(visitor, event_id).event_id == event_id
    assert backfill(visitor, room_id, event_id)[0].event_id == event_id
    for path in ("/v1/state/{}", "/v1/state_ids/{}"):
        visitor.get(path, at=[room_id], query={"event_id": event_id}, expect="M_NOT_FOUND")
    visitor.make("join", room_id, visitor.user("bob"), expect="M_NOT_FOUND")
    visitor.make("leave", room_id, visitor.user("bob"), expect="M_NOT_FOUND")
    run_in_reactor(core.database.run, save_partial_room, room_id, event_id, [], 1)
    run_in_reactor(core.partial.start)
    visitor.get("/v1/event/{}", at=[event_id], expect="M_FORBIDDEN")
    visitor.join(room_id, visitor.user("bob"))


# -- history visibility ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("visibility", ["joined", "invited"])
def test_history_before_the_join_is_hidden(visitor: Visitor, alice: Client, visibility: str) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    shared = alice.send(room_id, "shared")
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": visibility})
    hidden = alice.send(room_id, "hidden")
    _, join = visitor.join(room_id, bob)
    seen = alice.send(room_id, "seen")
    assert texts(backfill(visitor, room_id, seen)) == ["seen", "shared"]
    assert texts(missing(visitor, room_id, [shared], [seen])) == []
    redacted = event(visitor, hidden)
    assert redacted.event_id == hidden and redacted.content == {}
    assert event(visitor, join.event_id).content["membership"] == "join"
    alice.kick(room_id, bob)
    alice.send(room_id, "hidden again")
    visitor.join(room_id, bob)
    latest = alice.send(room_id, "seen again")
    assert texts(backfill(visitor, room_id, latest)) == ["seen again", "seen", "shared"]


def test_history_from_the_invite_on(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "invited"})
    visitor.join(room_id, bob)
    alice.kick(room_id, bob)
    alice.send(room_id, "hidden")
    visitor.join(room_id, visitor.user("carl"))
    latest = alice.send(room_id, "seen")
    assert texts(backfill(visitor, room_id, latest)) == ["seen"]


def test_another_servers_members_open_nothing(visitor: Visitor, alice: Client, start_peer: Any) -> None:
    room_id = create_room(alice)
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    other = Visitor(start_peer(), visitor.hearth)
    other.join(room_id, other.user("eve"))
    alice.send(room_id, "hidden from the visitor")
    visitor.join(room_id, visitor.user("bob"))
    latest = alice.send(room_id, "for both")
    assert texts(backfill(visitor, room_id, latest)) == ["for both"]
    assert texts(backfill(other, room_id, latest)) == ["for both", "hidden from the visitor"]


def test_visibility_is_judged_by_the_state_before_each_event(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
    alice.send(room_id, "hidden")
    alice.set_state(room_id, "m.room.history_visibility", {"history_visibility": "shared"})
    alice.send(room_id, "shown")
    visitor.join(room_id, visitor.user("bob"))
    latest = alice.send(room_id, "latest")
    assert texts(backfill(visitor, room_id, latest)) == ["latest", "shown"]


def test_erased_users_messages_are_hidden_from_servers_that_come_later(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    carol = visitor.hearth.register("carol")
    carol.join(room_id)
    carol.send(room_id, "carol's before")
    visitor.join(room_id, visitor.user("bob"))
    carol.send(room_id, "carol's while there")
    identifier = {"type": "m.id.user", "user": "carol"}
    auth = {"type": "m.login.password", "identifier": identifier, "password": "password of the tests"}
    session = carol.post("/account/deactivate", {"erase": True}, expect=401)["session"]
    carol.post("/account/deactivate", {"erase": True, "auth": {**auth, "session": session}})
    latest = alice.send(room_id, "alice's")
    assert texts(backfill(visitor, room_id, latest)) == ["alice's", "carol's while there"]


# -- bounds ----------------------------------------------------------------------------------------------------------


def test_huge_requests_are_cut_or_refused(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    visitor.join(room_id, visitor.user("bob"))
    for number in range(105):
        latest = alice.send(room_id, f"message {number}")
    assert len(backfill(visitor, room_id, latest, limit=10**12)) == 100
    assert len(missing(visitor, room_id, [], [latest], limit=10**12)) == 100
    assert missing(visitor, room_id, [], [latest], min_depth=10**12) == []
    assert backfill(visitor, room_id, latest, limit=0) == []
    backfill(visitor, room_id, latest, limit=-1, expect="M_INVALID_PARAM")
    backfill(visitor, room_id, *(f"$e{number}" for number in range(1000)), expect="M_INVALID_PARAM")
    body = {"earliest_events": ["$x"] * 1000, "latest_events": [latest]}
    visitor.post("/v1/get_missing_events/{}", body, at=[room_id], expect="M_INVALID_PARAM")
    for wrong in ({}, {"earliest_events": [1], "latest_events": []}, {"earliest_events": "x", "latest_events": []}):
        visitor.post("/v1/get_missing_events/{}", wrong, at=[room_id], expect=400)
