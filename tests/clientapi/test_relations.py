"""Relations, threads, and what is bundled with events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from homeserver.store.migrations import m0012_event_relations
from homeserver.store.tables import rooms
from homeserver.store.tables.relations import event_relations
from tests.kit.databases import transaction

RELATIONS = "/_matrix/client/v1/rooms/{}/relations/{}"
THREADS = "/_matrix/client/v1/rooms/{}/threads"


def relate(client: Any, room: str, target: str, rel_type: str, body: str = "x", **more: Any) -> str:
    relation = {"rel_type": rel_type, "event_id": target}
    event_id: str = client.send(room, {"msgtype": "m.text", "body": body, "m.relates_to": relation, **more})
    return event_id


def edit(client: Any, room: str, target: str, body: str) -> str:
    return relate(
        client, room, target, "m.replace", f"* {body}", **{"m.new_content": {"msgtype": "m.text", "body": body}}
    )


def ids(answer: Any) -> list[str]:
    return [event["event_id"] for event in answer["chunk"]]


def test_relations_are_listed_by_kind_in_both_directions_and_pages(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    threaded = [relate(bob, room, root, "m.thread", str(n)) for n in range(4)]
    edited = edit(alice, room, root, "better")
    reaction = bob.send(
        room, {"m.relates_to": {"rel_type": "m.annotation", "event_id": threaded[0], "key": "+1"}}, "m.reaction"
    )
    assert ids(alice.get(RELATIONS, at=(room, root))) == [edited, *threaded[::-1]]
    assert ids(alice.get(RELATIONS + "/m.thread", at=(room, root), query={"dir": "f"})) == threaded
    assert ids(alice.get(RELATIONS + "/m.replace/m.room.message", at=(room, root))) == [edited]
    assert ids(alice.get(RELATIONS + "/m.replace/m.sticker", at=(room, root))) == []
    deep = alice.get(RELATIONS, at=(room, root), query={"recurse": True})
    assert ids(deep) == [reaction, edited, *threaded[::-1]]
    assert deep["recursion_depth"] >= 3
    for direction, expected in (("b", threaded[::-1]), ("f", threaded)):
        query = {"dir": direction, "limit": 3}
        first = alice.get(RELATIONS + "/m.thread", at=(room, root), query=query)
        second = alice.get(RELATIONS + "/m.thread", at=(room, root), query={**query, "from": first["next_batch"]})
        assert ids(first) + ids(second) == expected
        assert "next_batch" not in second
    stranger = alice.get(RELATIONS, at=(room, "$unknown"), expect=404)
    assert stranger["errcode"] == "M_NOT_FOUND"


def react(client: Any, room: str, target: str, key: str, **more: Any) -> Any:
    content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": key}}
    return client.send(room, content, "m.reaction", **more)


def test_nobody_annotates_an_event_twice_in_the_same_way(alice: Any, bob: Any, room: str) -> None:
    target = alice.send(room, "look")
    first = react(alice, room, target, "+1", txn_id="one")
    react(alice, room, target, "-1")
    react(bob, room, target, "+1")
    body = {"m.relates_to": {"rel_type": "m.annotation", "event_id": target, "key": "+1"}}
    path = "/rooms/{}/send/{}/{}"
    assert alice.put(path, body, at=(room, "m.reaction", "two"), expect=400)["errcode"] == "M_DUPLICATE_ANNOTATION"
    assert alice.put(path, body, at=(room, "m.reaction", "one"))["event_id"] == first
    alice.put(path, body, at=(room, "org.example.reaction", "two"))
    alice.redact(room, first)
    alice.put(path, body, at=(room, "m.reaction", "three"))


def test_no_thread_begins_at_an_event_that_relates_to_another(alice: Any, room: str) -> None:
    root = alice.send(room, "root")
    threaded, edited = relate(alice, room, root, "m.thread"), edit(alice, room, root, "better")
    reply = alice.send(room, {"msgtype": "m.text", "body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": root}}})
    for target in (threaded, edited):
        body = {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": "m.thread", "event_id": target}}
        refused = alice.put("/rooms/{}/send/m.room.message/{}", body, at=(room, target), expect=400)
        assert refused["errcode"] == "M_UNKNOWN"
    relate(alice, room, reply, "m.thread")
    relate(alice, room, root, "m.thread")


def test_however_much_relates_to_an_event_the_newest_is_told_first(alice: Any, room: str, database_url: str) -> None:
    root = alice.send(room, "root")
    told = relate(alice, room, root, "m.thread")
    add_copies(database_url, told, 5_500)
    for query in ({"limit": 2}, {"limit": 2, "recurse": True}):
        newest = alice.get(RELATIONS + "/m.thread", at=(room, root), query=query)
        assert ids(newest) == [f"{told}5500", f"{told}5499"]
        following = alice.get(RELATIONS, at=(room, root), query={**query, "from": newest["next_batch"]})
        assert ids(following) == [f"{told}5498", f"{told}5497"]
        assert ids(alice.get(RELATIONS, at=(room, root), query={**query, "dir": "f"})) == [told, f"{told}1"]


def add_copies(database_url: str, event_id: str, count: int) -> None:
    """Of an event and of its relation, in the database alone; their ids are the event's with a number behind it."""
    events, relations = rooms.events, event_relations
    with transaction(database_url) as connection:
        event = connection.execute(select(events).where(events.c.event_id == event_id)).one()._mapping
        relation = connection.execute(select(relations).where(relations.c.event_id == event_id)).one()._mapping
        ids = [{"event_id": f"{event_id}{n}", "nid": event["nid"] + n} for n in range(1, count + 1)]
        connection.execute(insert(events), [{**event, **names, "timeline_order": names["nid"]} for names in ids])
        connection.execute(insert(relations), [{**relation, **names} for names in ids])


