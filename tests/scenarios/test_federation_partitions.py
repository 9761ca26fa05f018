"""Three Hearths whose links are cut and healed at random while people act on all of them.

When all links are whole again, all three have the same current state, and each has every event that any of them acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import pytest
from attrs import define, field, frozen
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.kit.client import Client
from tests.kit.peers import Mesh
from tests.kit.waiting import get_current_state, get_history, until
from tests.scenarios.federated_rooms import VERSIONS

SERVERS = 3
LINKS = list(combinations(range(SERVERS), 2))
EXAMPLES = 5


@frozen
class Step:
    """`who` (the number of a server) does something to the room, or the links of a partition are cut."""

    what: str
    who: int
    value: int


@pytest.fixture
def mesh(peers: Any, impatient: None) -> Iterator[Mesh]:
    found: Mesh = peers.mesh(SERVERS)
    yield found
    found.heal()


@define(eq=False)
class Story:
    """A room with one person of each server, all of whom may do anything."""

    mesh: Mesh
    version: str
    people: list[Client] = field(init=False)
    bystanders: list[Client] = field(init=False)
    room: str = field(init=False)
    acknowledged: list[str] = field(factory=list, init=False)

    def begin(self) -> None:
        numbers = range(SERVERS)
        self.people = [self.mesh.person(number, "person") for number in numbers]
        self.bystanders = [self.mesh.person(number, "bystander") for number in numbers]
        first = self.people[0]
        self.room = first.create_room(room_version=self.version, preset="public_chat")
        for client in [*self.people[1:], *self.bystanders]:
            client.post("/join/{}", {}, at=[self.room], query={"via": self.mesh.servers[0].server_name})
        levels = first.get_state(self.room, "m.room.power_levels")
        equal = {client.user_id: 100 for client in self.people[1:]}
        last = first.set_state(
            self.room, "m.room.power_levels", {**levels, "users": {**levels.get("users", {}), **equal}}
        )
        for client in self.people:
            self._gets(client, last)

    def take(self, step: Step) -> None:
        if step.what == "cut":
            self.mesh.cut(*LINKS[step.value % len(LINKS)])
        elif step.what == "heal":
            self.mesh.heal()
        else:
            self.acknowledged.append(self._act(step, self.people[step.who]))

    def _act(self, step: Step, client: Client) -> str:
        room, value = self.room, step.value
        if step.what == "say":
            return client.send(room, f"{step.who} says {value}")
        if step.what == "topic":
            return client.set_state(room, "m.room.topic", {"topic": f"{step.who} on {value}"})
        if step.what == "setting":
            return client.set_state(room, "org.example.setting", {"by": step.who}, str(value % 2))
        if step.what == "levels":
            levels = client.get_state(room, "m.room.power_levels")
            events = {**levels.get("events", {}), "org.example.setting": value * 10}
            return client.set_state(room, "m.room.power_levels", {**levels, "events": events})
        assert step.what == "ban"
        target = self.bystanders[value % SERVERS].user_id
        return client.set_state(room, "m.room.member", {"membership": "ban"}, target)

    def end(self) -> None:
        """Heals the links; each says a last thing, which tells the others how far it is."""
        self.mesh.heal()
        for client in self.people:
            self.acknowledged.append(client.send(self.room, "the end"))
        for client in self.people:
            until(client, lambda: self._lost(client) == set())  # noqa: B023  called in this round

    def _lost(self, client: Client) -> set[str]:
        return set(self.acknowledged) - {event["event_id"] for event in get_history(client, self.room)}

    def _gets(self, client: Client, event_id: str) -> None:
        until(client, lambda: client.get("/rooms/{}/event/{}", at=(self.room, event_id)))


steps = st.lists(
    st.builds(
        Step,
        st.sampled_from(["say", "say", "topic", "setting", "levels", "ban", "cut", "cut", "heal"]),
        st.integers(0, SERVERS - 1),
        st.integers(0, 5),
    ),
    min_size=4,
    max_size=25,
)


@settings(max_examples=EXAMPLES, phases=[Phase.generate])
@given(version=st.sampled_from(VERSIONS), taken=steps)
def test_healed_partitions_leave_one_state_and_lose_nothing(mesh: Mesh, version: str, taken: list[Step]) -> None:
    mesh.heal()
    story = Story(mesh, version)
    story.begin()
    for step in taken:
        story.take(step)
    story.end()
    first, *others = story.people
    for client in others:
        until(client, lambda: get_current_state(client, story.room) == get_current_state(first, story.room))  # noqa: B023  called in this round
