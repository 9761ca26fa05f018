"""Keys: fetched, believed or not, kept; our own; and those that a notary tells."""

from __future__ import annotations

import json
import threading
import time
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from federation.keys.key_ring import ASK_AGAIN_MS, HEAD_START_MS, KeyRequest
from federation.xmatrix import Unauthorized
from homeserver.matrix.ids import ServerName
from homeserver.matrix.signing import KeyId, SigningKey, format_signing_keys, sign_json, verify_json
from homeserver.runtime.clock import ManualClock
from homeserver.runtime.coroutine import gather
from tests.kit.federation import Answer, FederatedServer, ScriptedPeer
from tests.kit.reactor import run_in_reactor, wait

KEYS = "/_matrix/key/v2/server"
QUERY = "/_matrix/key/v2/query"
HOUR_MS = 3600 * 1000
DAY_MS = 24 * HOUR_MS


def now_ms() -> int:
    return int(time.time() * 1000)


def load(hearth: FederatedServer, server: str, key_id: str, valid_at_ms: int | None = None) -> Any:
    """The key, or None."""
    wanted = KeyRequest(ServerName(server), KeyId(key_id), valid_at_ms)
    return run_in_reactor(lambda: hearth.federation.ring.load_verify_keys([wanted])).get(wanted)


def is_signed(hearth: FederatedServer, server: str, json: Any, valid_at_ms: int | None = None) -> bool:
    try:
        run_in_reactor(lambda: hearth.federation.ring.check_json(server, json, valid_at_ms=valid_at_ms))
    except Unauthorized:
        return False
    return True


def notarized(notary: ScriptedPeer, *documents: dict[str, Any]) -> dict[str, Any]:
    return {"server_keys": [sign_json(each, notary.server_name, notary.key) for each in documents]}


# -- times ---------------------------------------------------------------------------------------------------------------


def test_key_is_good_until_its_document_says(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.valid_for_ms = HOUR_MS
    signed = sign_json({"a": 1}, peer.server_name, peer.key)
    assert is_signed(hearth, peer.server_name, signed, now_ms())
    assert is_signed(hearth, peer.server_name, signed, now_ms() - 1000 * DAY_MS)
    assert not is_signed(hearth, peer.server_name, signed, now_ms() + 2 * HOUR_MS)
    assert is_signed(hearth, peer.server_name, signed, None)


def test_validity_ends_after_seven_days_whatever_the_document_says(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.valid_for_ms = 1000 * DAY_MS
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms() + 6 * DAY_MS) is not None
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms() + 8 * DAY_MS) is None


def test_old_key_is_good_for_its_time_only(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    old, ended_ms = SigningKey("old", b"o" * 32), now_ms() - DAY_MS
    peer.old_keys = {old.key_id: {"key": old.verify_key.to_base64(), "expired_ts": ended_ms}}
    signed = sign_json({"a": 1}, peer.server_name, old)
    assert is_signed(hearth, peer.server_name, signed, ended_ms)
    assert not is_signed(hearth, peer.server_name, signed, ended_ms + 1)
    assert is_signed(hearth, peer.server_name, signed, None)  # rooms before version 5 don't ask


def test_key_whose_time_is_over_is_fetched_anew(start_federated: Any, start_peer: Any) -> None:
    clock = ManualClock(now_ms())
    hearth, peer = start_federated(clock=clock), start_peer()
    peer.valid_for_ms = HOUR_MS
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms()) is not None
    run_in_reactor(lambda: clock.advance(2 * HOUR_MS))
    peer.valid_for_ms = 4 * HOUR_MS
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms() + 2 * HOUR_MS) is not None
    assert len(peer.received(KEYS)) == 2


def test_rotated_key_is_learnt_and_the_one_before_grows_old(start_federated: Any, start_peer: Any) -> None:
    clock = ManualClock(now_ms())
    hearth, peer = start_federated(clock=clock), start_peer()
    before = peer.key
    assert load(hearth, peer.server_name, before.key_id, now_ms()) is not None
    ended_ms = now_ms() - 1000
    peer.key = SigningKey("next", b"n" * 32)
    peer.old_keys = {before.key_id: {"key": before.verify_key.to_base64(), "expired_ts": ended_ms}}
    run_in_reactor(lambda: clock.advance(ASK_AGAIN_MS + 1))
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms()) is not None
    assert load(hearth, peer.server_name, before.key_id, ended_ms + 1) is None
    hearth.restart()
    peer.stop()
    assert load(hearth, peer.server_name, before.key_id, ended_ms) == before.verify_key
    assert load(hearth, peer.server_name, before.key_id, ended_ms + 1) is None


