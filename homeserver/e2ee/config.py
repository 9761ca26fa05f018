"""What admins may set about end-to-end encryption."""

from __future__ import annotations

from homeserver.runtime.config import section, setting


@section("encryption")
class EncryptionConfig:
    """Keys of end-to-end encryption."""

    check_key_signatures: bool = setting(
        False,
        help="Whether devices' uploads of keys are refused where they are not signed by the device itself, as clients check "
        "when they use them.",
    )
