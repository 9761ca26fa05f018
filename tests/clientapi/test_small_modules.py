"""Finding users, OpenID tokens, TURN credentials, transports of calls, third-party networks."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

from tests.kit.databases import transaction
from tests.kit.waiting import until_equal

SEARCH = "/user_directory/search"
USERINFO = "/_matrix/federation/v1/openid/userinfo"
TRANSPORTS = "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"


def found(client: Any, term: str, **more: Any) -> list[str]:
    return [user["user_id"] for user in client.post(SEARCH, {"search_term": term, **more})["results"]]


def test_users_are_found_by_those_who_may_know_of_them(hearth: Any) -> None:
    alice, bob, carol, dave = (hearth.register(name) for name in ("alice", "bob", "carol", "dave"))
    carol.put("/profile/{}/displayname", {"displayname": "Zoë Quinn"}, at=[carol.user_id])
    carol.put("/profile/{}/avatar_url", {"avatar_url": "mxc://test.example/a"}, at=[carol.user_id])
    private = alice.create_room(invite=[bob.user_id])
    bob.join(private)
    carol.create_room(visibility="public", preset="public_chat")
    assert found(alice, "bob") == [bob.user_id]
    assert found(alice, "dave") == []
    assert found(dave, "bob") == []
    assert alice.post(SEARCH, {"search_term": "zoË"})["results"] == [
        {"user_id": carol.user_id, "display_name": "Zoë Quinn", "avatar_url": "mxc://test.example/a"}
    ]
    assert found(alice, "quinn zoë") == [carol.user_id]
    assert found(alice, "alice") == []
    everybody = alice.post(SEARCH, {"search_term": "test.example", "limit": 1})
    assert (len(everybody["results"]), everybody["limited"]) == (1, True)
    assert alice.post(SEARCH, {"search_term": "x" * 300}, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_users_of_rooms_that_everybody_may_join_or_read_are_found(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    assert found(alice, "bob") == []
    room = bob.create_room(preset="public_chat")  # in no directory of rooms
    assert found(alice, "bob") == [bob.user_id]
    bob.set_state(room, "m.room.join_rules", {"join_rule": "invite"})
    assert found(alice, "bob") == []
    bob.set_state(room, "m.room.history_visibility", {"history_visibility": "world_readable"})
    assert found(alice, "bob") == [bob.user_id]
    bob.post("/rooms/{}/leave", at=[room])
    assert found(alice, "bob") == []


def test_users_of_rooms_that_were_stored_before_there_was_an_index_are_found(hearth: Any, database_url: str) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    bob.put("/profile/{}/displayname", {"displayname": "Robert"}, at=[bob.user_id])
    bob.create_room(visibility="public", preset="public_chat")
    bob.put("/profile/{}/displayname", {"displayname": "Bobby"}, at=[bob.user_id])
    until_equal(bob, lambda: found(alice, "bobby"), [bob.user_id])
    assert found(alice, "robert") == []
    hearth.stop()
    with transaction(database_url) as connection:
        connection.exec_driver_sql("UPDATE memberships SET words = NULL")
    hearth.start()
    alice.base_url = hearth.url
    until_equal(alice, lambda: found(alice, "bobby"), [bob.user_id])


def test_fields_of_profiles_have_their_former_path_too(hearth: Any) -> None:
    alice = hearth.register("alice")
    path = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{}/m.tz"
    alice.put(path, {"m.tz": "Europe/London"}, at=[alice.user_id])
    assert alice.get(path, at=[alice.user_id]) == {"m.tz": "Europe/London"}
    assert alice.get("/profile/{}", at=[alice.user_id])["m.tz"] == "Europe/London"
    alice.delete(path, at=[alice.user_id])
    assert alice.get(path, at=[alice.user_id], expect=404)["errcode"] == "M_NOT_FOUND"
    features = alice.get("/_matrix/client/versions")["unstable_features"]
    assert features["uk.tcpip.msc4133"] and features["uk.tcpip.msc4133.stable"]


def test_an_openid_token_says_whose_it_is(hearth: Any) -> None:
    alice, bob = hearth.register("alice"), hearth.register("bob")
    path = "/user/{}/openid/request_token"
    given = alice.post(path, at=[alice.user_id])
    assert (given["token_type"], given["matrix_server_name"], given["expires_in"]) == ("Bearer", "test.example", 3600)
    third_party = hearth.client()
    assert third_party.get(USERINFO, query={"access_token": given["access_token"]}) == {"sub": alice.user_id}
    unknown = third_party.get(USERINFO, query={"access_token": "other"}, expect=401)
    assert unknown["errcode"] == "M_UNKNOWN_TOKEN"
    assert third_party.get(USERINFO, expect=400)["errcode"] == "M_MISSING_PARAM"
    assert bob.post(path, at=[alice.user_id], expect=403)["errcode"] == "M_FORBIDDEN"


def test_openid_tokens_are_checked_where_other_servers_are_served(start_local: Any) -> None:
    listeners = [
        {"bind": ["127.0.0.1"], "port": 0, "resources": ["client"]},
        {"bind": ["127.0.0.1"], "port": 0, "resources": ["federation"]},
    ]
    hearth = start_local({"listeners": listeners})
    alice, third_party = hearth.register("alice"), hearth.client()
    given = alice.post("/user/{}/openid/request_token", at=[alice.user_id])
    third_party.base_url = f"http://127.0.0.1:{hearth.running.ports[1]}"
    assert third_party.get(USERINFO, query={"access_token": given["access_token"]}) == {"sub": alice.user_id}


def test_turn_credentials_can_be_checked_by_the_turn_server(start_local: Any) -> None:
    uris = ["turn:turn.example.org?transport=udp"]
    hearth = start_local({"turn": {"uris": uris, "shared_secret": "between us"}})
    alice = hearth.register("alice")
    given = alice.get("/voip/turnServer")
    assert given["uris"] == uris
    assert given["ttl"] == 3600
    expiry, _, user_id = given["username"].partition(":")
    assert user_id == alice.user_id
    assert int(expiry) > 1_700_000_000
    digest = hmac.new(b"between us", given["username"].encode(), hashlib.sha1).digest()
    assert given["password"] == base64.b64encode(digest).decode()


def test_without_turn_servers_there_are_none(hearth: Any) -> None:
    assert hearth.register("alice").get("/voip/turnServer", expect=404)["errcode"] == "M_NOT_FOUND"


def test_transports_come_from_the_configuration(start_local: Any) -> None:
    url = "https://livekit.example.org"
    alice = start_local({"rtc": {"livekit_service_urls": [url]}}).register("alice")
    transports = [{"type": "livekit", "livekit_service_url": url}]
    assert alice.get(TRANSPORTS) == {"rtc_transports": transports}
    assert alice.get("/.well-known/matrix/client")["org.matrix.msc4143.rtc_foci"] == transports


def test_there_are_no_third_party_networks(hearth: Any) -> None:
    alice = hearth.register("alice")
    assert alice.get("/thirdparty/protocols") == {}
    assert alice.get("/thirdparty/location") == alice.get("/thirdparty/user") == []
    for kind in ("protocol", "location", "user"):
        assert alice.get(f"/thirdparty/{kind}/irc", expect=404)["errcode"] == "M_NOT_FOUND"
