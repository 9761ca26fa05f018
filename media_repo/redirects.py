"""Media that another server keeps elsewhere: a `Location` instead of content.

Whoever answers so makes this server ask an address of their choice. So: https only, no signature, no credentials, every
hop connected to under the policy that forbids private addresses after the look-up of the name, few hops, the limits of
size and time of any download.

Spec: server-server-api#get_matrixfederationv1mediadownloadmediaid
"""

from __future__ import annotations

from typing import IO, Final
from urllib.parse import urljoin, urlsplit

from attrs import define

from homeserver.matrix.errors import MatrixError
from homeserver.runtime.http_client import Fault, HttpAnswer, HttpClient, HttpFailure, Target

MAX_HOPS: Final = 3
MAX_URL_CHARS: Final = 8192


class BadRemoteMedia(MatrixError):
    """Another server's media can't be had; the text says why."""

    status = 502


class RemoteMediaTooLarge(BadRemoteMedia):
    errcode = "M_TOO_LARGE"

    def __init__(self) -> None:
        super().__init__("The content is larger than this server takes from others")


@define(eq=False)
class Redirects:
    """Follows redirects to media."""

    http: HttpClient

    async def follow(self, location: str, into: IO[bytes], *, timeout_ms: int, max_bytes: int) -> HttpAnswer:
        """The head of the answer; its body is written to the file. Raises: BadRemoteMedia."""
        for _ in range(MAX_HOPS):
            target, path = _target_of(location)
            answer = await self._ask(target, path, into, timeout_ms, max_bytes)
            if 200 <= answer.status < 300:
                return answer
            if answer.status not in (301, 302, 303, 307, 308) or "location" not in answer.headers:
                raise BadRemoteMedia(f"{target.name}, where the content should be, answers {answer.status}")
            location = urljoin(location, answer.headers["location"])
        raise BadRemoteMedia("The content is behind too many redirects")

    async def _ask(self, target: Target, path: str, into: IO[bytes], timeout_ms: int, max_bytes: int) -> HttpAnswer:
        try:
            return await self.http.request("GET", target, path, timeout_ms=timeout_ms, max_bytes=max_bytes, into=into)
        except HttpFailure as error:
            if error.fault is Fault.TOO_LARGE:
                raise RemoteMediaTooLarge() from error
            raise BadRemoteMedia(f"The content is at {target.name}, which can't be reached") from error


def _target_of(url: str) -> tuple[Target, str]:
    """Raises: BadRemoteMedia."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
        host = parts.hostname or ""
    except ValueError:
        raise BadRemoteMedia("The content is at an address that is none") from None
    path = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
    is_plain = url.isascii() and url.isprintable() and " " not in url and len(url) <= MAX_URL_CHARS
    if parts.scheme != "https" or not host or "@" in parts.netloc or not is_plain or not path.startswith("/"):
        raise BadRemoteMedia("The content is at an address that this server does not ask")
    return Target.at(host, port), path