# -- asking --------------------------------------------------------------------------------------------------------------


def test_many_that_want_a_key_cause_one_fetch(start_federated: Any, start_peer: Any) -> None:
    """Also those who read the database before it is stored and come to ask after that."""
    hearth, peer = start_federated(), start_peer()
    wanted = KeyRequest(peer.server_name, peer.key.key_id, None)
    ring = hearth.federation.ring
    found = run_in_reactor(lambda: gather(ring.load_verify_keys([wanted]) for _ in range(30)))
    assert [wanted in each for each in found] == [True] * 30
    assert len(peer.received(KEYS)) == 1


def test_key_that_another_learns_meanwhile_is_found(start_federated: Any, start_peer: Any) -> None:
    """A notary's asker fetched the document a moment ago: it is in memory, not in the database, and is not asked for again."""
    hearth, peer = start_federated(), start_peer()
    wanted, ring = KeyRequest(peer.server_name, peer.key.key_id, None), hearth.federation.ring

    async def race() -> Any:
        reading, first = ring.database.read, True

        async def read(*args: Any) -> Any:
            nonlocal first
            rows = await reading(*args)
            if first:
                first = False
                await ring.fetch_document(peer.server_name)
            return rows

        ring.database = type("Slow", (), {"read": staticmethod(read), "run": ring.database.run})
        return await ring.load_verify_keys([wanted])

    assert wanted in run_in_reactor(race)