def test_hidden_relations_do_not_end_a_page(alice: Any, bob: Any, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.RELATED_AT_ONCE", 3)
    root = alice.send(room, "root")
    told = []
    for number in range(3):
        told.append(relate(alice, room, root, "m.thread", f"{number}"))
        for _ in range(4):
            relate(bob, room, root, "m.thread")
    alice.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    for direction, expected in (("b", told[::-1]), ("f", told)):
        first = alice.get(RELATIONS, at=(room, root), query={"dir": direction, "limit": 2})
        assert ids(first) == expected[:2]
        query = {"dir": direction, "limit": 2, "from": first["next_batch"]}
        second = alice.get(RELATIONS, at=(room, root), query=query)
        assert ids(second) == expected[2:]
        assert "next_batch" not in second


def test_strangers_see_no_relations(hearth: Any, alice: Any) -> None:
    private = alice.create_room()
    root = alice.send(private, "root")
    carol = hearth.register("carol")
    assert carol.get(RELATIONS, at=(private, root), expect=403)["errcode"] == "M_FORBIDDEN"
    assert carol.get(THREADS, at=[private], expect=403)["errcode"] == "M_FORBIDDEN"


def bundled(client: Any, room: str, event_id: str) -> list[Any]:
    """What each place that serves events has bundled with one."""
    event = client.get("/rooms/{}/event/{}", at=(room, event_id))
    messages = client.messages(room, limit=50)["chunk"]
    context = client.get("/rooms/{}/context/{}", at=(room, event_id))["event"]
    synced = client.sync(since=None, filter={"room": {"timeline": {"limit": 50}}})
    timeline = synced["rooms"]["join"][room]["timeline"]["events"]
    body = {"lists": {"l": {"ranges": [[0, 9]], "timeline_limit": 50, "required_state": []}}}
    sliding = client.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", body)["rooms"][room][
        "timeline"
    ]
    found = [event, context]
    for events in (messages, timeline, sliding):
        found += [item for item in events if item["event_id"] == event_id]
    assert len(found) == 5
    return [item["unsigned"].get("m.relations") for item in found]


