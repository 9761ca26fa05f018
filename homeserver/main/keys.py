"""The server's signing key file."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Collection
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


def rotate_signing_key(path: Path) -> tuple[SigningKey, SigningKey]:
    """A new key put first in the file, and the one that was first. The others stay: others verify with them what they signed.

    The server writes them down as old when it starts. Raises: ConfigError; the file is as it was, then.
    """
    if not path.exists():
        raise ConfigError(f"signing_key_file: there is no {path} yet; the server makes it when it first starts")
    keys = load_signing_keys(path)
    new = _make_key({key.version for key in keys})
    try:
        _replace(path, format_signing_keys([new, *keys]))
    except OSError as error:
        raise ConfigError(f"signing_key_file: can't write {path}: {error}") from None
    return new, keys[0]


def _make_key(taken: Collection[str] = ()) -> SigningKey:
    """Under a version that was not in use: for others the key id is the key."""
    versions = iter(lambda: "a_" + secrets.token_hex(3), None)
    version = next(version for version in versions if version not in taken)
    return SigningKey(version, secrets.token_bytes(32))


def _replace(path: Path, text: str) -> None:
    """All or nothing, with the rights that the file has."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, stat.S_IMODE(path.stat().st_mode))
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_new_key(path: Path) -> SigningKey:
    key = _make_key()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(format_signing_keys([key]))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigError(f"signing_key_file: can't write {path}: {error}") from None
    return key