def test_made_up_key_ids_don_t_make_us_ask_again(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    assert [load(hearth, peer.server_name, f"ed25519:no{n}") for n in range(20)] == [None] * 20
    assert len(peer.received(KEYS)) == 1


def test_server_without_keys_is_asked_again_after_a_while(start_federated: Any, start_peer: Any) -> None:
    clock = ManualClock(now_ms())
    hearth, peer = start_federated(clock=clock), start_peer()
    peer.answer("GET", KEYS, {}, status=500)
    assert [load(hearth, peer.server_name, peer.key.key_id) for _ in range(3)] == [None] * 3
    assert len(peer.received(KEYS)) == 1
    run_in_reactor(lambda: clock.advance(60_001))
    peer.answer("GET", KEYS, lambda _: peer.key_document())
    assert load(hearth, peer.server_name, peer.key.key_id) is not None


# -- documents that are not believed -------------------------------------------------------------------------------------


def _changed(**changes: Any) -> Any:
    return lambda peer: peer.key_document(**changes)


def _unsigned(peer: ScriptedPeer) -> Any:
    return {**peer.key_document(), "signatures": {}}


def _tampered(peer: ScriptedPeer) -> Any:
    return {**peer.key_document(), "valid_until_ts": now_ms() + 2 * DAY_MS}


def _signed_by_a_key_that_is_not_listed(peer: ScriptedPeer) -> Any:
    stranger = SigningKey("stranger", b"s" * 32)
    document = {**peer.key_document(), "signatures": {}}
    return sign_json(document, peer.server_name, stranger)


def _signed_by_its_old_key_only(peer: ScriptedPeer) -> Any:
    old, new = SigningKey("old", b"o" * 32), {"key": SigningKey("new", b"n" * 32).verify_key.to_base64()}
    listed = {old.key_id: {"key": old.verify_key.to_base64(), "expired_ts": 1}}
    document = {**peer.key_document(verify_keys={"ed25519:new": new}, old_verify_keys=listed), "signatures": {}}
    return sign_json(document, peer.server_name, old)


@pytest.mark.parametrize(
    "make",
    [
        _unsigned,
        _tampered,
        _signed_by_a_key_that_is_not_listed,
        _signed_by_its_old_key_only,
        _changed(server_name="other.test"),
        _changed(server_name=None),
        _changed(valid_until_ts=-1),
        _changed(valid_until_ts="tomorrow"),
        _changed(valid_until_ts=2**60),
        _changed(valid_until_ts=True),
        _changed(verify_keys={}),
        _changed(verify_keys=[]),
        _changed(verify_keys={"ed25519:peer": {"key": "AAAA"}}),
        _changed(verify_keys={"ed25519:peer": {"key": 5}}),
        _changed(verify_keys={"ed25519:peer": "key"}),
        _changed(verify_keys={f"ed25519:{n}": {"key": "AAAA"} for n in range(1000)}),
        _changed(verify_keys={"ed25519:" + "x" * 1000: {"key": "AAAA"}}),
        _changed(old_verify_keys={"ed25519:x": {"key": "A" * 43}}),
        _changed(old_verify_keys=[]),
        lambda peer: [],
        lambda peer: None,
        lambda peer: Answer(b"<html>"),
        lambda peer: Answer(b"{" + b" " * 100_000 + b"}"),
        lambda peer: {**peer.key_document(), "signatures": []},
        lambda peer: {**peer.key_document(), "signatures": {peer.server_name: {peer.key.key_id: 5}}},
    ],
)
def test_document_is_not_believed(start_federated: Any, start_peer: Any, make: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", KEYS, lambda _: make(peer))
    assert load(hearth, peer.server_name, peer.key.key_id) is None


def test_keys_of_unknown_algorithms_are_passed_over(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    listed = {peer.key.key_id: {"key": peer.key.verify_key.to_base64()}, "ml-dsa:1": {"key": "x" * 2000}}
    peer.answer("GET", KEYS, lambda _: peer.key_document(verify_keys=listed))
    assert load(hearth, peer.server_name, peer.key.key_id) == peer.key.verify_key


# -- from notaries -------------------------------------------------------------------------------------------------------


@pytest.fixture
def notary(start_peer: Any) -> Any:
    return start_peer(key=SigningKey("notary", b"n" * 32))


@pytest.fixture
def hearth(start_federated: Any, notary: ScriptedPeer) -> Any:
    """With a notary."""
    return start_federated(settings={"federation": {"trusted_key_servers": [str(notary.server_name)]}})


def test_keys_of_a_server_that_is_gone_come_from_the_notary(hearth: Any, notary: Any, start_peer: Any) -> None:
    peer = start_peer()
    document, signed = peer.key_document(), sign_json({"a": 1}, peer.server_name, peer.key)
    peer.stop()
    notary.answer("POST", QUERY, notarized(notary, document))
    at_ms = now_ms()
    assert is_signed(hearth, peer.server_name, signed, at_ms)
    [asked] = notary.received(QUERY)
    wanted = {peer.key.key_id: {"minimum_valid_until_ts": at_ms}}
    assert asked.json == {"server_keys": {peer.server_name: wanted}}
    hearth.restart()
    assert is_signed(hearth, peer.server_name, signed, at_ms)
    assert len(notary.received(QUERY)) == 1


def test_server_that_does_not_answer_holds_nobody_up(
    start_federated: Any, start_peer: Any, notary: ScriptedPeer
) -> None:
    """Nor does a notary that hangs. The clock stands still but for the head start that servers have before notaries."""
    silent, hanging, asked, over = start_peer(), start_peer(), threading.Event(), threading.Event()
    clock = ManualClock(now_ms())
    names = [str(hanging.server_name), str(notary.server_name)]
    hearth = start_federated(clock=clock, settings={"federation": {"trusted_key_servers": names}})

    def hang(_: Any) -> None:
        asked.set()
        over.wait(60)

    silent.answer_raw("GET", KEYS, hang)
    hanging.answer_raw("POST", QUERY, hang)
    notary.answer("POST", QUERY, notarized(notary, silent.key_document()))
    ring, wanted = hearth.federation.ring, KeyRequest(silent.server_name, silent.key.key_id, now_ms())
    loading = run_in_reactor(lambda: [Deferred.fromCoroutine(ring.load_verify_keys([wanted]))])
    try:
        assert asked.wait(60)
        run_in_reactor(lambda: clock.advance(HEAD_START_MS))
        assert wait(loading[0]) == {wanted: silent.key.verify_key}
    finally:
        over.set()


def test_server_that_failed_lately_is_not_waited_for(
    start_federated: Any, start_peer: Any, notary: ScriptedPeer
) -> None:
    clock, peer = ManualClock(now_ms()), start_peer()
    names = [str(notary.server_name)]
    hearth = start_federated(clock=clock, settings={"federation": {"trusted_key_servers": names}})
    notary.answer("POST", QUERY, notarized(notary, peer.key_document()))
    run_in_reactor(hearth.federation.destinations.note_failure, peer.server_name, "it is away")
    ring, wanted = hearth.federation.ring, KeyRequest(peer.server_name, peer.key.key_id, now_ms())
    found = run_in_reactor(lambda: gather(ring.load_verify_keys([wanted]) for _ in range(5)))
    assert found == [{wanted: peer.key.verify_key}] * 5
    assert peer.received(KEYS) == []
    assert len(notary.received(QUERY)) == 1


@pytest.mark.parametrize("case", ["unsigned", "made up", "wrong notary", "wrong server", "garbage"])
def test_notary_can_t_make_keys_up(hearth: Any, notary: Any, start_peer: Any, case: str) -> None:
    peer = start_peer()
    document = peer.key_document()
    forger = ScriptedPeer(peer.ca, key=SigningKey("peer", b"f" * 32))
    forger.port = peer.port
    peer.stop()
    answers: dict[str, Any] = {
        "unsigned": {"server_keys": [document]},
        "made up": notarized(notary, {**forger.key_document(), "signatures": document["signatures"]}),
        "wrong notary": {"server_keys": [sign_json(document, notary.server_name, forger.key)]},
        "wrong server": notarized(notary, {**document, "server_name": "other.test"}),
        "garbage": {"server_keys": [None, 5, {}, {"server_name": peer.server_name}, {"server_name": []}]},
    }
    notary.answer("POST", QUERY, answers[case])
    assert load(hearth, peer.server_name, peer.key.key_id) is None


@pytest.mark.parametrize(
    "answer", [{}, [], {"server_keys": 5}, Answer({"errcode": "M_X"}, 400), Answer(b"x" * 10_000_000)]
)
def test_notary_without_answer_is_no_harm(hearth: Any, notary: Any, start_peer: Any, answer: Any) -> None:
    peer = start_peer()
    peer.stop()
    notary.answer("POST", QUERY, answer)
    assert load(hearth, peer.server_name, peer.key.key_id) is None


def test_document_of_the_server_itself_wins_over_an_older_one_of_the_notary(
    hearth: Any, notary: Any, start_peer: Any
) -> None:
    peer = start_peer()
    stale = peer.key_document(valid_until_ts=now_ms() - DAY_MS)
    notary.answer("POST", QUERY, notarized(notary, stale))
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms()) is not None
    assert load(hearth, peer.server_name, "ed25519:unknown") is None  # brings the stale one
    assert load(hearth, peer.server_name, peer.key.key_id, now_ms()) is not None


# -- as a notary ---------------------------------------------------------------------------------------------------------


def check_notarized(hearth: FederatedServer, peer: ScriptedPeer, answer: Any) -> Any:
    [document] = answer.json()["server_keys"]
    assert document["server_name"] == peer.server_name
    verify_json(document, peer.server_name, peer.key.verify_key)
    own = hearth.running.services.core.signing_key
    verify_json(document, hearth.server_name, own.verify_key)
    return document


def test_keys_of_others_are_told_with_our_signature(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    check_notarized(hearth, peer, hearth.ask("GET", f"{QUERY}/{peer.server_name}"))
    body = {"server_keys": {peer.server_name: {}}}
    check_notarized(hearth, peer, hearth.ask("POST", QUERY, body))
    assert len(peer.received(KEYS)) == 1


def test_notary_asks_again_when_what_it_has_ends_too_early(start_federated: Any, start_peer: Any) -> None:
    clock = ManualClock(now_ms())
    hearth, peer = start_federated(clock=clock), start_peer()
    first = check_notarized(hearth, peer, hearth.ask("GET", f"{QUERY}/{peer.server_name}"))
    run_in_reactor(lambda: clock.advance(ASK_AGAIN_MS + 1))
    peer.valid_for_ms = 3 * DAY_MS
    again = hearth.ask("GET", f"{QUERY}/{peer.server_name}")
    assert check_notarized(hearth, peer, again) == first
    until = now_ms() + 2 * DAY_MS
    wanted = {"server_keys": {peer.server_name: {peer.key.key_id: {"minimum_valid_until_ts": until}}}}
    assert check_notarized(hearth, peer, hearth.ask("POST", QUERY, wanted))["valid_until_ts"] > until


def test_notary_asks_again_for_a_key_that_it_has_not(start_federated: Any, start_peer: Any) -> None:
    clock = ManualClock(now_ms())
    hearth, peer = start_federated(clock=clock), start_peer()
    hearth.ask("GET", f"{QUERY}/{peer.server_name}")
    peer.key = SigningKey("next", b"n" * 32)
    run_in_reactor(lambda: clock.advance(ASK_AGAIN_MS + 1))
    asked = len(peer.received(KEYS))
    for _ in range(3):
        answer = hearth.ask("POST", QUERY, {"server_keys": {peer.server_name: {"ed25519:next": {}}}})
        assert "ed25519:next" in check_notarized(hearth, peer, answer)["verify_keys"]
        hearth.ask("POST", QUERY, {"server_keys": {peer.server_name: {"ed25519:made_up": {}}}})
    assert len(peer.received(KEYS)) == asked + 1


def test_notary_goes_on_telling_of_a_server_that_is_gone(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    assert load(hearth, peer.server_name, peer.key.key_id) is not None
    hearth.restart()
    peer.stop()
    path = f"{QUERY}/{peer.server_name}?minimum_valid_until_ts={now_ms() + 5 * DAY_MS}"
    check_notarized(hearth, peer, hearth.ask("GET", path))


def test_notary_knows_nothing_of_a_server_that_was_never_there(start_federated: Any) -> None:
    answer = start_federated().ask("GET", f"{QUERY}/127.0.0.1:1")
    assert (answer.status_code, answer.json()) == (200, {"server_keys": []})


def test_notary_tells_its_own_keys(start_federated: Any) -> None:
    hearth = start_federated()
    [document] = hearth.ask("GET", f"{QUERY}/{hearth.server_name}").json()["server_keys"]
    assert document["verify_keys"] == hearth.ask("GET", KEYS).json()["verify_keys"]


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"server_keys": []}, "M_BAD_JSON"),
        ({"server_keys": {"a.test": {"ed25519:1": {"minimum_valid_until_ts": "x"}}}}, "M_BAD_JSON"),
        ({"server_keys": {f"s{n}.test": {} for n in range(300)}}, "M_INVALID_PARAM"),
        (b"{", "M_NOT_JSON"),
    ],
)
def test_malformed_notary_query_is_an_error_that_says_so(start_federated: Any, body: Any, errcode: str) -> None:
    answer = start_federated().ask("POST", QUERY, body)
    assert (answer.status_code, answer.json()["errcode"]) == (400, errcode)


