"""Servers that federate, of whichever make, for scenarios that don't care: `near` and `far` are driven through the same calls.

    def test_…(pair: Pair) -> None:
        alice, bob = pair.near.person("alice"), pair.far.person("bob")
        pair.cut(); pair.heal(); pair.far.stop(); pair.far.start()

The servers live as long as the run and are shared by all tests, so names of people are made unique. `HEARTH_PEERS` chooses other
pairs, as "synapse-synapse" to see whether it is the scenario that is wrong.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Protocol

import pytest
from attrs import frozen

from homeserver.matrix.ids import ServerName
from tests.kit.certificates import TestCa
from tests.kit.client import Client
from tests.kit.federation import FederatedServer
from tests.kit.network import CuttableProxy
from tests.kit.processes import find_synapse, get_free_port
from tests.kit.servers import Settings
from tests.kit.synapse import Synapse

PAIRS = os.environ.get("HEARTH_PEERS", "hearth-synapse synapse-hearth hearth-hearth").split()
_numbers = count(1)


class Server(Protocol):
    """What a Hearth and a Synapse have in common."""

    server_name: ServerName
    wire: CuttableProxy

    def register(self, name: str) -> Client: ...

    def start(self) -> Any: ...

    def stop(self) -> None: ...

    def close(self) -> None: ...


class WiredHearth(FederatedServer):
    """A Hearth in this process which others reach through `wire`; it keeps its ports when it starts anew."""

    def __init__(self, database_url: str, folder: Path, ca: TestCa, settings: Settings | None = None) -> None:
        # The wire's port is in the server's name, which is in its configuration: the wire is there first.
        federation_port = get_free_port()
        self.wire = CuttableProxy(federation_port)
        files = ca.for_loopback()
        listeners = [
            {"bind": ["127.0.0.1"], "port": get_free_port()},
            {
                "bind": ["127.0.0.1"],
                "port": federation_port,
                "tls_certificate_file": str(files.certificate),
                "tls_private_key_file": str(files.private_key),
            },
        ]
        name = f"localhost:{self.wire.port}"
        own = {"server_name": name, "listeners": listeners, "presence": {"enabled": True}}
        super().__init__(database_url, folder, ca, {**own, **(settings or {})})
        self.server_name = ServerName(name)
        self.federation_url = f"https://{name}"

    def close(self) -> None:
        self.stop()
        self.wire.stop()


class Side:
    """One server of a pair."""

    def __init__(self, make: str, server: Any) -> None:
        self.make = make
        self.server: Server = server
        self.is_running = True

    @property
    def name(self) -> ServerName:
        return self.server.server_name

    def person(self, name: str) -> Client:
        """A new user, whose name begins so."""
        return self.server.register(f"{name}{next(_numbers)}")

    def stop(self) -> None:
        self.server.stop()
        self.is_running = False

    def start(self) -> None:
        self.server.start()
        self.is_running = True


@frozen
class Pair:
    """Two servers, and the wires between them."""

    near: Side
    far: Side

    def cut(self) -> None:
        """Neither reaches the other."""
        for side in (self.near, self.far):
            side.server.wire.cut()

    def heal(self) -> None:
        for side in (self.near, self.far):
            side.server.wire.heal()

    def restore(self) -> None:
        """As the next test expects it."""
        self.heal()
        for side in (self.near, self.far):
            if not side.is_running:
                side.start()


class Mesh:
    """Several Hearths, each two of which can be cut off from each other: all call out through an HTTP proxy of their own."""

    def __init__(self, folder: Path, ca: TestCa, make_database: Callable[[Path, int], str]) -> None:
        self._folder = folder
        self._ca = ca
        self._make_database = make_database
        self._ways_out: list[CuttableProxy] = []
        self.servers: list[FederatedServer] = []

    def grow(self, count: int) -> None:
        """To so many servers at least."""
        for number in range(len(self.servers), count):
            self._ways_out.append(CuttableProxy())
            own = self._folder / f"mesh{number}"
            own.mkdir()
            settings = {"federation": {"proxy": self._ways_out[-1].url}}
            self.servers.append(FederatedServer(self._make_database(own, number), own, self._ca, settings))

    def cut(self, one: int, other: int) -> None:
        self._ways_out[one].cut(self.servers[other].server_name)
        self._ways_out[other].cut(self.servers[one].server_name)

    def heal(self) -> None:
        for way_out in self._ways_out:
            way_out.heal()

    def person(self, number: int, name: str) -> Client:
        return self.servers[number].register(f"{name}{next(_numbers)}")

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        for way_out in self._ways_out:
            way_out.stop()


class Peers:
    """The servers of a run, each started when it is first needed. `make_database(folder, name)` makes a Hearth's."""

    def __init__(self, folder: Path, ca: TestCa, make_database: Callable[[Path, int], str]) -> None:
        self._folder = folder
        self._ca = ca
        self._make_database = make_database
        self._sides: dict[tuple[str, int], Side] = {}
        self._mesh: Mesh | None = None

    def pair(self, makes: str) -> Pair:
        """Of makes such as "hearth-synapse", near first. Skips the test where there is no Synapse."""
        near, far = makes.split("-")
        # The far Hearth is always the second, which runs on the other engine.
        return Pair(self.get(near, 0), self.get(far, 1 if far in ("hearth", near) else 0))

    def get(self, make: str, number: int) -> Side:
        if (make, number) not in self._sides:
            folder = self._folder / f"{make}{number}"
            folder.mkdir(exist_ok=True)  # it is there where the last test was skipped
            server = self._start_synapse(folder) if make == "synapse" else self._start_hearth(folder, number)
            self._sides[make, number] = Side(make, server)
        return self._sides[make, number]

    def mesh(self, count: int) -> Mesh:
        """Of Hearths, so many of them at least; the same for each that asks."""
        if self._mesh is None:
            self._mesh = Mesh(self._folder, self._ca, self._make_database)
        self._mesh.grow(count)
        return self._mesh

    def close(self) -> None:
        for side in self._sides.values():
            if side.is_running:
                side.server.close()
        if self._mesh is not None:
            self._mesh.close()

    def _start_hearth(self, folder: Path, number: int) -> Server:
        return WiredHearth(self._make_database(folder, number), folder, self._ca)

    def _start_synapse(self, folder: Path) -> Server:
        python = find_synapse()
        if python is None:
            pytest.skip("Synapse is absent (scripts/test installs it)")
        return Synapse(python, folder, self._ca).start()
