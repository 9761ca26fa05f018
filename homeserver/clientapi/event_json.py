"""Lists of events as JSON, spliced from bytes; shared by the endpoints that read rooms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from homeserver.accounts.requester import Requester
from homeserver.folds.erased_users import ErasedUsers
from homeserver.folds.events import EventCache
from homeserver.matrix.ids import EventId, RoomId
from homeserver.rooms.client_events import Reader, Related, encode, load_related
from homeserver.rooms.relations import Relations
from homeserver.rooms.view import RoomView
from homeserver.runtime.clock import Clock
from homeserver.store.events import StoredEvent
from homeserver.store.relations import Bundle


def array(items: Iterable[bytes]) -> bytes:
    return b"[%b]" % b",".join(items)


class EventJson:
    """Encodes events for whoever asks."""

    def __init__(self, events: EventCache, clock: Clock, relations: Relations, erased: ErasedUsers) -> None:
        self._events = events
        self._clock = clock
        self._relations = relations
        self._erased = erased

    async def encode(
        self,
        view: RoomView,
        events: Sequence[StoredEvent],
        requester: Requester,
        bundles: Mapping[EventId, Bundle] | None = None,
    ) -> list[bytes]:
        """Each event with its room id and `unsigned`, in order. bundles: if they were read with the events."""
        return await self.encode_in({view.room_id: view}, events, requester, bundles)

    async def encode_in(
        self,
        views: Mapping[RoomId, RoomView],
        events: Sequence[StoredEvent],
        requester: Requester,
        bundles: Mapping[EventId, Bundle] | None = None,
    ) -> list[bytes]:
        """As `encode`, for events of several rooms."""
        versions = {room_id: view.head.version for room_id, view in views.items()}
        related = self._erased.quoted(
            _without_hidden(await load_related(self._events, events, versions), events, views)
        )
        reader = Reader(requester.user_id, requester.device_id)
        now_ms = self._clock.time_ms()
        user_id, relations = requester.user_id, self._relations
        if bundles is None:
            told = await relations.load_bundles(events, versions, user_id, now_ms)
        else:
            told = await relations.encode_bundles(bundles, events, versions, user_id, now_ms)
        encoded = []
        for event in events:
            membership = views[event.pdu.room_id].history.membership_around(event)
            shown = self._erased.shown(event, membership)
            json = encode(
                shown,
                reader,
                now_ms,
                membership=membership,
                related=related,
                with_room_id=True,
                bundle=told.get(event.event_id),
            )
            encoded.append(json)
        return encoded


def _without_hidden(related: Related, events: Sequence[StoredEvent], views: Mapping[RoomId, RoomView]) -> Related:
    """What events quote, without the replaced state that is not for the reader."""
    hidden: set[EventId] = set()
    for room_id, view in views.items() if related else ():
        hidden |= view.history.hidden_before([event for event in events if event.pdu.room_id == room_id], related)
    return {event_id: event for event_id, event in related.items() if event_id not in hidden} if hidden else related
