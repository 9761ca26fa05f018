"""Search: its index and its endpoint."""

from __future__ import annotations

from attrs import frozen

from homeserver.clientapi.event_json import EventJson
from homeserver.clientapi.search import SearchEndpoint
from homeserver.main.core import Core
from homeserver.main.rooms import RoomServices
from homeserver.rooms.search import Search
from homeserver.rooms.search_index import SearchIndex


@frozen
class SearchServices:
    index: SearchIndex
    endpoints: list[object]


def build_search(core: Core, rooms: RoomServices) -> SearchServices:
    index = SearchIndex(core.database, core.clock)
    core.log.follow(index.on_rows)
    search = Search(core.database, index, core.events, core.memberships, rooms.views)
    json = EventJson(core.events, core.clock, rooms.relations, core.erased)
    return SearchServices(index, [SearchEndpoint(search, rooms.views, rooms.paging, json)])
