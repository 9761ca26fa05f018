"""X-Matrix: who may call as whom."""

from __future__ import annotations

from typing import Any

import pytest

from federation.authentication import MAX_AT_ONCE, ServerRequester
from federation.xmatrix import build_header, parse_header
from homeserver.matrix.signing import SigningKey
from homeserver.runtime.http.endpoint import Auth, JsonObject, endpoint
from tests.kit.federation import FederatedServer, ScriptedPeer
from tests.kit.reactor import run_in_reactor

PATH = "/_matrix/federation/v1/test/thing"


class Probe:
    """Tells a server who it is."""

    @endpoint("GET", PATH, auth=Auth.SERVER, resource="federation")
    async def get_thing(self, requester: ServerRequester) -> JsonObject:
        return {"you": requester.server_name}

    @endpoint("PUT", PATH, auth=Auth.SERVER, resource="federation")
    async def put_thing(self, requester: ServerRequester, body: JsonObject) -> JsonObject:
        return {"you": requester.server_name, "body": body}


@pytest.fixture
def hearth(start_federated: Any) -> Any:
    return with_probe(start_federated())


def with_probe(server: FederatedServer) -> FederatedServer:
    run_in_reactor(lambda: server.running.listeners.app.router.add(Probe()))
    return server


def assert_unauthorized(response: Any, *words: str) -> None:
    assert response.status_code == 401, response.text
    assert response.json()["errcode"] == "M_UNAUTHORIZED"
    for word in words:
        assert word in response.json()["error"]


def header_of(peer: ScriptedPeer, hearth: Any, *, key: Any = None, uri: str = PATH, **changes: Any) -> str:
    origin, destination = changes.get("origin", peer.server_name), changes.get("destination", hearth.server_name)
    return build_header(key or peer.key, "GET", uri, origin, destination, changes.get("content"))


def ask(hearth: Any, header: str | None) -> Any:
    return hearth.ask("GET", PATH, headers={} if header is None else {"Authorization": header})


