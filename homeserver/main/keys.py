"""The server's signing key file."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from homeserver.matrix.signing import KeyFileError, SigningKey, format_signing_keys, parse_signing_keys
from homeserver.runtime.config import ConfigError


def load_signing_key(path: Path) -> SigningKey:
    """The key to sign with; a new one, written to the file, if there is no file.

    Raises: ConfigError.
    """
    return load_signing_keys(path)[0]


def load_signing_keys(path: Path) -> list[SigningKey]:
    """The key to sign with, and those that were in use before. Raises: ConfigError."""
    try:
        return parse_signing_keys(path.read_text())
    except FileNotFoundError:
        return [_write_new_key(path)]
    except (OSError, KeyFileError, UnicodeDecodeError) as error:
        raise ConfigError(f"signing_key_file: can't read {path}: {error}") from None


def _write_new_key(path: Path) -> SigningKey:
    key = SigningKey("a_" + secrets.token_hex(2), secrets.token_bytes(32))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(format_signing_keys([key]))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"signing_key_file: can't write {path}: {error}") from None
    return key
