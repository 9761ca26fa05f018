"""Devices of users elsewhere, with a scripted server in the place of theirs; and messages that servers send to devices."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Connection, text
from twisted.internet.defer import Deferred

from homeserver.e2ee.ports import SERVERS_AT_ONCE, bound_timeout
from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import RoomId, ServerName, UserId
from homeserver.rooms.writer import Draft
from tests.e2ee.key_maker import V3, Device, SigningKeys, one_time_keys
from tests.kit.reactor import run_in_reactor
from tests.kit.waiting import until

CAROL = UserId("@carol:elsewhere.example")
DAVE = UserId("@dave:third.example")
ANY_KEY = "signed_curve25519"
ELSEWHERE, THIRD = ServerName("elsewhere.example"), ServerName("third.example")


class Elsewhere:
    """Carol's server."""

    def __init__(self) -> None:
        self.device = Device(CAROL, "PHONE")
        self.stream_id = 10
        self.is_down = False
        self.silence: Deferred[None] | None = None  # no answer before it ends
        self.asked: list[str] = []
        self.signing = SigningKeys(CAROL).upload()

    async def fetch_devices(self, user_id: UserId) -> dict[str, Any]:
        await self._ask("devices")
        device = {"device_id": "PHONE", "keys": self.device.keys(), "device_display_name": "Carol's phone"}
        keys = {"master_key": self.signing["master_key"], "self_signing_key": self.signing["self_signing_key"]}
        return {"user_id": user_id, "stream_id": self.stream_id, "devices": [device], **keys}

    async def fetch_keys(self, server: ServerName, user_ids: Any) -> dict[str, Any]:
        if server == THIRD:
            return {"device_keys": {DAVE: {"TABLET": Device(DAVE, "TABLET").keys()}}}
        await self._ask("keys")
        return {"device_keys": {CAROL: {"PHONE": self.device.keys()}, "@mallory:third.example": {"X": {}}}}

    async def claim_keys(self, server: ServerName, wanted: Any) -> dict[str, Any]:
        if server == THIRD:
            return {"one_time_keys": {DAVE: {"TABLET": {"signed_curve25519:D": {"key": "k", "signatures": {}}}}}}
        await self._ask("claim")
        return {"one_time_keys": {CAROL: {"PHONE": {"signed_curve25519:A": {"key": "k", "signatures": {}}}}}}

    def end_silence(self) -> None:
        silence, self.silence = self.silence, None
        if silence is not None:
            silence.callback(None)

    async def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.silence is not None:
            answer: Deferred[None] = Deferred()
            self.silence.addCallback(lambda _: None if answer.called else answer.callback(None))
            await answer  # a request of its own, which may be cancelled
        if self.is_down:
            raise NotFound("elsewhere.example can't be reached")


@pytest.fixture
def elsewhere(hearth: Any) -> Iterator[Elsewhere]:
    server = Elsewhere()
    encryption = hearth.running.services.encryption
    for user in (encryption.remote_devices, encryption.queries, encryption.claims):
        user.remote = server
    yield server
    run_in_reactor(server.end_silence)


def share_room(hearth: Any, alice: Any, membership: str = "join") -> str:
    """Carol is in a room with Alice, as after a join by federation."""
    room = str(alice.create_room(preset="public_chat"))

    def save(conn: Connection) -> None:
        values = {"user": CAROL, "room": room, "membership": membership}
        conn.execute(
            text(
                "INSERT INTO memberships (user_id, room_id, membership, event_id, sender, position, forgotten) "
                "VALUES (:user, :room, :membership, '$x', :user, 1, false)"
            ),
            values,
        )

    run_in_reactor(hearth.running.services.core.database.run, save)
    return room


def query(client: Any, *more: UserId, **about: Any) -> Any:
    return client.post(f"{V3}/keys/query", {"device_keys": {user: [] for user in (CAROL, *more)}, **about})


def fall_silent(elsewhere: Elsewhere) -> None:
    """Until `end_silence`, which is called in the reactor's thread."""
    elsewhere.silence = Deferred()


NO_ANSWER = {ELSEWHERE: {"errcode": "M_UNKNOWN", "error": "elsewhere.example did not answer in time"}}


def update(hearth: Any, origin: ServerName, **content: Any) -> None:
    body = {"user_id": CAROL, "device_id": "PHONE", **content}
    run_in_reactor(hearth.running.services.encryption.remote_devices.receive_update, origin, body)


