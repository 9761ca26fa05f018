"""Which servers this one talks with, as the admin says."""

from __future__ import annotations

from federation.config import FederationConfig
from federation.errors import NotAllowed
from homeserver.matrix.ids import ServerName


class AllowedServers:
    """The lists of the configuration. Names are compared without regard to case; a port must be listed with its name."""

    def __init__(self, config: FederationConfig) -> None:
        self._allowed = {name.lower() for name in config.domain_allowlist}
        self._denied = {name.lower() for name in config.domain_denylist if not name.startswith("*.")}
        self._denied_below = tuple(name[1:].lower() for name in config.domain_denylist if name.startswith("*."))

    def is_allowed(self, server: ServerName) -> bool:
        name = server.lower()
        host = name.rpartition(":")[0] if not name.endswith("]") and ":" in name else name
        if self._allowed and name not in self._allowed:
            return False
        return (
            name not in self._denied and host not in self._denied and not host.endswith(self._denied_below or ("\0",))
        )

    def check(self, server: ServerName) -> None:
        """Raises: NotAllowed."""
        if not self.is_allowed(server):
            raise NotAllowed(server)
