"""Rooms that people of two servers are in: what the scenarios of federation begin with."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import frozen

from tests.kit.client import Client
from tests.kit.peers import PAIRS, Pair
from tests.kit.waiting import until

VERSIONS = ("1", "6", "10", "11", "12")

both_ways = pytest.mark.parametrize("pair", PAIRS, indirect=True)
every_version = pytest.mark.parametrize("version", VERSIONS)


@frozen
class SharedRoom:
    """alice made it on the near server, bob joined it from the far one."""

    pair: Pair
    id: str
    alice: Client
    bob: Client

    def join(self, user: Client, **about: Any) -> None:
        """By way of the near server; both sides have seen it then."""
        join(user, self.id, self.pair, **about)
        for client in (self.alice, self.bob):
            until(client, lambda: get_membership(client, self.id, user) == "join")  # noqa: B023  called in this round

    def set_level(self, user: Client, level: int) -> None:
        """By alice; both sides have seen it then."""
        levels = self.alice.get_state(self.id, "m.room.power_levels")
        users = {**levels.get("users", {}), user.user_id: level}
        self.alice.set_state(self.id, "m.room.power_levels", {**levels, "users": users})
        until(self.bob, lambda: self.bob.get_state(self.id, "m.room.power_levels")["users"].get(user.user_id) == level)


def make_shared_room(pair: Pair, **about: Any) -> SharedRoom:
    alice, bob = pair.near.person("alice"), pair.far.person("bob")
    room = SharedRoom(pair, alice.create_room(**{"preset": "public_chat", **about}), alice, bob)
    room.join(bob)
    return room


def join(client: Client, room: str, pair: Pair, **about: Any) -> Any:
    """By way of the near server."""
    return client.post("/join/{}", {}, at=[room], query=via(pair), **about)


def via(pair: Pair) -> dict[str, str]:
    # Older servers know the other name only.
    return {"via": pair.near.name, "server_name": pair.near.name}


def get_membership(client: Client, room: str, user: Client) -> str:
    """As the client sees it."""
    found: str = client.get_state(room, "m.room.member", user.user_id)["membership"]
    return found
