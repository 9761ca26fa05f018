"""GET /sync: looks for news, waits for some, answers.

Invariants:
- a response is built in one go from memory at one position of the log, which is its next_batch (view.py);
- between finding nothing and waiting there is no await, so no wake-up is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define, evolve, field, frozen

from homeserver.accounts.account_data import PUSH_RULES, kind_changed_by
from homeserver.folds.memberships import UserRooms
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId
from homeserver.store.memberships import MembershipRow
from homeserver.sync.encoding import encode_account_data, events_json, rooms_json
from homeserver.sync.joined import Build, account_data_by_room, build_joined
from homeserver.sync.left import build_left, build_stripped
from homeserver.sync.members_sent import MembersSent
from homeserver.sync.notifier import Notifier
from homeserver.sync.ports import NO_PARTS, Parts, SyncExtension
from homeserver.sync.request import SyncRequest
from homeserver.sync.segments import Segments
from homeserver.sync.tokens import SyncToken
from homeserver.sync.view import Sources, View

ATTEMPTS = 40
_LEFT = frozenset({"leave", "ban"})
PUSH_RULES_TYPE = "m.push_rules"


class SyncBusy(MatrixError):
    """What a response needs kept changing faster than it could be read."""

    status = 503


@frozen
class Answer:
    """A response, and the token that it brings its client to."""

    body: bytes
    token: SyncToken
    is_empty: bool


@define(eq=False)
class SyncService:
    sources: Sources
    notifier: Notifier
    extensions: Sequence[SyncExtension] = ()
    members: MembersSent = field(factory=MembersSent)
    _segments: Segments = field(factory=Segments, init=False)

    async def sync(self, request: SyncRequest) -> bytes:
        """The response's JSON, as soon as it says something or the timeout is over.

        Spec: client-server-api#get_matrixclientv3sync
        """
        clock = self.sources.clock
        deadline_ms = clock.monotonic_ms() + request.timeout_ms
        await self.begin(request)
        is_news = True
        while True:
            answer, rooms = await self.build(request)
            left_ms = deadline_ms - clock.monotonic_ms()
            if not answer.is_empty or request.since is None or request.full_state or left_ms <= 0 or not is_news:
                return answer.body
            # Up to here there was nothing: go on from here.
            request = request.since_then(answer.token)
            is_news = await self.notifier.wait(request.user_id, rooms, left_ms)

    async def begin(self, request: SyncRequest) -> None:
        """Take note of how far the client is: members told behind that are told again, messages up to there are deleted."""
        self.members.rewind((request.user_id, request.device_id), request.after)
        await self.acknowledge(request)

    async def acknowledge(self, request: SyncRequest) -> None:
        """The client has everything up to the request's token."""
        for extension in self.extensions:
            acknowledged = extension.acknowledge(request)
            if acknowledged is not None:
                await acknowledged

    async def build(self, request: SyncRequest) -> tuple[Answer, UserRooms]:
        """What there is now, and the user's rooms at that moment. No await behind the moment.

        Raises: SyncBusy.
        """
        known = self.sources.memberships.get(request.user_id)
        token = self._token()
        if known is not None and _is_up_to_date(request, token):
            quiet = self._get_quiet(request)
            if quiet is not None:
                return Answer(_encode([_next_batch(token), *quiet]), token, True), known
        view = View(self.sources, request.user_id)
        for _ in range(ATTEMPTS):
            found = self._look(view, request)
            if found is not None:
                return found
            await view.load()
        raise SyncBusy("The server is too busy, try again")

    def build_from_memory(self, request: SyncRequest) -> Answer | None:
        """As `build`; None where something has to be loaded."""
        found = self._look(View(self.sources, request.user_id), request)
        return None if found is None else found[0]

    # -- no await from here on -------------------------------------------------------------------------------

    def _look(self, view: View, request: SyncRequest) -> tuple[Answer, UserRooms] | None:
        """What memory has now; None while the view has needs."""
        view.begin()
        rooms = view.get_rooms()
        unwanted = view.get_unwanted()
        if rooms is None or unwanted is None:
            return None
        build = Build(view, request, rooms, unwanted, self._segments, self.members)
        answer = self._build_now(build)
        if answer is None or not view.is_complete:
            return None
        self._remember(build, answer.token)
        return answer, rooms

    def _remember(self, build: Build, token: SyncToken) -> None:
        device = (build.request.user_id, build.request.device_id)
        for room_id, members in build.sent:
            self.members.add(device, room_id, members, token.position)

    def _token(self) -> SyncToken:
        return SyncToken(self.sources.log_writer.position, self.sources.typing.serial)

    def _ask_ahead(self, build: Build) -> None:
        """Note the needs that every room of a whole response has, so that they are loaded before it is built."""
        if build.request.since is not None and not build.request.full_state:
            return
        view = build.view
        wants_receipts = not build.request.filter.room.ephemeral.matches_none
        for room_id, membership in build.rooms.items():
            if membership.membership == "join" and build.request.filter.room.rooms.matches(room_id):
                view.get_head(room_id)
                view.get_tail(room_id)
                view.get_counts(room_id)
                if wants_receipts:
                    view.get_receipts(room_id, 0)

    def _build_now(self, build: Build) -> Answer | None:
        """None, or something incomplete, while the view has needs."""
        view = build.view
        token = self._token()
        account_data = self._account_data(build)
        self._ask_ahead(build)
        if not view.is_complete:
            return None
        self._set_typing(build)
        extended = self._extend(build)
        if extended is None:
            return None
        if extended.to_device is not None:
            token = evolve(token, to_device=extended.to_device)
        sections: dict[bytes, dict[str, bytes]] = {}
        for room_id, membership in self._candidates(build):
            _add_room(build, sections, room_id, membership)
        parts = [_next_batch(token)]
        if account_data:
            parts.append(b'"account_data":%b' % events_json(account_data))
        rooms = rooms_json(sections)
        if rooms is not None:
            parts.append(b'"rooms":%b' % rooms)
        parts += extended.news
        is_empty = len(parts) == 1
        return Answer(_encode([*parts, *extended.quiet]), token, is_empty)

    def _extend(self, build: Build) -> Parts | None:
        """What the extensions add; None while the view has needs."""
        found = NO_PARTS
        for extension in self.extensions:
            parts = extension.get_parts(build.view, build.request, build.rooms)
            if parts is None or parts is NO_PARTS:
                continue
            if found is NO_PARTS:
                found = parts
                continue
            found.news += parts.news
            found.quiet += parts.quiet
            found.to_device = found.to_device if parts.to_device is None else parts.to_device
        return found if build.view.is_complete else None

    def _get_quiet(self, request: SyncRequest) -> list[bytes] | None:
        """What the extensions add to a response that says nothing; None where memory lacks some of it."""
        found: list[bytes] = []
        for extension in self.extensions:
            quiet = extension.get_quiet(request)
            if quiet is None:
                return None
            found += quiet
        return found

    def _candidates(self, build: Build) -> Iterable[tuple[RoomId, MembershipRow]]:
        """The user's rooms that may have something to tell."""
        request, rooms, recent = build.request, build.rooms, self.sources.recent
        after = request.after
        wanted = request.filter.room.rooms
        found: Iterable[tuple[RoomId, MembershipRow]]
        if request.since is None or request.full_state or after < recent.floor:
            found = rooms.items()
        else:
            touched = self._touched(rooms, after)
            touched.update(build.typing_changed)
            if build.account_data:
                touched.update(RoomId(room_id) for room_id in build.account_data)
            found = [(room_id, rooms[room_id]) for room_id in sorted(touched) if room_id in rooms]
        if wanted.matches_all:
            return found
        return [(room_id, membership) for room_id, membership in found if wanted.matches(room_id)]

    def _touched(self, rooms: UserRooms, after: int) -> set[RoomId]:
        """Those of the rooms that have log rows behind `after`: asked of the rows or of the rooms, whichever
        are fewer.
        """
        recent = self.sources.recent
        if recent.position - after <= len(rooms):
            return {RoomId(row.key) for row in recent.all_after(after) if row.key in rooms}
        return recent.changed_after(rooms, after)

    def _set_typing(self, build: Build) -> None:
        since = build.request.since
        typing = self.sources.typing
        if since is None:
            return  # the rooms are all new, and say who types
        if typing.serial != since.ephemeral:
            changed = typing.rooms_changed_since(since.ephemeral)
            build.typing_changed = {room_id for room_id in changed if _is_joined(build.rooms, room_id)}

    def _account_data(self, build: Build) -> list[bytes]:
        """The global account data to tell; that of rooms is put into the build."""
        view, request, recent = build.view, build.request, self.sources.recent
        if request.filter.account_data.matches_none and request.filter.room.account_data.matches_none:
            return []
        is_known = request.since is not None and request.after >= recent.floor
        if is_known:
            if recent.last_position(request.user_id) <= request.after:
                return []
            kinds = {kind_changed_by(row) for row in recent.rows_after(request.user_id, request.after)}
            if kinds <= {None}:
                return []
        rows = view.get_account_data(request.after)
        if rows is None:
            return []
        build.account_data = account_data_by_room(request, rows)
        wanted = request.filter.account_data
        found = [
            encode_account_data(row.type, row.content)
            for row in rows
            if not row.room_id
            and row.type != PUSH_RULES_TYPE
            and wanted.matches(row.type, None)
            and (request.after or not row.is_removed)
        ]
        # Whether they changed since a moment that memory no longer reaches is not known: told again, they do no harm.
        if wanted.matches(PUSH_RULES_TYPE, None) and (not is_known or PUSH_RULES in kinds):
            content = view.get_push_rules()
            if content is not None:
                found.append(encode_account_data(PUSH_RULES_TYPE, content))
        return found


