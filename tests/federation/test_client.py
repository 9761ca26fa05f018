"""Requests to other servers, over real TLS; and what slow, wrong and hostile ones can do."""

from __future__ import annotations

from typing import Any

import pytest

from federation.client import V1, quote_path
from federation.errors import RemoteRefused
from tests.kit.federation import FederatedServer
from tests.kit.reactor import run_in_reactor


def get(server: FederatedServer, peer: Any, path: str = V1 + "/thing", **about: Any) -> Any:
    client = server.federation.client
    return run_in_reactor(lambda: client.get(peer.server_name, path, **about))


def test_answer_is_decoded_and_the_request_is_signed(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1 + "/event/", {"pdus": []})
    path = quote_path(V1 + "/event", "$a/b c")
    assert get(hearth, peer, path, query={"x": ["1", "2"]}) == {"pdus": []}
    received = peer.requests[-1]
    assert (received.path, received.query) == (V1 + "/event/%24a%2Fb%20c", "x=1&x=2")
    assert received.headers["authorization"].startswith(f'X-Matrix origin="{hearth.server_name}",destination=')
    assert received.headers["host"] == peer.server_name


def test_error_of_the_peer_is_told_with_its_errcode(start_federated: Any, start_peer: Any) -> None:
    hearth, peer = start_federated(), start_peer()
    peer.answer("GET", V1, {"errcode": "M_FORBIDDEN", "error": "no"}, status=403)
    with pytest.raises(RemoteRefused) as caught:
        get(hearth, peer)
    assert (caught.value.status, caught.value.errcode, caught.value.error) == (403, "M_FORBIDDEN", "no")


def test_two_hearths_know_each_other_by_their_keys(start_federated: Any) -> None:
    one, two = start_federated("one"), start_federated("two")
    client, ring = one.federation.client, one.federation.ring
    version = run_in_reactor(lambda: client.get(two.server_name, V1 + "/version"))
    assert version["server"]["name"] == "Hearth"
    document = two.ask("GET", "/_matrix/key/v2/server").json()
    run_in_reactor(lambda: ring.check_json(two.server_name, document, valid_at_ms=None))