def test_devices_of_users_one_shares_a_room_with_are_fetched_once(
    hearth: Any, elsewhere: Elsewhere, alice: Any
) -> None:
    share_room(hearth, alice)
    for _ in range(3):
        found = query(alice)
        phone = found["device_keys"][CAROL]["PHONE"]
        assert phone["keys"] == elsewhere.device.keys()["keys"]
        assert phone["unsigned"] == {"device_display_name": "Carol's phone"}
        assert found["master_keys"][CAROL]["keys"] == elsewhere.signing["master_key"]["keys"]
    assert elsewhere.asked == ["devices"]


def test_of_others_nothing_is_kept(elsewhere: Elsewhere, alice: Any) -> None:
    for _ in range(2):
        found = query(alice)
        assert list(found["device_keys"]) == [CAROL]
        assert found["device_keys"][CAROL]["PHONE"] == elsewhere.device.keys()
    assert elsewhere.asked == ["keys", "keys"]


def test_updates_are_applied_while_the_chain_is_whole_and_else_all_is_fetched_anew(
    hearth: Any, elsewhere: Elsewhere, alice: Any
) -> None:
    share_room(hearth, alice)
    query(alice)
    since = alice.sync()["next_batch"]
    tablet = Device(CAROL, "TABLET").keys()
    update(hearth, ELSEWHERE, device_id="TABLET", stream_id=11, prev_id=[10], keys=tablet)
    assert set(query(alice)["device_keys"][CAROL]) == {"PHONE", "TABLET"}
    changed = alice.get(f"{V3}/keys/changes", query={"from": since, "to": alice.sync()["next_batch"]})["changed"]
    assert changed == [CAROL]
    update(hearth, ELSEWHERE, device_id="TABLET", stream_id=12, prev_id=[11], deleted=True)
    assert set(query(alice)["device_keys"][CAROL]) == {"PHONE"}
    assert elsewhere.asked == ["devices"]
    elsewhere.stream_id = 20
    update(hearth, ELSEWHERE, stream_id=20, prev_id=[19], keys=elsewhere.device.keys())  # 13 to 19 were missed
    query(alice)
    query(alice)
    assert elsewhere.asked == ["devices", "devices"]


def test_updates_by_other_servers_or_without_sense_are_passed_over(
    hearth: Any, elsewhere: Elsewhere, alice: Any
) -> None:
    share_room(hearth, alice)
    query(alice)
    update(hearth, THIRD, device_id="EVIL", stream_id=11, prev_id=[10], keys=Device(CAROL, "EVIL").keys())
    for malformed in ({"stream_id": "11"}, {"stream_id": -1}, {"stream_id": 11, "device_id": 7}, {"user_id": 7}):
        update(hearth, ELSEWHERE, **malformed)
    foreign = Device("@mallory:elsewhere.example", "PHONE").keys()
    update(hearth, ELSEWHERE, stream_id=11, prev_id=[10], keys=foreign)
    assert "EVIL" not in query(alice)["device_keys"][CAROL]
    assert all(keys["user_id"] == CAROL for keys in query(alice)["device_keys"][CAROL].values())


