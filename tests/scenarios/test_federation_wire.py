"""Keys and signatures, against a server that nobody here wrote."""

from __future__ import annotations

from typing import Any

import pytest

from federation.client import V1
from federation.errors import RemoteRefused
from tests.kit.peers import Pair
from tests.kit.reactor import run_in_reactor


def request(pair: Pair, path: str, **about: Any) -> Any:
    client = pair.near.server.federation.client  # type: ignore[attr-defined]  # a Hearth
    return run_in_reactor(lambda: client.get(pair.far.name, path, **about))


def test_synapse_answers_and_its_keys_are_good(pair: Pair) -> None:
    assert request(pair, V1 + "/version")["server"]["name"] == "Synapse"
    document = request(pair, "/_matrix/key/v2/server", signed=False)
    ring = pair.near.server.federation.ring  # type: ignore[attr-defined]  # a Hearth
    run_in_reactor(lambda: ring.check_json(pair.far.name, document, valid_at_ms=None))
    with pytest.raises(Exception, match="ignature"):
        run_in_reactor(lambda: ring.check_json(pair.far.name, {**document, "valid_until_ts": 1}, valid_at_ms=None))


def test_synapse_fetches_our_keys_and_accepts_our_signature(pair: Pair) -> None:
    bob = pair.far.person("bob")
    bob.put("/profile/{}/displayname", {"displayname": "Bob"}, at=[bob.user_id])
    query = {"user_id": bob.user_id, "field": "displayname"}
    assert request(pair, V1 + "/query/profile", query=query) == {"displayname": "Bob"}


def test_synapse_refuses_a_request_without_a_signature(pair: Pair) -> None:
    bob = pair.far.person("bob")
    with pytest.raises(RemoteRefused) as caught:
        request(pair, V1 + "/query/profile", query={"user_id": bob.user_id}, signed=False)
    assert caught.value.status == 401


def test_the_far_server_comes_and_goes_with_its_wire(pair: Pair) -> None:
    assert request(pair, V1 + "/version")
    pair.cut()
    with pytest.raises(Exception, match="localhost"):
        request(pair, V1 + "/version")
    pair.heal()
    destinations = pair.near.server.federation.destinations  # type: ignore[attr-defined]  # a Hearth
    run_in_reactor(destinations.note_alive, pair.far.name)
    assert request(pair, V1 + "/version")
