"""User-interactive authentication: stages in the order of a flow, until one flow is complete.

A request that completes a flow by itself (one stage, no session) touches no session at all. Otherwise the
stages done so far are kept in the database, so any process can go on with them. A session is good for the
operation it was begun for (method, path, user) and dies when it is complete.

Spec: client-server-api#user-interactive-authentication-api
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, Protocol

from attrs import define, field, frozen

from homeserver.accounts.tokens import new_session_id
from homeserver.matrix.errors import BadJson, Forbidden, MatrixError, NotFound
from homeserver.matrix.ids import UserId
from homeserver.runtime.clock import Clock
from homeserver.runtime.db import Database
from homeserver.store import interactive_auth as store

MAX_SESSIONS = 20_000
SESSIONS_BETWEEN_TRIMS = 500
MAX_SESSION_ID_CHARS = 64

Flow = tuple[str, ...]
Auth = Mapping[str, Any]


class Stage(Protocol):
    """One type of proof."""

    @property
    def type(self) -> str: ...

    def params(self) -> dict[str, Any] | None:
        """What clients must know to do it; None for nothing."""
        ...

    async def check(self, auth: Auth, user_id: UserId | None, /) -> Any:
        """What is worth remembering of the proof, as JSON.

        Raises: StageFailed when the client may try again; any other MatrixError ends the request.
        """
        ...


class StageFailed(Exception):
    """The proof is wrong."""

    def __init__(self, errcode: str, error: str) -> None:
        super().__init__(error)
        self.errcode = errcode
        self.error = error


class AuthRequired(MatrixError):
    """There are stages left to do."""

    status = 401

    def __init__(self, challenge: dict[str, Any], failure: StageFailed | None) -> None:
        super().__init__(failure.error if failure else "Additional authentication is required")
        self.challenge = challenge
        self.failure = failure

    def to_json(self) -> dict[str, Any]:
        if self.failure is None:
            return self.challenge
        return {"errcode": self.failure.errcode, "error": self.failure.error, **self.challenge}


@frozen
class Operation:
    """What the authentication is for."""

    method: str
    path: str
    user_id: UserId | None = None

    def digest(self) -> bytes:
        text = f"{self.method}\n{self.path}\n{self.user_id or ''}"
        return blake2b(text.encode(), digest_size=16).digest()


@frozen
class _Progress:
    session_id: str | None
    completed: dict[str, Any]


@define(eq=False)
class InteractiveAuth:
    database: Database
    clock: Clock
    stages: Mapping[str, Stage]
    session_lifetime_ms: int
    _created: int = field(default=0, init=False)

    async def check(self, operation: Operation, flows: Sequence[Flow], auth: Auth | None) -> Mapping[str, Any]:
        """What the stages of the completed flow recorded, by stage.

        Raises: AuthRequired; what a stage raises.
        """
        progress = await self._load(operation, auth or {})
        stage_type = (auth or {}).get("type")
        if stage_type is not None and not isinstance(stage_type, str):
            raise BadJson("auth.type: must be a string")
        if stage_type is None or stage_type in progress.completed:
            return await self._conclude(operation, flows, progress)
        try:
            record = await self._run_stage(stage_type, operation, flows, auth or {}, progress)
        except StageFailed as failure:
            raise await self._challenge(operation, flows, progress, failure) from None
        done = _Progress(progress.session_id, {**progress.completed, stage_type: record})
        return await self._conclude(operation, flows, done, is_news=True)

    async def complete(self, session_id: str, stage_type: str, auth: Auth) -> None:
        """Do one stage of a session in a browser; the client then goes on with the session alone.

        Raises: NotFound when there is no such session or stage; StageFailed.

        Spec: client-server-api#fallback
        """
        stage = self.stages.get(stage_type)
        if not 0 < len(session_id) <= MAX_SESSION_ID_CHARS or "\0" in session_id or stage is None:
            raise NotFound("No such authentication session or stage")
        now_ms = self.clock.time_ms()
        session = await self.database.read(store.load_session, session_id, now_ms)
        if session is None:
            raise NotFound("Unknown or expired authentication session")
        completed = {**session.completed, stage_type: await stage.check(auth, None)}
        expires_ts_ms = now_ms + self.session_lifetime_ms
        await self.database.run(store.save_session, session_id, session.operation, completed, expires_ts_ms)

    async def _load(self, operation: Operation, auth: Auth) -> _Progress:
        session_id = auth.get("session")
        if session_id is None:
            return _Progress(None, {})
        if not isinstance(session_id, str) or not 0 < len(session_id) <= MAX_SESSION_ID_CHARS or "\0" in session_id:
            raise BadJson("auth.session: not a session ID")
        session = await self.database.read(store.load_session, session_id, self.clock.time_ms())
        if session is None:
            raise MatrixError("Unknown or expired authentication session")
        if session.operation != operation.digest():
            raise Forbidden("The authentication session was begun for another request")
        return _Progress(session_id, session.completed)

    async def _run_stage(
        self, stage_type: object, operation: Operation, flows: Sequence[Flow], auth: Auth, progress: _Progress
    ) -> Any:
        if not isinstance(stage_type, str):
            raise BadJson("auth.type: must be a string")
        if not any(_is_next(flow, progress.completed, stage_type) for flow in flows):
            raise StageFailed("M_UNRECOGNIZED", "That authentication type is not the next of any flow")
        return await self.stages[stage_type].check(auth, operation.user_id)

    async def _conclude(
        self, operation: Operation, flows: Sequence[Flow], progress: _Progress, *, is_news: bool = False
    ) -> Mapping[str, Any]:
        if any(set(flow) <= set(progress.completed) for flow in flows):
            if progress.session_id is not None:
                await self.database.run(store.delete_session, progress.session_id)
            return progress.completed
        if is_news and progress.session_id is not None:
            expires_ts_ms = self.clock.time_ms() + self.session_lifetime_ms
            await self.database.run(
                store.save_session, progress.session_id, operation.digest(), progress.completed, expires_ts_ms
            )
        raise await self._challenge(operation, flows, progress, None)

    async def _challenge(
        self, operation: Operation, flows: Sequence[Flow], progress: _Progress, failure: StageFailed | None
    ) -> AuthRequired:
        session_id = progress.session_id or await self._create_session(operation, progress.completed)
        challenge: dict[str, Any] = {
            "session": session_id,
            "flows": [{"stages": list(flow)} for flow in flows],
            "params": self._params(flows),
        }
        if progress.completed:
            challenge["completed"] = list(progress.completed)
        return AuthRequired(challenge, failure)

    def _params(self, flows: Sequence[Flow]) -> dict[str, Any]:
        params = {}
        for stage_type in dict.fromkeys(stage for flow in flows for stage in flow):
            found = self.stages[stage_type].params()
            if found is not None:
                params[stage_type] = found
        return params

    async def _create_session(self, operation: Operation, completed: dict[str, Any]) -> str:
        session_id = new_session_id()
        now_ms = self.clock.time_ms()
        expires_ts_ms = now_ms + self.session_lifetime_ms
        await self.database.run(store.create_session, session_id, operation.digest(), completed, now_ms, expires_ts_ms)
        self._created += 1
        if self._created % SESSIONS_BETWEEN_TRIMS == 0:
            await self.database.run(store.delete_oldest_sessions, MAX_SESSIONS)
        return session_id


def _is_next(flow: Flow, completed: Mapping[str, Any], stage_type: str) -> bool:
    done = len(completed)
    return set(flow[:done]) == set(completed) and flow[done : done + 1] == (stage_type,)
