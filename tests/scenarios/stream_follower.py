"""A client that follows by the WebSocket, and believes what it is told as one that follows by /sync does."""

from __future__ import annotations

from attrs import define, field

from tests.kit.client import Client
from tests.kit.stream import Closed, StreamClient
from tests.scenarios.sync_follower import Json, SyncFollower, Truth

_QUIET = {"next_batch", "device_one_time_keys_count", "device_unused_fallback_key_types"}
_QUIET |= {"org.matrix.msc2732.device_unused_fallback_key_types"}


@define
class StreamFollower:
    """One client of a user. It comes back with its token when the stream is closed or lost."""

    client: Client
    follower: SyncFollower = field(init=False)
    _stream: StreamClient | None = None

    def __attrs_post_init__(self) -> None:
        self.follower = SyncFollower("stream", self.client, None, None, "state")

    def step(self) -> None:
        """Take what has come until now."""
        try:
            stream = self._opened()
            stream.call("ping")
            while stream.updates:
                self.follower._take(stream.update())
        except Closed as closed:
            assert closed.code == 1012, closed
            self._stream = None

    def lose_connection(self) -> None:
        """What was on its way is lost; the token tells where to go on."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def check(self, truth: Truth) -> None:
        """Raises: AssertionError unless the stream tells all that the server says."""
        self.step()
        while self._is_behind():
            self.follower._take(self._opened().update())
        self.follower.check(truth)

    def _is_behind(self) -> bool:
        """Whether /sync has more to tell than the stream did: then it is on its way, or the wait for it fails."""
        if self.follower.token is None:
            return True
        answer: Json = self.client.get("/sync", query={"since": self.follower.token, "timeout": 0})
        return bool(answer.keys() - _QUIET)

    def _opened(self) -> StreamClient:
        if self._stream is None:
            since = {"since": self.follower.token} if self.follower.token is not None else {}
            self._stream = StreamClient(self.client.base_url, self.client.token, **since)
        return self._stream
