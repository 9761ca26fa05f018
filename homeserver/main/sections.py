"""All sections of the configuration, in the order of the example file and the docs page."""

from __future__ import annotations

from typing import Final

from federation.config import FederationConfig, PolicyServerConfig
from homeserver.accounts.config import LoginConfig, RegistrationConfig, WellKnownConfig
from homeserver.e2ee.config import EncryptionConfig
from homeserver.main.memory import MemoryConfig
from homeserver.rooms.config import IdentityServersConfig, RoomsConfig
from homeserver.runtime.config import ServerConfig
from homeserver.runtime.config_sections import ALL_SECTIONS
from media_repo.config import MediaConfig

SECTIONS: Final[tuple[type, ...]] = (
    ServerConfig,
    *ALL_SECTIONS,
    RegistrationConfig,
    LoginConfig,
    WellKnownConfig,
    RoomsConfig,
    IdentityServersConfig,
    EncryptionConfig,
    FederationConfig,
    PolicyServerConfig,
    MediaConfig,
    MemoryConfig,
)