def _is_joined(rooms: UserRooms, room_id: RoomId) -> bool:
    row = rooms.get(room_id)
    return row is not None and row.membership == "join"


def _add_room(
    build: Build, sections: dict[bytes, dict[str, bytes]], room_id: RoomId, membership: MembershipRow
) -> None:
    request = build.request
    is_new = request.since is None or membership.position > request.after
    match membership.membership:
        case "join":
            name, room = b"join", build_joined(build, room_id, membership)
        case "invite" if (is_new or request.full_state) and not build.unwanted.is_invite_of(membership.sender):
            name, room = b"invite", build_stripped(build, room_id, membership, b"invite_state")
        case "knock" if is_new or request.full_state:
            name, room = b"knock", build_stripped(build, room_id, membership, b"knock_state")
        case kind if kind in _LEFT and _tells_left(request, membership, is_new):
            name, room = b"leave", build_left(build, room_id, membership)
        case _:
            return
    if room is not None:
        sections.setdefault(name, {})[room_id] = room


def _tells_left(request: SyncRequest, membership: MembershipRow, is_new: bool) -> bool:
    """Rooms left since `since` always, those left before only to clients that ask for them.

    Spec: client-server-api#post_matrixclientv3useruseridfilter_request_roomfilter
    """
    if request.since is not None and not request.full_state:
        return is_new
    archived = request.filter.room.include_leave and not membership.forgotten
    return archived or (request.since is not None and is_new)


def _is_up_to_date(request: SyncRequest, now: SyncToken) -> bool:
    """Nothing at all has happened on the server since. A token from ahead of the log says nothing of that."""
    since = request.since
    return since is not None and not request.full_state and since.covers(now) and since.position == now.position


def _next_batch(token: SyncToken) -> bytes:
    return b'"next_batch":"%b"' % str(token).encode()


def _encode(parts: Iterable[bytes]) -> bytes:
    return b"{%b}" % b",".join(parts)