def test_a_page_does_not_look_through_all_that_is_hidden(
    alice: Any, bob: Any, room: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.rooms.relations.RELATED_AT_ONCE", 3)
    monkeypatch.setattr("homeserver.rooms.relations.MAX_LOOKS", 2)
    root = alice.send(room, "root")
    told = relate(alice, room, root, "m.thread")
    for _ in range(8):
        relate(bob, room, root, "m.thread")
    alice.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    first = alice.get(RELATIONS, at=(room, root), query={"limit": 2})
    assert first["chunk"] == []
    second = alice.get(RELATIONS, at=(room, root), query={"limit": 2, "from": first["next_batch"]})
    assert (ids(second), second.get("next_batch")) == ([told], None)


def test_the_newest_valid_edit_is_bundled_everywhere(alice: Any, bob: Any, room: str) -> None:
    event_id = alice.send(room, "first")
    assert bundled(alice, room, event_id) == [None] * 5
    edit(alice, room, event_id, "second")
    newest = edit(alice, room, event_id, "third")
    edit(bob, room, event_id, "forged")
    relate(alice, room, event_id, "m.replace", "no new content")
    for relations in bundled(bob, room, event_id):
        assert relations["m.replace"]["event_id"] == newest
        assert relations["m.replace"]["content"]["m.new_content"]["body"] == "third"
    alice.redact(room, newest)
    for relations in bundled(bob, room, event_id):
        assert relations["m.replace"]["content"]["m.new_content"]["body"] == "second"
    alice.redact(room, event_id)
    assert bundled(bob, room, event_id) == [None] * 5


def test_what_relates_to_the_latest_event_of_a_thread_is_told_with_it(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    latest = relate(bob, room, root, "m.thread", "first")
    edited, reference = edit(bob, room, latest, "second"), relate(alice, room, latest, "m.reference")
    for relations in bundled(alice, room, root):
        told = relations["m.thread"]["latest_event"]
        assert told["event_id"] == latest
        assert told["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited
        assert told["unsigned"]["m.relations"]["m.reference"] == {"chunk": [{"event_id": reference}]}
    [listed] = alice.get(THREADS, at=[room])["chunk"]
    thread = listed["unsigned"]["m.relations"]["m.thread"]
    assert thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["event_id"] == edited
    alice.put("/user/{}/account_data/m.ignored_user_list", {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    own = relate(alice, room, root, "m.thread", "mine")
    for relations in bundled(alice, room, root):
        assert relations["m.thread"]["latest_event"]["event_id"] == own
        assert "m.relations" not in relations["m.thread"]["latest_event"]["unsigned"]


def test_a_thread_stays_when_its_root_is_redacted(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    edit(alice, room, root, "edited")
    latest, reference = relate(bob, room, root, "m.thread"), relate(bob, room, root, "m.reference")
    alice.redact(room, root)
    for relations in bundled(bob, room, root):
        assert relations.keys() == {"m.thread", "m.reference"}
        assert relations["m.thread"]["latest_event"]["event_id"] == latest
        assert relations["m.reference"] == {"chunk": [{"event_id": reference}]}
    [listed] = alice.get(THREADS, at=[room])["chunk"]
    assert (listed["content"], listed["unsigned"]["m.relations"]["m.thread"]["count"]) == ({}, 1)


def test_a_thread_stays_when_its_root_s_sender_is_erased(hearth: Any, alice: Any, room: str) -> None:
    gone, carol, password = hearth.client(), hearth.register("carol"), "password of the tests"
    gone.register("gone", password)
    gone.join(room)
    root = gone.send(room, "root")
    edit(gone, room, root, "secret")
    latest = relate(alice, room, root, "m.thread")
    auth = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "gone"}, "password": password}
    gone.post("/account/deactivate", {"erase": True, "auth": auth})
    carol.join(room)
    synced = carol.sync(filter={"room": {"timeline": {"limit": 50}}})["rooms"]["join"][room]["timeline"]["events"]
    listed = carol.get(THREADS, at=[room])["chunk"]
    for event in (*listed, *(event for event in synced if event["event_id"] == root)):
        assert event["content"] == {}
        assert event["unsigned"]["m.relations"].keys() == {"m.thread"}
        assert event["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == latest
    assert "m.replace" in alice.get("/rooms/{}/event/{}", at=(room, root))["unsigned"]["m.relations"]


def test_forged_edits_do_not_hide_an_edit(alice: Any, bob: Any, room: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeserver.store.relations.MAX_REFERENCES", 3)
    event_id = alice.send(room, "first")
    edited = edit(alice, room, event_id, "second")
    for _ in range(4):
        edit(bob, room, event_id, "forged")
    for relations in bundled(bob, room, event_id):
        assert relations["m.replace"]["event_id"] == edited


def test_relations_are_bundled_for_each_reader_behind_a_gap(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    for client in (alice, bob, carol):
        client.sync()
    for number in range(3):
        alice.send(room, f"{number}")
    root = alice.send(room, "root")
    newest = edit(alice, room, root, "edited")
    relate(bob, room, root, "m.thread")
    for client, participated in ((carol, False), (bob, True), (alice, True)):
        told = client.sync(filter={"room": {"timeline": {"limit": 3}}})["rooms"]["join"][room]["timeline"]
        assert told["limited"]
        relations = told["events"][0]["unsigned"]["m.relations"]
        assert relations["m.replace"]["event_id"] == newest
        assert relations["m.thread"]["current_user_participated"] is participated


def test_threads_and_references_are_bundled(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    relate(bob, room, root, "m.thread", "one")
    latest = relate(bob, room, root, "m.thread", "two")
    reference = relate(bob, room, root, "m.reference")
    carol = hearth.register("carol")
    carol.join(room)
    for client, participated in ((alice, True), (bob, True), (carol, False)):
        for relations in bundled(client, room, root):
            thread = relations["m.thread"]
            assert (thread["count"], thread["current_user_participated"]) == (2, participated)
            assert thread["latest_event"]["event_id"] == latest
            assert relations["m.reference"] == {"chunk": [{"event_id": reference}]}


def test_what_is_bundled_says_what_the_reader_was_then(hearth: Any, alice: Any, room: str) -> None:
    root = alice.send(room, "root")
    edit(alice, room, root, "edited")
    relate(alice, room, root, "m.thread", "threaded")
    carol = hearth.register("carol")
    carol.join(room)
    for client, membership in ((alice, "join"), (carol, "leave")):
        for relations in bundled(client, room, root):
            assert relations["m.replace"]["unsigned"]["membership"] == membership
            assert relations["m.thread"]["latest_event"]["unsigned"]["membership"] == membership
    relate(alice, room, root, "m.thread", "after the join")
    for relations in bundled(carol, room, root):
        assert relations["m.thread"]["latest_event"]["unsigned"]["membership"] == "join"


def test_what_the_reader_may_not_see_is_not_bundled(alice: Any, bob: Any, room: str) -> None:
    root, other = alice.send(room, "root"), alice.send(room, "other")
    seen = edit(alice, room, root, "seen")
    last, begun = relate(alice, room, other, "m.thread", "seen"), alice.send(room, "begun")
    bob.leave(room)
    edit(alice, room, root, "hidden")
    relate(alice, room, other, "m.thread", "hidden")
    relate(alice, room, begun, "m.thread", "hidden")
    told = {event["event_id"]: event["unsigned"] for event in bob.messages(room, limit=50)["chunk"]}
    assert told[root]["m.relations"]["m.replace"]["event_id"] == seen
    thread = told[other]["m.relations"]["m.thread"]
    assert (thread["latest_event"]["event_id"], thread["count"]) == (last, 1)
    assert "m.relations" not in told[begun]


def test_a_thread_of_which_a_part_is_hidden_is_bundled_with_the_rest(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    relate(alice, room, root, "m.thread", "to both")
    alice.set_state(room, "m.room.history_visibility", {"history_visibility": "joined"})
    bob.leave(room)
    relate(alice, room, root, "m.thread", "hidden")
    bob.join(room)
    latest = relate(alice, room, root, "m.thread", "to both again")
    bob.leave(room)
    relate(alice, room, root, "m.thread", "hidden")
    answers = [bob.messages(room, limit=50)["chunk"], [bob.get("/rooms/{}/event/{}", at=(room, root))]]
    for told in ({event["event_id"]: event["unsigned"] for event in events} for events in answers):
        thread = told[root]["m.relations"]["m.thread"]
        assert (thread["latest_event"]["event_id"], thread["count"]) == (latest, 2)
    assert [relations["m.thread"]["count"] for relations in bundled(alice, room, root)] == [4] * 5


def test_a_reply_that_says_itself_who_sees_it_counts_only_for_those(
    hearth: Any, database_url: str, alice: Any, bob: Any, room: str
) -> None:
    root = alice.send(room, "root")
    first = relate(alice, room, root, "m.thread", "to both")
    hidden = relate(alice, room, root, "m.thread", "from a fork in which only members see the room, and bob is none")
    hearth.stop()
    sight = json.dumps({"members": {bob.user_id: None}, "visibility": "joined"})
    with transaction(database_url) as connection:
        connection.execute(update(rooms.events).where(rooms.events.c.event_id == hidden).values(sight=sight))
    hearth.start()
    alice.base_url = bob.base_url = hearth.url
    for client, expected in ((alice, (hidden, 2)), (bob, (first, 1))):
        for relations in bundled(client, room, root):
            assert (relations["m.thread"]["latest_event"]["event_id"], relations["m.thread"]["count"]) == expected


def test_what_ignored_users_say_is_not_bundled(alice: Any, bob: Any, room: str) -> None:
    root = alice.send(room, "root")
    relate(bob, room, root, "m.thread", "one")
    relate(bob, room, root, "m.reference")
    path, nobody = "/user/{}/account_data/m.ignored_user_list", {"ignored_users": {}}
    alice.put(path, {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    assert bundled(alice, room, root) == [None] * 5
    own = relate(alice, room, root, "m.thread", "two")
    relate(bob, room, root, "m.thread", "three")
    for relations in bundled(alice, room, root):
        assert (relations["m.thread"]["count"], relations["m.thread"]["latest_event"]["event_id"]) == (1, own)
        assert "m.reference" not in relations
    alice.put(path, nobody, at=[alice.user_id])
    assert {relations["m.thread"]["count"] for relations in bundled(alice, room, root)} == {3}


def test_threads_are_listed_by_their_newest_event(alice: Any, bob: Any, room: str) -> None:
    roots = [alice.send(room, f"root {n}") for n in range(3)]
    for root in roots:
        relate(alice, room, root, "m.thread")
    relate(bob, room, roots[0], "m.thread")
    assert ids(alice.get(THREADS, at=[room])) == [roots[0], roots[2], roots[1]]
    assert ids(bob.get(THREADS, at=[room], query={"include": "participated"})) == [roots[0]]
    first = alice.get(THREADS, at=[room], query={"limit": 2})
    assert ids(alice.get(THREADS, at=[room], query={"from": first["next_batch"]})) == [roots[1]]
    assert first["chunk"][0]["unsigned"]["m.relations"]["m.thread"]["count"] == 2
    assert alice.get(THREADS, at=[room], query={"include": "none"}, expect=400)["errcode"] == "M_INVALID_PARAM"


def test_threads_are_ordered_by_what_the_reader_is_told_of_them(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    first, second = alice.send(room, "first"), alice.send(room, "second")
    by_bob, silent = bob.send(room, "by Bob"), alice.send(room, "silent")
    for root in (by_bob, first, second):
        relate(carol, room, root, "m.thread")
    for root in (first, silent):
        relate(bob, room, root, "m.thread")
    assert ids(alice.get(THREADS, at=[room])) == [silent, first, second, by_bob]
    path = "/user/{}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    page = alice.get(THREADS, at=[room])
    assert ids(page) == [second, first, by_bob]
    root = page["chunk"][2]
    assert (root["content"], root["sender"]) == ({}, bob.user_id)
    assert root["unsigned"]["m.relations"]["m.thread"]["count"] == 1
    pages = [alice.get(THREADS, at=[room], query={"limit": 1})]
    while "next_batch" in pages[-1]:
        pages.append(alice.get(THREADS, at=[room], query={"limit": 1, "from": pages[-1]["next_batch"]}))
    assert [event_id for page in pages for event_id in ids(page)] == [second, first, by_bob]


def test_a_thread_that_an_ignored_user_began_can_be_read(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    carol = hearth.register("carol")
    carol.join(room)
    root = bob.send(room, "root")
    told = relate(carol, room, root, "m.thread")
    relate(bob, room, root, "m.thread")
    path = "/user/{}/account_data/m.ignored_user_list"
    alice.put(path, {"ignored_users": {bob.user_id: {}}}, at=[alice.user_id])
    for kind in ("", "/m.thread", "/m.thread/m.room.message"):
        assert ids(alice.get(RELATIONS + kind, at=(room, root))) == [told]
    subscription = "/_matrix/client/unstable/io.element.msc4306/rooms/{}/thread/{}/subscription"
    alice.put(subscription, {"automatic": told}, at=(room, root))
    assert alice.get(subscription, at=(room, root)) == {"automatic": True}


def test_replies_that_the_reader_may_not_see_move_no_thread(hearth: Any, alice: Any, bob: Any, room: str) -> None:
    first, second = alice.send(room, "first"), alice.send(room, "second")
    for root in (first, second):
        relate(alice, room, root, "m.thread")
    bob.leave(room)
    relate(alice, room, first, "m.thread")
    assert ids(alice.get(THREADS, at=[room])) == [first, second]
    assert ids(bob.get(THREADS, at=[room])) == [second, first]


def test_relations_that_were_stored_before_there_was_a_table_for_them_are_found(
    hearth: Any, database_url: str, alice: Any, room: str
) -> None:
    root = alice.send(room, "root")
    threaded = relate(alice, room, root, "m.thread")
    alice.send(room, {"msgtype": "m.text", "body": "x", "m.relates_to": "nothing"})
    hearth.stop()
    with transaction(database_url) as connection:
        connection.exec_driver_sql("DROP TABLE event_relations")
        m0012_event_relations.upgrade(connection)
    hearth.start()
    alice.base_url = hearth.url
    assert ids(alice.get(RELATIONS, at=(room, root))) == [threaded]
