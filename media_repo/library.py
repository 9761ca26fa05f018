"""From an mxc:// URI to a file: an upload of this server's, or a copy of another's."""

from __future__ import annotations

from attrs import define

from homeserver.matrix.errors import NotFound
from homeserver.matrix.ids import ServerName
from media_repo.media import Media, MediaAddress
from media_repo.remote import RemoteMedia
from media_repo.service import Uploads, bounded_wait_ms


@define(eq=False)
class Library:
    """`remote` is None where this server does not federate."""

    server_name: ServerName
    uploads: Uploads
    remote: RemoteMedia | None

    async def load(self, address: MediaAddress, timeout_ms: int, wanted_by: str) -> Media:
        """Waits up to `timeout_ms` for content that was announced only. `wanted_by` is whose limit a fetch counts for.

        Raises: NotFound, NotYetUploaded, LimitExceeded, MatrixErrors of 502 to 504.
        """
        timeout_ms = bounded_wait_ms(timeout_ms)
        if address.server == self.server_name:
            return await self.uploads.load(address.media_id, timeout_ms)
        if self.remote is None:
            raise NotFound("That is media of another server")
        return await self.remote.load(address, timeout_ms, wanted_by)

    async def load_known(self, address: MediaAddress) -> Media:
        """What is here, without waiting for anybody. Raises: NotFound, NotYetUploaded."""
        if address.server == self.server_name:
            return await self.uploads.load(address.media_id, 0)
        found = None if self.remote is None else await self.remote.load_copy(address)
        if found is None:
            raise NotFound("There is no such media")
        return found
