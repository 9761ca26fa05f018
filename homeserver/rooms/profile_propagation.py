"""Bringing a new display name or avatar into the member events of all rooms that a user is in.

A user in few rooms sees the change everywhere when the request is answered; for one in many it goes on behind the
answer. A change that comes while one is on its way starts over with the newest profile, so the newest always wins.

Spec: client-server-api#events-on-change-of-profile-information
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList

from homeserver.folds.memberships import Memberships
from homeserver.matrix.errors import MatrixError
from homeserver.matrix.ids import RoomId, UserId
from homeserver.matrix.state_map import member_key
from homeserver.rooms.head import MEMBER, RoomHead
from homeserver.rooms.member_content import SHOWN_FIELDS, MemberContents
from homeserver.rooms.writer import Draft, RoomWriter
from homeserver.store.events import chunked

logger = logging.getLogger(__name__)

ROOMS_AT_ONCE = 8
ROOMS_BEFORE_THE_ANSWER = 40


@define(eq=False)
class _Job:
    stale: bool = False
    done: list[Deferred[None]] = field(factory=list)


@define(eq=False)
class RoomProfiles:
    """Implements accounts' ProfilePropagation; owns what goes on in the background."""

    writer: RoomWriter
    memberships: Memberships
    contents: MemberContents
    _jobs: dict[UserId, _Job] = field(factory=dict, init=False)
    _stopping: bool = field(default=False, init=False)

    async def propagate(self, user_id: UserId, field_name: str, value: Any, /) -> None:
        """Returns when the rooms know, or at once if there are many."""
        done = self._start(user_id)
        if len(await self._load_joined_rooms(user_id)) <= ROOMS_BEFORE_THE_ANSWER:
            await done

    async def stop(self) -> None:
        """Finish the rooms that are being written, leave out the others."""
        self._stopping = True
        for job in list(self._jobs.values()):
            await self._wait(job)

    def _start(self, user_id: UserId) -> Deferred[None]:
        job = self._jobs.get(user_id)
        if job is not None:
            job.stale = True
            return self._wait(job)
        job = self._jobs[user_id] = _Job()
        done = self._wait(job)
        Deferred.fromCoroutine(self._run(user_id, job))
        return done

    def _wait(self, job: _Job) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        job.done.append(waiting)
        return waiting

    async def _run(self, user_id: UserId, job: _Job) -> None:
        try:
            while await self._run_once(user_id, job):
                job.stale = False
        except Exception:  # a background task: logged, and the next change tries again
            logger.exception("Could not bring the profile of %s into its rooms", user_id)
        finally:
            del self._jobs[user_id]
            for waiting in job.done:
                if not waiting.called:
                    waiting.callback(None)

    async def _run_once(self, user_id: UserId, job: _Job) -> bool:
        """True if a newer change came in between."""
        shown = await self.contents.load_shown(user_id)
        for rooms in chunked(await self._load_joined_rooms(user_id), ROOMS_AT_ONCE):
            if self._stopping or job.stale:
                break
            writes = [Deferred.fromCoroutine(self._write(user_id, room_id, shown)) for room_id in rooms]
            await DeferredList(writes, consumeErrors=True)
        return job.stale and not self._stopping

    async def _load_joined_rooms(self, user_id: UserId) -> list[RoomId]:
        rooms = await self.memberships.load(user_id)
        return sorted(room_id for room_id, row in rooms.items() if row.membership == "join")

    async def _is_shown(self, user_id: UserId, room_id: RoomId, shown: Mapping[str, str]) -> bool:
        """Whether the room shows that already."""
        head = await self.writer.heads.load(room_id)
        event_id = head.state.get(member_key(user_id))
        event = None if event_id is None else await self.writer.events.load(event_id, room_id, head.version)
        return event is not None and all(event.pdu.content.get(name) == shown.get(name) for name in SHOWN_FIELDS)

    async def _write(self, user_id: UserId, room_id: RoomId, shown: dict[str, str]) -> None:
        content = {"membership": "join", **shown}

        def plan(head: RoomHead) -> Sequence[Draft]:
            return [Draft(MEMBER, user_id, content, user_id)] if head.is_joined(user_id) else []

        try:
            if await self._is_shown(user_id, room_id, shown):
                return
            await self.writer.write(room_id, plan)
        except MatrixError as error:
            logger.warning("The profile of %s does not get into %s: %s", user_id, room_id, error)
