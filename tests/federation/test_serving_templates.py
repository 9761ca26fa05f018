"""What this server answers to servers that want to join, leave or knock: templates, and refusals."""

from __future__ import annotations

from typing import Any

import pytest

from homeserver.matrix.ids import EventId
from homeserver.store.partial_rooms import save_partial_room
from tests.federation.visitor import Visitor, create_room, restrict
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

VERSIONS = ["1", "6", "10", "11", "12"]


@pytest.fixture
def alice(visitor: Visitor) -> Client:
    return visitor.hearth.register("alice")


@pytest.mark.parametrize("version", VERSIONS)
def test_join_template_is_of_the_room_and_carries_no_proofs(visitor: Visitor, alice: Client, version: str) -> None:
    room_id = create_room(alice, version)
    bob = visitor.user("bob")
    answer = visitor.make("join", room_id, bob)
    event = answer["event"]
    assert answer["room_version"] == version
    assert event["room_id"] == room_id
    assert event["sender"] == event["state_key"] == bob
    assert event["content"] == {"membership": "join"}
    assert event["prev_events"] and event["auth_events"]
    assert not {"event_id", "hashes", "signatures", "unsigned"} & set(event)


def test_join_template_needs_a_version_that_the_other_server_knows(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, "11")
    path, at = "/v1/make_join/{}/{}", [room_id, visitor.user("bob")]
    refused = visitor.get(path, at=at, query={"ver": ["1", "10"]}, expect="M_INCOMPATIBLE_ROOM_VERSION")
    assert refused["room_version"] == "11"
    visitor.get(path, at=at, expect="M_INCOMPATIBLE_ROOM_VERSION")
    assert visitor.get(path, at=[create_room(alice, "1"), visitor.user("bob")])["room_version"] == "1"


def test_server_gets_templates_for_its_own_users_only(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice)
    for what in ("join", "leave", "knock"):
        visitor.make(what, room_id, "@bob:elsewhere.example", expect="M_FORBIDDEN")
        visitor.make(what, room_id, alice.user_id, expect="M_FORBIDDEN")
        visitor.make(what, room_id, "bob", expect="M_INVALID_PARAM")


def test_room_that_nobody_here_is_in_is_not_found(visitor: Visitor, alice: Client) -> None:
    bob = visitor.user("bob")
    visitor.make("join", "!nothing:elsewhere.example", bob, expect="M_NOT_FOUND")
    room_id = create_room(alice)
    alice.leave(room_id)
    visitor.make("join", room_id, bob, expect="M_NOT_FOUND")


def test_private_room_gives_no_template(visitor: Visitor, alice: Client) -> None:
    room_id = create_room(alice, preset="private_chat")
    for what in ("join", "leave", "knock"):
        visitor.make(what, room_id, visitor.user("bob"), expect="M_FORBIDDEN")


def test_banned_user_gets_no_template(visitor: Visitor, alice: Client) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    alice.ban(room_id, bob)
    visitor.make("join", room_id, bob, expect="M_FORBIDDEN")
    visitor.make("leave", room_id, bob, expect="M_FORBIDDEN")


@pytest.mark.parametrize(
    "acl",
    [
        {"allow": ["*"], "deny": ["LOCALHOST"]},
        {"allow": ["*.example"]},
        {"allow": "*"},
        {"deny": []},
        {"allow": ["*"], "deny": ["l?calh*"]},
    ],
)
def test_server_shut_out_by_acl_gets_no_template(visitor: Visitor, alice: Client, acl: dict[str, Any]) -> None:
    room_id, bob = create_room(alice), visitor.user("bob")
    visitor.make("join", room_id, bob)
    alice.set_state(room_id, "m.room.server_acl", acl)
    for what in ("join", "leave", "knock"):
        visitor.make(what, room_id, bob, expect="M_FORBIDDEN")
    alice.set_state(room_id, "m.room.server_acl", {"allow": ["local*"], "deny": [f"other.{visitor.name}"]})
    visitor.make("join", room_id, bob)


@pytest.mark.parametrize("version", ["7", "10", "12"])
def test_knock_template(visitor: Visitor, alice: Client, version: str) -> None:
    room_id, bob = create_room(alice, version, preset="private_chat"), visitor.user("bob")
    alice.set_state(room_id, "m.room.join_rules", {"join_rule": "knock"})
    event = visitor.make("knock", room_id, bob)["event"]
    assert event["content"] == {"membership": "knock"}
    visitor.make("join", room_id, bob, expect="M_FORBIDDEN")


def test_nobody_knocks_where_the_version_knows_no_knocking(visitor: Visitor, alice: Client) -> None:
    visitor.make("knock", create_room(alice, "6"), visitor.user("bob"), expect="M_FORBIDDEN")


def test_restricted_room_in_which_no_condition_is_met(visitor: Visitor, alice: Client) -> None:
    room_id, other = create_room(alice), create_room(alice)
    restrict(alice, room_id, other)
    visitor.make("join", room_id, visitor.user("bob"), expect="M_FORBIDDEN")
    restrict(alice, room_id)
    visitor.make("join", room_id, visitor.user("bob"), expect="M_FORBIDDEN")


def test_restricted_room_whose_conditions_this_server_cannot_tell(visitor: Visitor, alice: Client) -> None:
    room_id, other = create_room(alice), create_room(alice)
    restrict(alice, room_id, other, "!unknown:elsewhere.example")
    visitor.make("join", room_id, visitor.user("bob"), expect="M_UNABLE_TO_AUTHORISE_JOIN")


def test_restricted_room_whose_condition_is_a_room_of_which_not_all_members_are_known(
    visitor: Visitor, alice: Client
) -> None:
    """Whoever is not known to be in it may be: another server can tell."""
    room_id, other = create_room(alice), create_room(alice)
    restrict(alice, room_id, other)
    core = visitor.hearth.running.services.core
    for servers, errcode in (([visitor.name], "M_UNABLE_TO_AUTHORISE_JOIN"), ([], "M_FORBIDDEN")):
        run_in_reactor(core.database.run, save_partial_room, other, EventId("$join"), servers, 1)
        run_in_reactor(core.partial.start)
        visitor.make("join", room_id, visitor.user("bob"), expect=errcode)
