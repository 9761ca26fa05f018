"""POST /search."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection

from homeserver.clientapi.search import MAX_TERM
from homeserver.store.log import save_cursor
from homeserver.store.search import CURSOR
from tests.kit.client import Client
from tests.kit.reactor import run_in_reactor

PASSWORD = "password of the tests"


def search(client: Any, term: str, *, next_batch: str | None = None, **more: Any) -> Any:
    body = {"search_categories": {"room_events": {"search_term": term, "order_by": "recent", **more}}}
    return client.post("/search", body, query={"next_batch": next_batch})["search_categories"]["room_events"]


def found(client: Any, term: str, **more: Any) -> list[str]:
    return [result["result"]["event_id"] for result in search(client, term, **more)["results"]]


def test_words_and_parts_of_words_are_found_whatever_the_language(alice: Any) -> None:
    room = alice.create_room()
    cafe, tokyo, emoji, seoul = (
        alice.send(room, body)
        for body in ("Meet at the Café Delhi", "明日は東京タワーに行きます", "party 🎉", "서울에서 만나요")
    )
    assert found(alice, "cafe meet") == [cafe]
    assert found(alice, "ELH") == found(alice, "hi") == found(alice, "del") == [cafe]
    assert found(alice, "東京") == found(alice, "京タワー") == found(alice, "す") == [tokyo]
    assert found(alice, "🎉") == [emoji]
    assert found(alice, "서울") == [seoul]
    assert found(alice, "cafe party") == found(alice, "nothing") == found(alice, "!?") == []


def test_names_and_topics_are_found_by_their_keys(alice: Any) -> None:
    room = alice.create_room(name="Zebra house", topic="All about zebras")
    said = alice.send(room, "a zebra")
    types = {key: found(alice, "zebra", keys=[f"content.{key}"]) for key in ("body", "name", "topic")}
    assert types["body"] == [said]
    assert len(types["name"]) == len(types["topic"]) == 1 and types["name"] != types["topic"]
    assert len(found(alice, "zebra")) == 3


def test_only_what_the_user_may_see_is_found(alice: Any, bob: Any, hearth: Any) -> None:
    room = alice.create_room(
        preset="public_chat",
        initial_state=[{"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}],
    )
    alice.send(room, "walrus before")
    bob.join(room)
    seen = alice.send(room, "walrus while")
    assert found(bob, "walrus") == [seen]
    bob.post("/rooms/{}/leave", at=[room])
    alice.send(room, "walrus after")
    answer = search(bob, "walrus")
    assert [result["result"]["event_id"] for result in answer["results"]] == [seen]
    assert answer["count"] == 1
    bob.post("/rooms/{}/forget", at=[room])
    assert found(bob, "walrus") == []
    assert found(hearth.register("carol"), "walrus") == []


def test_redacted_events_are_no_longer_found(alice: Any) -> None:
    room = alice.create_room()
    first, second = alice.send(room, "otter one"), alice.send(room, "otter two")
    assert found(alice, "otter") == [second, first]
    alice.put("/rooms/{}/redact/{}/{}", {}, at=(room, first, "r1"))
    assert found(alice, "otter") == [second]
    third = alice.send(room, "otter three")
    alice.put("/rooms/{}/redact/{}/{}", {}, at=(room, third, "r2"))
    assert found(alice, "otter") == [second]


def test_ignored_users_and_encrypted_rooms_are_left_out(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    own, others = alice.send(room, "badger mine"), bob.send(room, "badger yours")
    assert found(alice, "badger") == [others, own]
    path = "/user/{}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    assert found(alice, "badger") == [own]
    alice.set_state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    assert found(alice, "badger") == []


def test_what_erased_users_said_is_found_by_those_who_were_there(hearth: Any, alice: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob, carol = hearth.client(), hearth.register("carol")
    bob.register("bob", PASSWORD)
    bob.join(room)
    said = bob.send(room, "ferret secret")
    identifier = {"type": "m.id.user", "user": "bob"}
    auth = {"type": "m.login.password", "identifier": identifier, "password": PASSWORD}
    bob.post("/account/deactivate", {"erase": True, "auth": auth})
    carol.join(room)
    for order_by in ("recent", "rank"):
        assert found(alice, "ferret", order_by=order_by) == [said]
        assert search(carol, "ferret", order_by=order_by)["count"] == 0


def test_filters_choose_rooms_senders_types_and_urls(alice: Any, bob: Any) -> None:
    room, other = alice.create_room(preset="public_chat"), alice.create_room(name="heron lake")
    bob.join(room)
    mine, bobs, elsewhere = alice.send(room, "heron"), bob.send(room, "heron"), alice.send(other, "heron")
    image = alice.send(room, {"msgtype": "m.image", "body": "heron.png", "url": "mxc://x/y"})
    assert found(alice, "heron", filter={"rooms": [room]}) == [image, bobs, mine]
    assert found(alice, "heron", filter={"not_rooms": [room]})[0] == elsewhere
    assert found(alice, "heron", filter={"senders": [bob.user_id]}) == [bobs]
    assert found(alice, "heron", filter={"not_types": ["m.room.name"], "not_rooms": [room]}) == [elsewhere]
    assert found(alice, "heron", filter={"contains_url": True}) == [image]
    assert found(alice, "heron", filter={"rooms": ["!nowhere:example.org"]}) == []


def test_a_room_that_was_upgraded_is_searched_with_its_successor(alice: Any) -> None:
    old = alice.create_room()
    said = alice.send(old, "long ago a lynx")
    new = alice.post("/rooms/{}/upgrade", {"new_version": "11"}, at=[old])["replacement_room"]
    assert found(alice, "lynx", filter={"rooms": [new]}) == [said]


@pytest.mark.parametrize("order_by", ["recent", "rank"])
def test_pages_follow_each_other(alice: Any, order_by: str) -> None:
    room = alice.create_room()
    sent = {alice.send(room, f"finch number {n}"): n for n in range(7)}
    pages = list(pages_of(alice, "finch number", order_by=order_by, filter={"limit": 3}))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [sent[event_id] for page in pages for event_id in page] == [6, 5, 4, 3, 2, 1, 0]


def pages_of(client: Any, term: str, **more: Any) -> Iterator[list[str]]:
    """Pages of a search while newer events come in that fit too."""
    room = client.create_room()
    token: str | None = None
    while True:
        page = search(client, term, next_batch=token, **more)
        yield [result["result"]["event_id"] for result in page["results"]]
        token = page.get("next_batch")
        if token is None:
            return
        client.send(room, f"a later one has another {term}")


def test_rank_puts_the_best_first_and_groups_tell_whose_they_are(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    exact, part = bob.send(room, "ibis"), alice.send(room, "a long story that has the word ibises inside")
    by = {"group_by": [{"key": "room_id"}, {"key": "sender"}]}
    answer = search(alice, "Ibis", order_by="rank", groupings=by)
    assert [result["result"]["event_id"] for result in answer["results"]] == [exact, part]
    assert answer["results"][0]["rank"] > answer["results"][1]["rank"]
    assert answer["groups"]["room_id"] == {room: {"order": 1, "results": [exact, part]}}
    assert answer["groups"]["sender"][alice.user_id]["results"] == [part]
    assert answer["highlights"] == ["ibis"]
    assert answer["count"] == 2


def test_results_come_with_context_profiles_and_state(alice: Any) -> None:
    alice.put("/profile/{}/displayname", {"displayname": "Al"}, at=[alice.user_id])
    room = alice.create_room()
    before, middle, after = (alice.send(room, body) for body in ("one", "the stork", "three"))
    answer = search(
        alice,
        "stork",
        event_context={"before_limit": 1, "after_limit": 4, "include_profile": True},
        include_state=True,
    )
    (result,) = answer["results"]
    context = result["context"]
    assert result["result"]["event_id"] == middle
    assert [event["event_id"] for event in context["events_before"]] == [before]
    assert [event["event_id"] for event in context["events_after"]] == [after]
    assert context["profile_info"][alice.user_id]["displayname"] == "Al"
    again = alice.get("/rooms/{}/messages", at=[room], query={"dir": "b", "from": context["start"], "limit": 1})
    assert again["chunk"][0]["event_id"] not in (before, middle)
    assert {event["type"] for event in answer["state"][room]} >= {"m.room.create", "m.room.member"}


def test_what_was_stored_before_the_index_is_found(hearth: Any, alice: Any) -> None:
    room = alice.create_room()
    old = alice.send(room, "ancient heron")
    assert found(alice, "ancient") == [old]
    run_in_reactor(hearth.running.services.core.database.run, empty_index)
    assert found(alice, "ancient") == [old]
    run_in_reactor(hearth.running.services.core.database.run, empty_index)
    hearth.restart()
    again = Client(hearth.url, alice.token)
    assert found(again, "ancient") == [old]


def empty_index(conn: Connection) -> None:
    """As it is when the migration has just run."""
    is_sqlite = conn.dialect.name == "sqlite"
    everything = (
        "INSERT INTO search_words (search_words) VALUES ('delete-all')" if is_sqlite else "DELETE FROM search_words"
    )
    for statement in (everything, "DELETE FROM search_entries"):
        conn.exec_driver_sql(statement)
    save_cursor(conn, CURSOR, 0)


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"search_categories": {"room_events": {}}}, "M_MISSING_PARAM"),
        ({"search_categories": {"room_events": {"search_term": 3}}}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {"search_term": "x", "keys": ["content.x"]}}}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {"search_term": "x", "order_by": "age"}}}, "M_BAD_JSON"),
        ({"search_categories": {"room_events": {"search_term": "x" * (MAX_TERM + 1)}}}, "M_INVALID_PARAM"),
        ({"search_categories": {"room_events": {"search_term": "x", "filter": {"rooms": 3}}}}, "M_BAD_JSON"),
    ],
)
def test_bad_searches_are_refused(alice: Any, body: Any, errcode: str) -> None:
    alice.post("/search", body, expect=errcode)


def test_odd_terms_and_tokens_do_no_harm(alice: Any) -> None:
    room = alice.create_room()
    said = alice.send(room, 'it\'s a "quoted" \\ path: NEAR AND OR * x:y')
    for term in ("it's", '"quoted"', "\\ path", "NEAR", "AND OR", "x:y", "path*"):
        assert found(alice, term) == [said]
    for term in ("' OR 1=1 --", "\0", "*", "a" * MAX_TERM, "\ud83c", " ".join(map(str, range(200)))):
        if term.isprintable():
            assert found(alice, term) == []
    body = {"search_categories": {"room_events": {"search_term": "x"}}}
    alice.post("/search", body, query={"next_batch": "x"}, expect="M_INVALID_PARAM")
    alice.post("/search", body, query={"next_batch": f"{9 * 10**18}_0_0"}, expect="M_INVALID_PARAM")
    assert alice.post("/search", {"search_categories": {}}) == {"search_categories": {}}
