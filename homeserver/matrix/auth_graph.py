"""The graph of auth_events, walked in batches and remembered.

Two memories stand between the state resolution algorithms and the caller's loaders, so that each event is
asked for once and a level of the graph costs one load instead of one for each event:

- AuthEvents holds whole events; only conflicted events and their direct auth events come here.
- AuthGraph holds edges alone. A caller that keeps one for a hot room, or can answer it from a table of
  edges, spares resolutions the parsing of events of which only the auth_events matter.

Events that the loader does not know count as having no auth events, and are no candidates for the state.

Spec: rooms/v12#definitions
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TypeAlias

from homeserver.matrix.ids import EventId
from homeserver.matrix.pdu import Pdu

LoadEvents: TypeAlias = Callable[[Collection[EventId]], Mapping[EventId, Pdu]]
LoadEdges: TypeAlias = Callable[[Collection[EventId]], Mapping[EventId, Sequence[EventId]]]


class AuthEvents:
    """Events by id, each loaded once."""

    def __init__(self, load: LoadEvents) -> None:
        self._load = load
        self._events: dict[EventId, Pdu | None] = {}

    def load(self, event_ids: Iterable[EventId]) -> list[Pdu]:
        """The events of these ids that exist, in the order given; one call of the loader for what is new."""
        wanted = list(event_ids)
        self.preload(wanted)
        events = (self._events[event_id] for event_id in wanted)
        return [event for event in events if event is not None]

    def preload(self, event_ids: Iterable[EventId]) -> None:
        missing = {event_id for event_id in event_ids if event_id not in self._events}
        if missing:
            loaded = self._load(missing)
            self._events.update((event_id, loaded.get(event_id)) for event_id in missing)

    def load_one(self, event_id: EventId) -> Pdu | None:
        """One event, from memory where a preload has foreseen it."""
        if event_id not in self._events:
            self.preload((event_id,))
        return self._events[event_id]

    def load_edges(self, event_ids: Collection[EventId]) -> Mapping[EventId, Sequence[EventId]]:
        """Edges read off the events: the loader of an AuthGraph where the caller has no cheaper one."""
        return {event.event_id: event.auth_events for event in self.load(event_ids)}


class AuthGraph:
    """auth_events by event id. Edges never change, so one may live as long as its room is in memory."""

    def __init__(self, load_edges: LoadEdges, known: dict[EventId, Sequence[EventId]] | None = None) -> None:
        """`known` are edges that are remembered already; those that are loaded are put there."""
        self._load_edges = load_edges
        self._edges: dict[EventId, Sequence[EventId]] = known if known is not None else {}

    def preload(self, event_ids: Iterable[EventId]) -> None:
        missing = {event_id for event_id in event_ids if event_id not in self._edges}
        if missing:
            loaded = self._load_edges(missing)
            # What the loader does not know yet is not kept: a graph outlives the gap.
            self._edges.update(loaded)

    def load_ancestors(self, starts: Iterable[EventId]) -> set[EventId]:
        """The union of the auth chains of `starts`; a start is in it only if another one leads to it."""
        found: set[EventId] = set()
        frontier = set(starts)
        while frontier:
            parents = self._load_parents(frontier)
            frontier = parents - found
            found |= parents
        return found

    def load_reached(
        self, starts: Iterable[EventId], targets: AbstractSet[EventId], closed: AbstractSet[EventId]
    ) -> set[EventId]:
        """Those of `targets` that are in the auth chain of a start.

        `closed` holds no targets and with each event its whole auth chain, so nothing in it needs a look.
        The walk ends as soon as all targets are found.
        """
        found: set[EventId] = set()
        seen: set[EventId] = set()
        frontier = set(starts) - closed
        while frontier and len(found) < len(targets):
            parents = self._load_parents(frontier)
            found |= parents & targets
            frontier = parents - seen - closed
            seen |= frontier
        return found

    def load_subgraph(self, ends: AbstractSet[EventId]) -> set[EventId]:
        """All events on paths from one of `ends` to another, ends included.

        Every event that a walk from the ends meets is an ancestor of an end; of those we keep the ones
        which an end is an ancestor of, by walking back from the ends along reversed edges.
        """
        nodes = self.load_ancestors(ends) | ends
        self.preload(nodes)
        children: dict[EventId, list[EventId]] = {}
        for node in nodes:
            for parent in self._edges.get(node, ()):
                children.setdefault(parent, []).append(node)
        found: set[EventId] = set(ends)
        stack = list(ends)
        while stack:
            for child in children.get(stack.pop(), ()):
                if child not in found:
                    found.add(child)
                    stack.append(child)
        return found

    def _load_parents(self, event_ids: AbstractSet[EventId]) -> set[EventId]:
        self.preload(event_ids)
        edges = self._edges
        return {parent for event_id in event_ids for parent in edges.get(event_id, ())}
