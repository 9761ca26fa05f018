"""One GET /sync, parsed."""

from __future__ import annotations

from enum import Enum

from attrs import frozen

from homeserver.matrix.filters import Filter
from homeserver.matrix.ids import DeviceId, UserId
from homeserver.sync.tokens import SyncToken

DEFAULT_TIMELINE_LIMIT = 10
MAX_TIMELINE_LIMIT = 100


class StateKind(Enum):
    """Which state a response has, by its key there: that before the timeline, or that after it.

    Spec: client-server-api#get_matrixclientv3sync
    """

    BEFORE = b"state"
    AFTER = b"state_after"
    # COMPAT(js-sdk before v1.16 of the specification): answered under the name that was asked with.
    UNSTABLE_AFTER = b"org.matrix.msc4222.state_after"


@frozen
class SyncRequest:
    """is_legacy: for an endpoint that does not deliver messages to devices, and so must not take them for delivered."""

    user_id: UserId
    device_id: DeviceId | None
    filter: Filter
    since: SyncToken | None = None
    timeout_ms: int = 0
    full_state: bool = False
    state_kind: StateKind = StateKind.BEFORE
    is_legacy: bool = False

    @property
    def timeline_limit(self) -> int:
        return self.filter.room.timeline.limit_within(DEFAULT_TIMELINE_LIMIT, MAX_TIMELINE_LIMIT)

    @property
    def after(self) -> int:
        """The position up to which the client knows everything; 0 for a new client."""
        return self.since.position if self.since is not None else 0

    def since_then(self, token: SyncToken) -> SyncRequest:
        """The same request, from a later moment on."""
        # PERF: attrs.evolve takes ten times as long.
        rest = (self.timeout_ms, False, self.state_kind, self.is_legacy)
        return SyncRequest(self.user_id, self.device_id, self.filter, token, *rest)
