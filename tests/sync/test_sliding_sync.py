"""Sliding sync, with the bodies that matrix-rust-sdk sends, and in the stable shape."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.kit.client import Client

UNSTABLE = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
STABLE = "/_matrix/client/v4/sync"
STATE = [
    ["m.room.name", ""],
    ["m.room.encryption", ""],
    ["m.room.member", "$LAZY"],
    ["m.room.member", "$ME"],
    ["m.room.topic", ""],
    ["m.room.avatar", ""],
    ["m.room.power_levels", ""],
    ["org.matrix.msc3401.call.member", "*"],
    ["m.room.create", ""],
    ["m.space.child", "*"],
]


def room_list(last: int = 19, limit: int = 1, **more: Any) -> dict[str, Any]:
    """The body of the connection "room-list"."""
    return {
        "conn_id": "room-list",
        "lists": {"all_rooms": {"ranges": [[0, last]], "timeline_limit": limit, "required_state": STATE, **more}},
        "extensions": {
            "account_data": {"enabled": True},
            "receipts": {"enabled": True, "rooms": ["*"]},
            "typing": {"enabled": True},
        },
    }


ENCRYPTION = {"conn_id": "encryption", "extensions": {"to_device": {"enabled": True}, "e2ee": {"enabled": True}}}


def ask(client: Client, body: Any, pos: str | None = None, timeout: int = 0, **about: Any) -> Any:
    return client.post(UNSTABLE, body, query={"pos": pos, "timeout": timeout}, **about)


def texts(room: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in room.get("timeline", ())]


def keys(room: Any) -> set[tuple[str, str]]:
    return {(event["type"], event["state_key"]) for event in room.get("required_state", ())}


def test_the_first_answer_has_the_newest_rooms_with_what_was_asked_for(alice: Any, bob: Any) -> None:
    rooms = [alice.create_room(name=f"Room {n}", preset="public_chat") for n in range(4)]
    bob.join(rooms[1])
    alice.send(rooms[0], "newest")
    answer = ask(alice, room_list(last=1))
    assert answer["lists"] == {"all_rooms": {"count": 4}}
    assert set(answer["rooms"]) == {rooms[0], rooms[3]} or set(answer["rooms"]) == {rooms[0], rooms[1]}
    room = answer["rooms"][rooms[0]]
    assert room["initial"] is True
    assert room["name"] == "Room 0"
    assert texts(room) == ["newest"]
    assert room["limited"] is True
    assert (room["joined_count"], room["invited_count"], room["num_live"]) == (1, 0, 0)
    assert keys(room) == {
        ("m.room.name", ""),
        ("m.room.member", alice.user_id),
        ("m.room.power_levels", ""),
        ("m.room.create", ""),
    }
    earlier = alice.messages(rooms[0], **{"from": room["prev_batch"]})["chunk"]
    assert earlier[0]["type"] != "m.room.message"


def test_then_only_what_is_new(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    other = alice.create_room()
    first = ask(alice, room_list())
    assert set(first["rooms"]) == {room, other}
    assert ask(alice, room_list(), first["pos"])["rooms"] == {}
    bob.join(room)
    bob.send(room, "hi")
    second = ask(alice, room_list(limit=5), first["pos"])
    assert ask(alice, room_list(), first["pos"])["rooms"].keys() == {room}  # asked again, as after a lost answer
    third = ask(alice, room_list(limit=5), second["pos"])
    assert third["rooms"] == {}
    expanded = second["rooms"]
    assert set(expanded) == {room, other}  # more of the timeline was wanted
    assert expanded[other]["unstable_expanded_timeline"] is True
    assert "initial" not in expanded[other]


def test_live_events_come_with_members_and_counts(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    body = room_list(limit=10)
    first = ask(alice, body)
    bob.join(room)
    bob.send(room, "hi")
    second = ask(alice, body, first["pos"])["rooms"][room]
    assert texts(second) == ["m.room.member", "hi"]
    assert second["limited"] is False
    assert second["num_live"] == 2
    assert second["joined_count"] == 2
    assert second["notification_count"] == 1
    assert ("m.room.member", bob.user_id) in keys(second)
    assert second["heroes"] == [{"user_id": bob.user_id, "displayname": "bob"}]


def test_a_waiting_client_is_woken_and_an_idle_one_answered_in_time(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    pos = ask(alice, room_list())["pos"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, alice, room_list(), pos, 20_000)
        bob.send(room, "wake up")
        assert texts(waiting.result(120)["rooms"][room]) == ["wake up"]
    idle = ask(alice, room_list(), ask(alice, room_list(), pos)["pos"], 50)
    assert idle["rooms"] == {}


def test_a_changed_list_is_answered_at_once(alice: Any) -> None:
    rooms = [alice.create_room() for _ in range(3)]
    first = ask(alice, room_list(last=0))
    second = ask(alice, room_list(last=2), first["pos"], 20_000)
    assert set(first["rooms"]) | set(second["rooms"]) == set(rooms)
    subscribed = {**room_list(last=2), "room_subscriptions": {rooms[0]: {"timeline_limit": 20, "required_state": []}}}
    third = ask(alice, subscribed, second["pos"], 20_000)
    assert third["rooms"][rooms[0]]["unstable_expanded_timeline"] is True
    assert len(third["rooms"][rooms[0]]["timeline"]) > 3


def test_more_required_state_is_sent_when_it_is_asked_for(alice: Any) -> None:
    room = alice.create_room(topic="What it is about")
    body = {"lists": {"l": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [["m.room.create", ""]]}}}
    first = ask(alice, body)
    assert keys(first["rooms"][room]) == {("m.room.create", "")}
    body["lists"]["l"]["required_state"] = [["m.room.create", ""], ["m.room.topic", "*"]]
    second = ask(alice, body, first["pos"])
    assert keys(second["rooms"][room]) == {("m.room.topic", "")}
    body["lists"]["l"]["required_state"] = [["*", "*"]]
    third = ask(alice, body, second["pos"])
    assert {("m.room.power_levels", ""), ("m.room.member", alice.user_id)} <= keys(third["rooms"][room])
    alice.set_state(room, "m.room.topic", {"topic": "Another"})
    assert keys(ask(alice, body, third["pos"])["rooms"][room]) == {("m.room.topic", "")}


def test_lazy_members_come_again_with_a_longer_timeline_that_is_limited(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    for text in ("one", "two", "three"):
        alice.send(room, text)
    lazy = [["m.room.member", "$LAZY"]]
    first = ask(alice, room_list(limit=1, required_state=lazy))
    assert keys(first["rooms"][room]) == {("m.room.member", alice.user_id)}
    second = ask(alice, room_list(limit=2, required_state=lazy), first["pos"])
    expanded = second["rooms"][room]
    assert (texts(expanded), expanded["limited"]) == (["two", "three"], True)
    assert keys(expanded) == {("m.room.member", alice.user_id)}  # the client flushed it, as the timeline is limited
    alice.send(room, "four")
    third = ask(alice, room_list(limit=2, required_state=lazy), second["pos"])["rooms"][room]
    assert (third["limited"], keys(third)) == (False, set())


def test_rooms_out_of_the_window_come_back_with_what_was_missed(alice: Any) -> None:
    old, new = alice.create_room(), alice.create_room()
    first = ask(alice, room_list(last=1, limit=3))
    narrow = room_list(last=0, limit=3)
    alice.send(new, "in the window")
    second = ask(alice, narrow, first["pos"])
    assert set(second["rooms"]) == {new}
    for n in range(5):
        alice.send(old, f"missed {n}")
    third = ask(alice, narrow, second["pos"])
    assert texts(third["rooms"][old]) == ["missed 2", "missed 3", "missed 4"]
    assert third["rooms"][old]["limited"] is True
    assert "initial" not in third["rooms"][old]


def test_invites_and_knocks_show_stripped_state_and_filters_part_lists(alice: Any, bob: Any) -> None:
    invited = alice.create_room(name="Come in", invite=[bob.user_id])
    own = bob.create_room(
        initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
    )
    space = bob.create_room(creation_content={"type": "m.space"})
    bob.put("/user/{}/account_data/m.direct", {alice.user_id: [own]}, at=[bob.user_id])

    def listed(**filters: Any) -> set[str]:
        answer = ask(bob, room_list(filters=filters))
        assert answer["lists"]["all_rooms"]["count"] == len(answer["rooms"])
        return set(answer["rooms"])

    assert listed() == {invited, own, space}
    assert listed(is_invite=True) == {invited}
    assert listed(is_invite=False) == {own, space}
    assert listed(is_encrypted=True) == {own}
    assert listed(is_dm=True) == {own}
    assert listed(not_room_types=["m.space"], is_invite=False) == {own}
    assert listed(room_types=["m.space"]) == {space}
    room = ask(bob, room_list())["rooms"][invited]
    assert {"m.room.name", "m.room.member"} <= {event["type"] for event in room["invite_state"]}
    assert room["name"] == "Come in"
    assert "timeline" not in room


def test_who_is_kicked_sees_it_and_who_left_forgets_the_room(alice: Any, bob: Any) -> None:
    room, other = (alice.create_room(preset="public_chat") for _ in range(2))
    bob.join(room)
    bob.join(other)
    pos = ask(bob, room_list())["pos"]
    alice.kick(room, bob.user_id)
    bob.leave(other)
    answer = ask(bob, room_list(), pos)
    assert texts(answer["rooms"][room]) == ["m.room.member"]
    assert texts(answer["rooms"][other]) == ["m.room.member"]
    assert set(ask(bob, {**room_list(), "conn_id": "another"})["rooms"]) == {room}
    bob.join(other)
    again = ask(bob, room_list(), answer["pos"])
    assert again["rooms"][other]["initial"] is True


def test_positions_that_are_not_known(hearth: Any, alice: Any, bob: Any) -> None:
    first = ask(alice, room_list())
    assert ask(bob, room_list(), first["pos"], expect=400)["errcode"] == "M_UNKNOWN_POS"
    assert ask(alice, ENCRYPTION, first["pos"], expect=400)["errcode"] == "M_UNKNOWN_POS"
    for foreign in ("nonsense", "m1234~5.678_9", "s1_2~3"):
        assert ask(alice, room_list(), foreign, expect=400)["errcode"] == "M_UNKNOWN_POS"
    alice.create_room()
    second = ask(alice, room_list(), first["pos"])
    ask(alice, room_list(), second["pos"])
    assert ask(alice, room_list(), first["pos"], expect=400)["errcode"] == "M_UNKNOWN_POS"
    hearth.restart()
    alice.base_url = hearth.url
    assert ask(alice, room_list(), second["pos"], expect=400)["errcode"] == "M_UNKNOWN_POS"


def test_the_encryption_connection(alice: Any, bob: Any) -> None:
    first = ask(bob, ENCRYPTION)
    assert first["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}
    since = first["extensions"]["to_device"]["next_batch"]
    body = {**ENCRYPTION, "extensions": {"to_device": {"enabled": True, "since": since}, "e2ee": {"enabled": True}}}
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, bob, body, first["pos"], 20_000)
        alice.put("/sendToDevice/m.x/1", {"messages": {bob.user_id: {bob.device_id: {"n": 1}}}})
        second = waiting.result(120)
    assert [event["content"] for event in second["extensions"]["to_device"]["events"]] == [{"n": 1}]
    repeated = ask(bob, body, second["pos"])
    assert len(repeated["extensions"]["to_device"]["events"]) == 1  # not acknowledged yet
    body["extensions"]["to_device"]["since"] = second["extensions"]["to_device"]["next_batch"]
    assert "to_device" not in ask(bob, body, second["pos"])["extensions"]
    assert "to_device" not in bob.sync()


def test_the_encryption_connection_is_woken_by_new_sessions_of_ones_own(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)

    def say(client: Any, session: str) -> None:
        content = {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x", "session_id": session}
        client.send(room, content, "m.room.encrypted")

    pos = ask(bob, ENCRYPTION)["pos"]
    for session in ("one", "two"):
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(ask, bob, ENCRYPTION, pos, 120_000)
            say(alice, f"of alice's {session}")
            say(bob, session)
            answer = waiting.result(60)
            assert answer["extensions"]["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 0}
            pos = answer["pos"]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(ask, bob, ENCRYPTION, pos, 120_000)
        say(bob, "two")
        say(alice, "another")
        alice.put("/sendToDevice/m.x/1", {"messages": {bob.user_id: {bob.device_id: {"n": 1}}}})
        assert len(waiting.result(60)["extensions"]["to_device"]["events"]) == 1  # that alone was news


def test_messages_outlive_a_since_of_before_the_database_was_restored(alice: Any, bob: Any) -> None:
    alice.put("/sendToDevice/m.x/1", {"messages": {bob.user_id: {bob.device_id: {"n": 1}}}})
    extensions = {"to_device": {"enabled": True, "since": "999999999999"}, "e2ee": {"enabled": True}}
    first = ask(bob, {**ENCRYPTION, "extensions": extensions})["extensions"]["to_device"]
    assert [event["content"] for event in first["events"]] == [{"n": 1}]
    extensions["to_device"]["since"] = first["next_batch"]
    assert ask(bob, {**ENCRYPTION, "extensions": extensions})["extensions"]["to_device"]["events"] == []
    assert "to_device" not in bob.sync()


def test_extensions_tell_of_the_rooms_in_the_window(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    event_id = alice.send(room, "hello")
    bob.post("/rooms/{}/receipt/m.read/{}", at=(room, event_id))
    alice.put("/user/{}/rooms/{}/tags/m.favourite", {}, at=(alice.user_id, room))
    bob.put("/rooms/{}/typing/{}", {"typing": True, "timeout": 60_000}, at=(room, bob.user_id))
    first = ask(alice, room_list())
    found = first["extensions"]
    assert event_id in found["receipts"]["rooms"][room]["content"]
    assert found["typing"]["rooms"][room]["content"]["user_ids"] == [bob.user_id]
    assert found["account_data"]["rooms"][room][0]["type"] == "m.tag"
    assert "m.push_rules" in {item["type"] for item in found["account_data"]["global"]}
    assert ask(alice, room_list(), first["pos"])["extensions"] == {}
    alice.put("/user/{}/account_data/m.x", {"a": 1}, at=[alice.user_id])
    bob.put("/rooms/{}/typing/{}", {"typing": False}, at=(room, bob.user_id))
    second = ask(alice, room_list(), first["pos"], 20_000)["extensions"]
    assert second["account_data"]["global"] == [{"type": "m.x", "content": {"a": 1}}]
    assert second["typing"]["rooms"][room]["content"]["user_ids"] == []


def test_the_stable_shape(alice: Any, bob: Any) -> None:
    room = alice.create_room(name="One", preset="public_chat")
    state = {"include": [{}], "exclude": [{"type": "m.room.create"}], "lazy_members": True}
    body = {"lists": {"all": {"range": [0, 9], "timeline_limit": 2, "required_state": state}}, "txn_id": "t"}
    first = alice.post(STABLE, body)
    assert first["txn_id"] == "t"
    told = first["rooms"][room]
    assert (told["membership"], told["lists"]) == ("join", ["all"])
    assert "notification_count" not in told
    assert ("m.room.name", "") in keys(told)
    assert ("m.room.create", "") not in keys(told)
    alice.get("/rooms/{}/messages", at=[room], query={"dir": "b", "from": first["pos"]})
    alice.invite(alice.create_room(name="Two"), bob.user_id)
    [invited] = bob.post(STABLE, {"lists": {"all": {"timeline_limit": 1, "required_state": {}}}})["rooms"].values()
    assert invited["membership"] == "invite"
    assert {event["type"] for event in invited["stripped_state"]} >= {"m.room.name"}
    second = alice.post(STABLE, {**body, "pos": first["pos"], "timeout": 10})
    assert room not in second["rooms"]


def set_direct(client: Client, *rooms: str) -> None:
    client.put("/user/{}/account_data/m.direct", {client.user_id: rooms}, at=[client.user_id])


@pytest.mark.parametrize("shape", [UNSTABLE, STABLE])
def test_rooms_that_become_or_stop_being_direct_are_told(alice: Any, shape: str) -> None:
    room, other = alice.create_room(), alice.create_room()
    body = {"lists": {"all": {"timeline_limit": 1, "required_state": [] if shape == UNSTABLE else {}}}}
    body["lists"]["all"]["ranges"] = [[0, 9]]
    always = {"bump_stamp", "membership", "lists"} if shape == STABLE else {"bump_stamp"}
    always |= {"notification_count", "highlight_count"} if shape == UNSTABLE else set()

    def told(pos: str | None, timeout: int = 0) -> Any:
        about = {"pos": pos, "timeout": timeout} if pos else {}
        return alice.post(shape, {**body, **(about if shape == STABLE else {})}, query=about)

    first = told(None)
    assert set(first["rooms"]) == {room, other}
    assert "is_dm" not in str(first)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(told, first["pos"], 60_000)
        set_direct(alice, room)
        second = waiting.result(120)
    for answer in (second, told(first["pos"])):
        assert set(answer["rooms"]) == {room}
        assert answer["rooms"][room].keys() == always | {"is_dm"}
        assert answer["rooms"][room]["is_dm"] is True
    alice.put("/user/{}/account_data/m.x", {}, at=[alice.user_id])
    third = told(second["pos"])
    assert third["rooms"] == {}
    alice.send(room, "hi")
    set_direct(alice, room, other)
    fourth = told(third["pos"])["rooms"]
    assert (texts(fourth[room]), fourth[room]["is_dm"], fourth[other]["is_dm"]) == (["hi"], True, True)
    set_direct(alice)
    fifth = told(third["pos"])
    assert set(fifth["rooms"]) == {room}
    assert (texts(fifth["rooms"][room]), fifth["rooms"][room]["is_dm"]) == (["hi"], False)
    alice.send(room, "again")
    assert "is_dm" not in told(fifth["pos"])["rooms"][room]


def test_a_room_out_of_the_window_comes_back_with_what_its_directness_became(alice: Any) -> None:
    room, other = alice.create_room(), alice.create_room()
    set_direct(alice, other)
    first = ask(alice, room_list(last=1))
    assert [first["rooms"][each].get("is_dm") for each in (room, other)] == [None, True]
    alice.send(other, "the newest")
    second = ask(alice, room_list(last=0), first["pos"])
    set_direct(alice, room)
    third = ask(alice, room_list(last=0), second["pos"])
    assert {key: each["is_dm"] for key, each in third["rooms"].items()} == {other: False}
    fourth = ask(alice, room_list(last=1), third["pos"])
    assert {key: each["is_dm"] for key, each in fourth["rooms"].items()} == {room: True}
    assert ask(alice, room_list(last=1), fourth["pos"])["rooms"] == {}


def test_which_rooms_are_direct_is_looked_up_when_something_happened_to_the_user(
    alice: Any, bob: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    set_direct(alice, room)
    first = ask(alice, room_list())
    looked_up: list[Any] = []
    monkeypatch.setattr("homeserver.sync.sliding.rooms.direct_rooms", lambda view: looked_up.append(view) or {room})
    bob.send(room, "hi")
    second = ask(alice, room_list(), first["pos"])
    assert (texts(second["rooms"][room]), second["rooms"][room]["is_dm"], looked_up) == (["hi"], True, [])
    ask(alice, room_list(), second["pos"])
    assert looked_up == []
    alice.put("/user/{}/account_data/m.x", {}, at=[alice.user_id])
    ask(alice, room_list(), second["pos"])
    assert looked_up


@pytest.mark.parametrize("shape", [UNSTABLE, STABLE])
def test_events_since_the_last_answer_are_live_in_rooms_that_are_new_to_the_client(
    alice: Any, bob: Any, shape: str
) -> None:
    old, left, new = (alice.create_room(preset="public_chat") for _ in range(3))
    for room in (old, left, new):
        bob.join(room)
        alice.send(room, "before")
    window = {"ranges": [[0, 0]], "range": [0, 0], "timeline_limit": 4}
    body = {"lists": {"all": {**window, "required_state": [] if shape == UNSTABLE else {}}}}

    def told(pos: str | None, room: str) -> tuple[str, Any, int, int]:
        answer = bob.post(shape, {**body, "pos": pos} if pos else body, query={"pos": pos})
        [shown] = answer["rooms"].items()
        assert shown[0] == room
        return answer["pos"], shown[1].get("initial", False), len(shown[1]["timeline"]), shown[1]["num_live"]

    pos, *begun = told(None, new)
    assert begun == [True, 4, 0]
    alice.send(new, "out of the window")
    alice.send(old, "one")
    alice.send(old, "two")
    pos, *entered = told(pos, old)
    assert entered == [True, 4, 2]
    alice.send(new, "in the window")
    pos, *back = told(pos, new)
    assert back == [False, 2, 1]
    alice.kick(left, bob.user_id)
    assert told(pos, left)[1:] == (True, 4, 1)
    alice.send(old, "three")
    assert told(pos, old)[1:] == (False, 1, 1)
    assert told(None, old)[1:] == (True, 4, 0)


def test_a_room_that_is_only_subscribed_to_names_no_lists(alice: Any) -> None:
    listed, other = alice.create_room(is_direct=True), alice.create_room()
    alice.put("/user/{}/account_data/m.direct", {alice.user_id: [listed]}, at=[alice.user_id])
    wanted = {"timeline_limit": 1, "required_state": {}}
    body: dict[str, Any] = {"room_subscriptions": dict.fromkeys((listed, other), wanted)}
    body["lists"] = {"direct": {**wanted, "filters": {"is_dm": True}}}
    first = alice.post(STABLE, body)
    assert first["rooms"][listed]["lists"] == ["direct"]
    assert first["rooms"][other]["membership"] == "join"
    assert "lists" not in first["rooms"][other]
    alice.send(other, "hi")
    assert "lists" not in alice.post(STABLE, {**body, "pos": first["pos"]})["rooms"][other]


def test_relations_are_bundled_behind_a_gap(alice: Any, bob: Any) -> None:
    room = alice.create_room(preset="public_chat")
    bob.join(room)
    pos = ask(bob, room_list(limit=3))["pos"]
    for number in range(3):
        alice.send(room, f"{number}")
    root = alice.send(room, "root")
    reply = {"body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    edit = {"body": "* x", "m.new_content": {"body": "x"}, "m.relates_to": {"rel_type": "m.replace", "event_id": root}}
    latest, newest = bob.send(room, reply), alice.send(room, edit)
    told = ask(bob, room_list(limit=3), pos)["rooms"][room]
    assert told["limited"] is True
    assert [event["event_id"] for event in told["timeline"]] == [root, latest, newest]
    relations = told["timeline"][0]["unsigned"]["m.relations"]
    assert relations["m.replace"]["event_id"] == newest
    assert relations["m.thread"]["latest_event"]["event_id"] == latest
    assert relations["m.thread"]["current_user_participated"] is True


def test_a_thread_is_bundled_with_a_root_whose_sender_is_erased(hearth: Any, alice: Any, bob: Any) -> None:
    room, carol = alice.create_room(preset="public_chat"), hearth.register("carol")
    bob.join(room)
    root = bob.send(room, "secret")
    reply = {"body": "reply", "m.relates_to": {"rel_type": "m.thread", "event_id": root}}
    edit = {"body": "* x", "m.new_content": {"body": "x"}, "m.relates_to": {"rel_type": "m.replace", "event_id": root}}
    latest = alice.send(room, reply)
    bob.send(room, edit)
    user = {"type": "m.id.user", "user": bob.user_id}
    auth = {"type": "m.login.password", "identifier": user, "password": "password of the tests"}
    bob.post("/account/deactivate", {"erase": True, "auth": auth})
    carol.join(room)
    events = ask(carol, room_list(limit=50))["rooms"][room]["timeline"]
    [shown] = [event for event in events if event["event_id"] == root]
    assert shown["content"] == {}
    assert shown["unsigned"]["m.relations"].keys() == {"m.thread"}
    assert shown["unsigned"]["m.relations"]["m.thread"]["latest_event"]["event_id"] == latest


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"lists": []}, "lists"),
        ({"lists": {"a": {"ranges": [[5, 1]]}}}, "lists.a.ranges"),
        ({"lists": {"a": {"ranges": [[0, -1]]}}}, "lists.a.ranges"),
        ({"lists": {"a": {"timeline_limit": "1"}}}, "lists.a.timeline_limit"),
        ({"lists": {"a": {"required_state": [["x"]]}}}, "lists.a.required_state"),
        ({"lists": {"a": {"filters": {"is_dm": 1}}}}, "lists.a.filters.is_dm"),
        ({"lists": {str(n): {} for n in range(101)}}, "lists"),
        ({"room_subscriptions": {f"!{n}": {} for n in range(101)}}, "room_subscriptions"),
        ({"extensions": {"to_device": {"enabled": True, "since": "x"}}}, "extensions.to_device.since"),
        ({"extensions": {"receipts": {"enabled": "yes"}}}, "extensions.receipts.enabled"),
        ({"conn_id": 7}, "conn_id"),
    ],
)
def test_malformed_requests_name_the_field(alice: Any, body: Any, named: str) -> None:
    error = ask(alice, body, expect=400)
    assert error["errcode"] == "M_INVALID_PARAM"
    assert named in error["error"]
    huge = {"lists": {"a": {"ranges": [[0, 2**52]], "timeline_limit": 10**9, "required_state": []}}}
    assert ask(alice, huge)["lists"]["a"]["count"] == 0
