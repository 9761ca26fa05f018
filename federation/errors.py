"""What can come of asking another server, as errors that may be shown to our own users.

MatrixError
  RemoteUnreachable    no answer, or none that can be used
    RemoteTooLarge     more than this server takes
    BackingOff         not even asked: it failed lately
    NotAllowed         not even asked: this server is not to talk to that one
  RemoteRefused        an answer, and it is an error
  BadAnswer            an answer that can't be believed or understood
"""

from __future__ import annotations

from typing import Any

from homeserver.matrix.errors import Forbidden, MatrixError
from homeserver.matrix.ids import ServerName


class RemoteUnreachable(MatrixError):
    """The other server gives no usable answer: no connection, none in time, too large, not JSON."""

    status = 502
    errcode = "M_UNKNOWN"

    def __init__(self, server: ServerName, why: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{server} can't be reached: {why}", status=504 if timed_out else 502)
        self.server = server
        self.why = why


class RemoteTooLarge(RemoteUnreachable):
    """The other server's answer is larger than this one takes."""

    errcode = "M_TOO_LARGE"


class BackingOff(RemoteUnreachable):
    """The other server failed lately and is left alone until `retry_ts_ms`."""

    status = 503

    def __init__(self, server: ServerName, retry_ts_ms: int) -> None:
        super().__init__(server, "it failed lately and is asked again later")
        self.status = 503
        self.retry_ts_ms = retry_ts_ms


class NotAllowed(RemoteUnreachable, Forbidden):
    """This server's configuration does not let it talk to that one."""

    def __init__(self, server: ServerName) -> None:
        super().__init__(server, "this server does not talk to it")
        self.status = 403
        self.errcode = "M_FORBIDDEN"


class RemoteRefused(MatrixError):
    """The other server answered with an error: its status, errcode and text, and the whole body in `body`.

    retry_after_ms: for how long it wants to be left alone, in its words; 0 if it does not say.
    """

    def __init__(self, server: ServerName, status: int, body: Any, retry_after_ms: int = 0) -> None:
        said = body if isinstance(body, dict) else {}
        errcode, error = said.get("errcode"), said.get("error")
        super().__init__(
            error if isinstance(error, str) else f"{server} answers {status}",
            errcode=errcode[:255] if isinstance(errcode, str) else "M_UNKNOWN",
            status=status,
        )
        self.server = server
        self.body = body
        self.retry_after_ms = retry_after_ms


class BadAnswer(MatrixError):
    """The other server answered what it must not: wrong shape, wrong signatures, another room's events."""

    status = 502

    def __init__(self, server: ServerName, why: str) -> None:
        super().__init__(f"{server} gives a wrong answer: {why}")
        self.server = server
        self.why = why