def test_update_that_comes_while_the_list_is_fetched_is_not_lost(
    hearth: Any, elsewhere: Elsewhere, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    share_room(hearth, alice)
    remote_devices = hearth.running.services.encryption.remote_devices
    fetch = elsewhere.fetch_devices

    async def fetch_and_be_overtaken(user_id: UserId) -> dict[str, Any]:
        answer = await fetch(user_id)
        tablet = {"user_id": CAROL, "device_id": "TABLET", "stream_id": 11, "prev_id": [10]}
        await remote_devices.receive_update(ELSEWHERE, {**tablet, "keys": Device(CAROL, "TABLET").keys()})
        return answer

    monkeypatch.setattr(elsewhere, "fetch_devices", fetch_and_be_overtaken)
    query(alice)
    monkeypatch.undo()
    elsewhere.stream_id = 11
    query(alice)
    query(alice)
    assert elsewhere.asked == ["devices", "devices"]


def test_update_older_than_the_list_changes_nothing(hearth: Any, elsewhere: Elsewhere, alice: Any) -> None:
    share_room(hearth, alice)
    query(alice)
    update(hearth, ELSEWHERE, stream_id=9, prev_id=[8], deleted=True)
    assert set(query(alice)["device_keys"][CAROL]) == {"PHONE"}
    update(hearth, ELSEWHERE, stream_id=11, prev_id=[10], deleted=True)
    assert set(query(alice)["device_keys"][CAROL]) == set()
    assert elsewhere.asked == ["devices"]


def test_update_that_builds_on_nothing_has_the_list_fetched(hearth: Any, elsewhere: Elsewhere, alice: Any) -> None:
    share_room(hearth, alice)
    for prev in ({}, {"prev_id": []}, {"prev_id": None}, {"prev_id": "10"}, {"prev_id": [10, 11]}):
        query(alice)
        update(hearth, ELSEWHERE, stream_id=12, keys=elsewhere.device.keys(), **prev)
    query(alice)
    assert elsewhere.asked == ["devices"] * 6


def change_membership(hearth: Any, room: str, *memberships: str) -> Deferred[Any]:
    """Carol's, as told by her server; all at once."""
    drafts = [Draft("m.room.member", CAROL, {"membership": membership}, CAROL) for membership in memberships]
    writer = hearth.running.services.core.writer
    return Deferred.fromCoroutine(writer.write(RoomId(room), lambda _head: drafts))


@pytest.mark.parametrize("steps", [[["leave", "join"]], [["leave"], ["join"]]])
def test_who_left_the_last_shared_room_and_came_back_at_once_is_asked_for_anew(
    hearth: Any, elsewhere: Elsewhere, alice: Any, steps: list[list[str]]
) -> None:
    room = alice.create_room(preset="public_chat")
    run_in_reactor(change_membership, hearth, room, "join")
    query(alice)
    for memberships in steps:
        run_in_reactor(change_membership, hearth, room, *memberships)
    elsewhere.device = Device(CAROL, "PHONE")  # which nobody told us of meanwhile
    assert query(alice)["device_keys"][CAROL]["PHONE"]["keys"] == elsewhere.device.keys()["keys"]


def test_a_list_of_someone_who_leaves_while_it_is_fetched_is_not_kept(
    hearth: Any, elsewhere: Elsewhere, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = alice.create_room(preset="public_chat")
    run_in_reactor(change_membership, hearth, room, "join")
    fetch = elsewhere.fetch_devices

    async def fetch_and_leave(user_id: UserId) -> dict[str, Any]:
        answer = await fetch(user_id)
        await change_membership(hearth, room, "leave")
        return answer

    monkeypatch.setattr(elsewhere, "fetch_devices", fetch_and_leave)
    query(alice)
    monkeypatch.undo()
    run_in_reactor(change_membership, hearth, room, "join")
    elsewhere.device = Device(CAROL, "PHONE")
    assert query(alice)["device_keys"][CAROL]["PHONE"]["keys"] == elsewhere.device.keys()["keys"]


def test_signing_keys_come_by_update(hearth: Any, elsewhere: Elsewhere, alice: Any) -> None:
    share_room(hearth, alice)
    query(alice)
    new = SigningKeys(CAROL).upload()
    services = hearth.running.services.encryption
    content = {"user_id": CAROL, "master_key": new["master_key"], "self_signing_key": new["self_signing_key"]}
    run_in_reactor(services.remote_devices.receive_signing_keys, THIRD, content)
    assert query(alice)["master_keys"][CAROL]["keys"] == elsewhere.signing["master_key"]["keys"]
    run_in_reactor(services.remote_devices.receive_signing_keys, ELSEWHERE, content)
    assert query(alice)["master_keys"][CAROL]["keys"] == new["master_key"]["keys"]


@pytest.mark.parametrize("signatures", [None, "x", [], {CAROL: "x"}, {CAROL: None}, {CAROL: {"ed25519:PHONE": 7}}])
@pytest.mark.parametrize("shares_room", [True, False])
def test_keys_whose_signatures_have_no_sense_are_left_out(
    hearth: Any, elsewhere: Elsewhere, alice: Any, signatures: Any, shares_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_device = {**Device(CAROL, "BAD").keys(), "signatures": signatures}
    bad_master = {**elsewhere.signing["master_key"], "signatures": signatures}

    async def fetch_devices(user_id: UserId) -> dict[str, Any]:
        devices = [{"device_id": keys["device_id"], "keys": keys} for keys in (elsewhere.device.keys(), bad_device)]
        return {"user_id": user_id, "stream_id": 10, "devices": devices, "master_key": bad_master}

    async def fetch_keys(_server: ServerName, _user_ids: Any) -> dict[str, Any]:
        devices = {"PHONE": elsewhere.device.keys(), "BAD": bad_device}
        return {"device_keys": {CAROL: devices}, "master_keys": {CAROL: bad_master}}

    monkeypatch.setattr(elsewhere, "fetch_devices", fetch_devices)
    monkeypatch.setattr(elsewhere, "fetch_keys", fetch_keys)
    if shares_room:
        share_room(hearth, alice)
    found = query(alice, alice.user_id)
    assert set(found["device_keys"][CAROL]) == {"PHONE"}
    assert CAROL not in found.get("master_keys", {})


@pytest.mark.parametrize("device_id", ["", "\0", "\N{OLD PERSONAL COMPUTER}" * 64])
@pytest.mark.parametrize("shares_room", [True, False])
def test_devices_are_told_only_if_keys_can_be_claimed_of_them(
    hearth: Any, elsewhere: Elsewhere, alice: Any, device_id: str, shares_room: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients claim keys of many devices together, and get none if one of these ids is refused."""
    good, odd = elsewhere.device.keys(), Device(CAROL, device_id).keys()

    async def fetch_devices(user_id: UserId) -> dict[str, Any]:
        devices = [{"device_id": keys["device_id"], "keys": keys} for keys in (good, odd)]
        return {"user_id": user_id, "stream_id": 10, "devices": devices}

    async def fetch_keys(_server: ServerName, _user_ids: Any) -> dict[str, Any]:
        return {"device_keys": {CAROL: {"PHONE": good, device_id: odd}}}

    monkeypatch.setattr(elsewhere, "fetch_devices", fetch_devices)
    monkeypatch.setattr(elsewhere, "fetch_keys", fetch_keys)
    if shares_room:
        share_room(hearth, alice)
    wanted = dict.fromkeys(query(alice)["device_keys"][CAROL], ANY_KEY)
    assert list(alice.post(f"{V3}/keys/claim", {"one_time_keys": {CAROL: wanted}})["one_time_keys"][CAROL]) == ["PHONE"]
    if shares_room:
        update(hearth, ELSEWHERE, device_id=device_id, stream_id=11, prev_id=[10], keys=odd)
        assert list(query(alice)["device_keys"][CAROL]) == ["PHONE"]


@pytest.mark.parametrize("keys", [{}, {"ed25519:a": "a", "ed25519:b": "b"}])
def test_master_key_of_none_or_several_keys_can_not_be_signed(
    elsewhere: Elsewhere, alice: Any, keys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch_keys(_server: ServerName, _user_ids: Any) -> dict[str, Any]:
        return {"master_keys": {CAROL: {**elsewhere.signing["master_key"], "keys": keys}}}

    monkeypatch.setattr(elsewhere, "fetch_keys", fetch_keys)
    failures = alice.post(f"{V3}/keys/signatures/upload", {CAROL: {"a": {"signatures": {}}}})["failures"]
    assert failures[CAROL]["a"]["errcode"] == "M_NOT_FOUND"


def test_a_server_out_of_reach_is_named(hearth: Any, elsewhere: Elsewhere, alice: Any) -> None:
    elsewhere.is_down = True
    assert list(query(alice)["failures"]) == [ELSEWHERE]
    wanted = {"one_time_keys": {CAROL: {"PHONE": "signed_curve25519"}}}
    assert list(alice.post(f"{V3}/keys/claim", wanted)["failures"]) == [ELSEWHERE]
    elsewhere.is_down = False
    claimed = alice.post(f"{V3}/keys/claim", wanted)
    assert list(claimed["one_time_keys"][CAROL]["PHONE"]) == ["signed_curve25519:A"]


@pytest.mark.parametrize("shares_room", [True, False])
def test_a_query_waits_as_long_as_the_client_says(
    hearth: Any, elsewhere: Elsewhere, alice: Any, shares_room: bool
) -> None:
    if shares_room:
        share_room(hearth, alice)
    fall_silent(elsewhere)
    found = query(alice, DAVE, timeout=500)
    assert found["failures"] == NO_ANSWER
    assert list(found["device_keys"]) == [DAVE]
    assert list(found["device_keys"][DAVE]) == ["TABLET"]
    run_in_reactor(elsewhere.end_silence)
    assert list(query(alice, timeout=60_000)["device_keys"][CAROL]) == ["PHONE"]


def test_a_list_is_fetched_on_for_others_when_one_gives_up(
    hearth: Any, elsewhere: Elsewhere, alice: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeserver.e2ee.ports.MAX_TIMEOUT_MS", 60_000)
    share_room(hearth, alice)
    fall_silent(elsewhere)
    with ThreadPoolExecutor(2) as threads:
        impatient = threads.submit(query, alice.another_device(), timeout=1_000)
        until(alice, lambda: elsewhere.asked == ["devices"])
        patient = threads.submit(query, alice.another_device())
        assert impatient.result()["failures"] == NO_ANSWER
        assert not patient.done()
        run_in_reactor(elsewhere.end_silence)
        assert list(patient.result()["device_keys"][CAROL]) == ["PHONE"]
    assert list(query(alice)["device_keys"][CAROL]) == ["PHONE"]
    assert elsewhere.asked == ["devices"]


def test_a_claim_waits_as_long_as_the_client_says(elsewhere: Elsewhere, alice: Any) -> None:
    alice.post(f"{V3}/keys/upload", {"one_time_keys": one_time_keys("A")})
    fall_silent(elsewhere)
    of_all = {alice.user_id: {alice.device_id: ANY_KEY}, CAROL: {"PHONE": ANY_KEY}, DAVE: {"TABLET": ANY_KEY}}
    found = alice.post(f"{V3}/keys/claim", {"one_time_keys": of_all, "timeout": 500})
    assert found["failures"] == NO_ANSWER
    assert set(found["one_time_keys"]) == {alice.user_id, DAVE}


@pytest.mark.parametrize("path", ["query", "claim"])
def test_of_many_silent_servers_so_many_are_asked_as_there_is_time_for(
    elsewhere: Elsewhere, alice: Any, path: str
) -> None:
    fall_silent(elsewhere)
    servers = [f"s{number}.example" for number in range(4 * SERVERS_AT_ONCE)]
    if path == "query":
        wanted: Any = {"device_keys": {f"@u:{server}": [] for server in servers}}
    else:
        wanted = {"one_time_keys": {f"@u:{server}": {"PHONE": ANY_KEY} for server in servers}}
    found = alice.post(f"{V3}/keys/{path}", {**wanted, "timeout": 500})
    assert sorted(found["failures"]) == sorted(servers)
    assert 0 < len(elsewhere.asked) <= SERVERS_AT_ONCE


def test_many_servers_that_answer_are_all_asked(elsewhere: Elsewhere, alice: Any) -> None:
    users = [f"@u:s{number}.example" for number in range(4 * SERVERS_AT_ONCE)]
    found = alice.post(f"{V3}/keys/query", {"device_keys": {user: [] for user in users}})
    assert sorted(found["device_keys"]) == sorted(users) and not found["failures"]


def test_a_timeout_is_a_number_and_leaves_time_for_an_answer(elsewhere: Elsewhere, alice: Any) -> None:
    for path, wanted in (("query", {"device_keys": {CAROL: []}}), ("claim", {"one_time_keys": {}})):
        assert alice.post(f"{V3}/keys/{path}", {**wanted, "timeout": "1000"}, expect=400)["errcode"] == "M_BAD_JSON"
    for timeout in (-1, 0, 2**53 - 1):
        assert not query(alice, timeout=timeout)["failures"]
    assert [bound_timeout(timeout) for timeout in (-1, 0, 2_000, 10**9, None)] == [500, 500, 2_000, 10_000, 10_000]


def test_messages_from_servers_reach_devices_once(hearth: Any, alice: Any) -> None:
    receive = hearth.running.services.encryption.to_device.receive
    content = {
        "sender": CAROL,
        "type": "m.room.encrypted",
        "message_id": "m1",
        "messages": {
            alice.user_id: {alice.device_id: {"n": 1}, "UNKNOWN": {}},
            CAROL: {"*": {}},
            "@nobody:test.example": 7,
        },
    }
    for origin, more in ((ELSEWHERE, {}), (ELSEWHERE, {}), (THIRD, {"message_id": "m2"}), (ELSEWHERE, {"sender": 7})):
        run_in_reactor(receive, origin, {**content, **more})
    events = alice.sync()["to_device"]["events"]
    assert events == [{"type": "m.room.encrypted", "sender": CAROL, "content": {"n": 1}}]
