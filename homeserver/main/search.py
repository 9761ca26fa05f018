"""Search: its index and its endpoint."""

from __future__ import annotations

from attrs import frozen

from homeserver.clientapi.event_json import EventJson
from homeserver.clientapi.search import SearchEndpoint
from homeserver.clientapi.user_directory import UserDirectoryEndpoints
from homeserver.main.core import Core
from homeserver.main.rooms import RoomServices
from homeserver.rooms.search import Search
from homeserver.rooms.search_index import SearchIndex, concerns_words
from homeserver.rooms.user_directory import OpenRooms, UserDirectory, concerns_members
from homeserver.store.search import index_events
from homeserver.store.user_directory import index_members


@frozen
class SearchServices:
    """index: of what is said in rooms. members: of who is in them."""

    index: SearchIndex
    members: SearchIndex
    endpoints: list[object]

    def start(self) -> None:
        self.index.start()
        self.members.start()

    async def stop(self) -> None:
        await self.index.stop()
        await self.members.stop()


def build_search(core: Core, rooms: RoomServices) -> SearchServices:
    index = SearchIndex(core.database, core.clock, index_events, concerns_words)
    core.log.follow(index.on_rows)
    search = Search(core.database, index, core.events, core.memberships, rooms.views, core.erased)
    json = EventJson(core.events, core.clock, rooms.relations, core.erased)
    members = SearchIndex(core.database, core.clock, index_members, concerns_members)
    core.log.follow(members.on_rows)
    open_rooms = OpenRooms(core.server_name, core.database)
    core.log.follow(open_rooms.on_rows)
    directory = UserDirectory(core.database, members, open_rooms)
    endpoints = [SearchEndpoint(search, rooms.views, rooms.paging, json), UserDirectoryEndpoints(directory)]
    return SearchServices(index, members, endpoints)