def test_notary_asks_no_server_for_strange_names(start_federated: Any) -> None:
    hearth = start_federated()
    assert hearth.ask("GET", f"{QUERY}/a%20b").status_code == 400
    body = {"server_keys": {"a b": {}, "": {}, "x" * 500: {}, "10.0.0.1/../": {}}}
    assert hearth.ask("POST", QUERY, body).json() == {"server_keys": []}


def test_asker_causes_only_so_many_fetches(start_federated: Any) -> None:
    limits = {"enabled": True, "server_keys": {"per_second": 0.001, "burst": 2}}
    hearth = start_federated(settings={"rate_limits": limits})
    asked = [hearth.ask("GET", f"{QUERY}/127.0.0.1:{port}").status_code for port in range(1, 5)]
    assert asked == [200, 200, 429, 429]


# -- our own -------------------------------------------------------------------------------------------------------------


def test_own_document_is_signed_with_what_it_lists(start_federated: Any) -> None:
    hearth = start_federated()
    document = hearth.ask("GET", KEYS).json()
    own = hearth.running.services.core.signing_key
    assert document["verify_keys"] == {own.key_id: {"key": own.verify_key.to_base64()}}
    assert (document["server_name"], document["old_verify_keys"]) == (hearth.server_name, {})
    assert now_ms() + HOUR_MS < document["valid_until_ts"] < now_ms() + 7 * DAY_MS
    verify_json(document, hearth.server_name, own.verify_key)
    del document["signatures"]
    assert json.dumps(document) == json.dumps(document, sort_keys=True)


def test_key_that_is_second_in_the_file_is_old(start_federated: Any) -> None:
    hearth = start_federated()
    file = hearth.running.services.core.config.data_dir / "signing.key"
    before, new = hearth.running.services.core.signing_key, SigningKey("b_new", b"b" * 32)
    hearth.stop()
    file.write_text(format_signing_keys([new, before]))
    stopped_ms = now_ms()
    hearth.start()
    document = hearth.ask("GET", KEYS).json()
    verify_json(document, hearth.server_name, new.verify_key)
    assert list(document["verify_keys"]) == [new.key_id]
    old = document["old_verify_keys"][before.key_id]
    assert old["key"] == before.verify_key.to_base64()
    assert stopped_ms <= old["expired_ts"] <= now_ms()
    file.write_text(format_signing_keys([new]))  # its private half may go
    hearth.restart()
    assert hearth.ask("GET", KEYS).json()["old_verify_keys"] == {before.key_id: old}
    at_ms = old["expired_ts"]
    assert load(hearth, hearth.server_name, before.key_id, at_ms) == before.verify_key
    assert load(hearth, hearth.server_name, before.key_id, at_ms + 1) is None