def test_signed_request_is_answered(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    assert peer.get(hearth, PATH).json() == {"you": peer.server_name}
    assert peer.put(hearth, PATH, {"a": "ü"}).json() == {"you": peer.server_name, "body": {"a": "ü"}}
    assert len(peer.received("/_matrix/key/v2/server")) == 1  # the key is kept


def test_key_is_kept_over_restarts(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = with_probe(start_federated()), start_peer()
    assert peer.get(hearth, PATH).status_code == 200
    hearth.restart()
    with_probe(hearth)
    peer.answer("GET", "/_matrix/key", {}, status=500)
    assert peer.get(hearth, PATH).status_code == 200


def test_request_without_signature_is_refused(hearth: Any) -> None:
    assert_unauthorized(ask(hearth, None), "Missing")


def test_query_is_signed(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    assert peer.get(hearth, PATH + "?a=1&b=%2F").status_code == 200
    header = header_of(peer, hearth, uri=PATH + "?a=1")
    assert_unauthorized(hearth.ask("GET", PATH + "?a=2", headers={"Authorization": header}), "wrong")


@pytest.mark.parametrize("path", [PATH + "/more", PATH + "?x=1", PATH.replace("thing", "%74hing")])
def test_signature_for_another_path_is_refused(hearth: Any, start_peer: Any, path: str) -> None:
    peer = start_peer()
    assert_unauthorized(ask(hearth, header_of(peer, hearth, uri=path)), "wrong")


def test_signature_for_another_method_or_body_is_refused(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    header = header_of(peer, hearth)
    assert_unauthorized(hearth.ask("PUT", PATH, {}, {"Authorization": header}), "wrong")
    header = build_header(peer.key, "PUT", PATH, peer.server_name, hearth.server_name, {"a": 1})
    assert_unauthorized(hearth.ask("PUT", PATH, {"a": 2}, {"Authorization": header}), "wrong")
    assert hearth.ask("PUT", PATH, {"a": 1}, {"Authorization": header}).status_code == 200


def test_request_for_another_server_is_refused(hearth: Any, start_peer: Any) -> None:
    """What one server is sent it can't send on as if it were the first one's."""
    peer = start_peer()
    assert_unauthorized(ask(hearth, header_of(peer, hearth, destination="other.test")), "another server")
    forged = header_of(peer, hearth, destination="other.test").replace("other.test", hearth.server_name)
    assert_unauthorized(ask(hearth, forged), "wrong")


def test_destination_may_be_missing_but_is_signed(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    header = header_of(peer, hearth).replace(f'destination="{hearth.server_name}",', "")
    assert "destination" not in header
    assert ask(hearth, header).status_code == 200
    header = header_of(peer, hearth, destination="other.test").replace('destination="other.test",', "")
    assert_unauthorized(ask(hearth, header), "wrong")


def test_request_in_the_name_of_another_is_refused(hearth: Any, start_peer: Any) -> None:
    peer, victim = start_peer(key=SigningKey("peer", b"x" * 32)), start_peer()
    assert_unauthorized(ask(hearth, header_of(peer, hearth, origin=victim.server_name)), "wrong")


def test_request_in_our_own_name_is_refused(hearth: Any, start_peer: Any) -> None:
    assert_unauthorized(ask(hearth, header_of(start_peer(), hearth, origin=hearth.server_name)), "itself")


def test_unknown_key_is_refused_and_asked_for_once(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    for number in range(5):
        header = header_of(peer, hearth, key=SigningKey(f"made_up_{number}", b"x" * 32))
        assert_unauthorized(ask(hearth, header), "No valid key")
    assert len(peer.received("/_matrix/key")) == 1


def test_origin_that_nobody_is_at_is_refused(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    header = header_of(peer, hearth)
    peer.stop()
    assert_unauthorized(ask(hearth, header), "No valid key")


def test_old_key_signs_no_requests(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    old = SigningKey("old", b"o" * 32)
    peer.old_keys = {old.key_id: {"key": old.verify_key.to_base64(), "expired_ts": 1_600_000_000_000}}
    assert_unauthorized(ask(hearth, header_of(peer, hearth, key=old)), "No valid key")
    assert peer.get(hearth, PATH).status_code == 200


def test_one_good_signature_of_several_is_enough(hearth: Any, start_peer: Any) -> None:
    """A server in the middle of changing its key signs with both."""
    peer = start_peer()
    strange = header_of(peer, hearth, key=SigningKey("strange", b"x" * 32))
    assert ask(hearth, f"{strange}, {header_of(peer, hearth)}").status_code == 200
    assert_unauthorized(ask(hearth, f"{strange}, {header_of(peer, hearth, origin='other.test')}"), "several origins")


def test_denied_server_gets_no_answer(start_federated: Any, start_peer: Any) -> None:
    peer = start_peer()
    hearth = with_probe(start_federated(settings={"federation": {"domain_denylist": [str(peer.server_name)]}}))
    response = peer.get(hearth, PATH)
    assert (response.status_code, response.json()["errcode"]) == (403, "M_FORBIDDEN")
    assert peer.requests == []  # not even for its keys


def test_call_ends_the_waiting_for_a_server_that_failed(hearth: Any, start_peer: Any) -> None:
    peer = start_peer()
    destinations = hearth.federation.destinations
    run_in_reactor(lambda: destinations.note_failure(peer.server_name, "a test"))
    assert run_in_reactor(lambda: destinations.get(peer.server_name)) is not None
    assert peer.get(hearth, PATH).status_code == 200
    assert run_in_reactor(lambda: destinations.get(peer.server_name)) is None


def test_forged_call_does_not_end_the_waiting(hearth: Any, start_peer: Any) -> None:
    victim = start_peer()
    destinations = hearth.federation.destinations
    run_in_reactor(lambda: destinations.note_failure(victim.server_name, "a test"))
    victim.stop()
    assert_unauthorized(ask(hearth, header_of(victim, hearth, key=SigningKey("peer", b"x" * 32))))
    assert run_in_reactor(lambda: destinations.get(victim.server_name)) is not None


def test_strangers_cause_only_so_many_fetches(start_federated: Any, start_peer: Any) -> None:
    limits = {"server_keys": {"per_second": 0.001, "burst": 2}}
    hearth, peer = with_probe(start_federated(settings={"rate_limits": {"enabled": True, **limits}})), start_peer()
    asked = [ask(hearth, header_of(peer, hearth, origin=f"127.0.0.1:{port}")).status_code for port in range(1, 5)]
    assert asked == [401, 401, 429, 429]


# -- the header ----------------------------------------------------------------------------------------------------------

GOOD = 'X-Matrix origin="a.test",destination="b.test",key="ed25519:1",sig="AAAA"'


@pytest.mark.parametrize(
    "header",
    [
        GOOD,
        "X-Matrix origin=a.test,destination=b.test,key=ed25519:1,sig=AAAA",
        "x-matrix  ORIGIN=a.test , key=\"ed25519:1\" ,\tsig='AAAA',destination=b.test".replace("'", '"'),
        GOOD + ',future="x"',
        GOOD.replace("sig=", "signature="),
        GOOD.replace('"a.test"', '"\\a.test"'),
    ],
)
def test_header_is_read_as_rfc_9110_has_it(header: str) -> None:
    [credentials] = parse_header(header)
    read = (credentials.origin, credentials.destination, credentials.key_id, credentials.signature)
    assert read == ("a.test", "b.test", "ed25519:1", "AAAA")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "X-Matrix",
        "X-Matrix ",
        "X-Matrix ,",
        "Bearer abc",
        "Basic YTpi",
        GOOD.replace("X-Matrix ", "X-Matrix"),
        GOOD.replace('origin="a.test",', ""),
        GOOD.replace('key="ed25519:1",', ""),
        GOOD.replace(',sig="AAAA"', ""),
        GOOD.replace("a.test", "a b"),
        GOOD.replace("a.test", "a.test/path"),
        GOOD.replace("a.test", "a.test:99999"),
        GOOD.replace("a.test", "x" * 300),
        GOOD.replace("a.test", "ä.test"),
        GOOD.replace('"a.test"', '"a.test'),
        GOOD.replace("ed25519:1", "curve25519:1"),
        GOOD.replace("ed25519:1", ""),
        GOOD + ',origin="b.test"',
        GOOD + ' more="x"',
        GOOD + ";x",
        GOOD + "x" * 10_000,
        ", ".join([GOOD] * 11),
        "X-Matrix " + ",".join(f"a{n}=b" for n in range(500)),
        "X-Matrix " + "=" * 1000,
        'X-Matrix origin="' + "\\" * 1000,
    ],
)
def test_malformed_header_is_unauthorized(hearth: Any, start_peer: Any, header: str) -> None:
    assert_unauthorized(hearth.ask("GET", PATH, headers={"Authorization": header.encode()}))


@pytest.mark.parametrize("signature", ["", "AAAA", "!", "A" * 86, "ü", "A" * 5000])
def test_signature_that_is_none_is_unauthorized(hearth: Any, start_peer: Any, signature: str) -> None:
    peer = start_peer()
    head, _, _ = header_of(peer, hearth).rpartition('sig="')
    assert_unauthorized(ask(hearth, f'{head}sig="{signature}"'.encode()))


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"a":NaN}', b'{"a":1.5}', b'{"a":1}{', b"[" * 100_000])
def test_signed_request_with_a_body_that_is_no_matrix_json_is_refused(
    hearth: Any, start_peer: Any, body: bytes
) -> None:
    header = build_header(start_peer().key, "PUT", PATH, start_peer().server_name, hearth.server_name, {})
    response = hearth.ask("PUT", PATH, body, {"Authorization": header})
    assert response.status_code in (400, 401)
    assert response.json()["errcode"] in ("M_NOT_JSON", "M_BAD_JSON", "M_UNAUTHORIZED")


def test_one_server_gets_so_many_answers_at_once(hearth: Any, start_peer: Any) -> None:
    """The requests in hand are counted to their end, so a peer that is done may go on."""
    peer = start_peer()
    running, own = hearth.federation.auth._running, {peer.server_name: MAX_AT_ONCE - 1}
    run_in_reactor(lambda: running.update({peer.server_name: MAX_AT_ONCE}))
    response = peer.get(hearth, PATH)
    assert (response.status_code, response.json()["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    run_in_reactor(lambda: running.update(own))
    assert [peer.get(hearth, PATH).status_code for _ in range(3)] == [200, 200, 200]
    assert run_in_reactor(lambda: dict(running)) == own  # behind the end of the last request
