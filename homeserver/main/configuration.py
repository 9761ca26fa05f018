"""hearth.toml: found, read, or made at the first start."""

from __future__ import annotations

import os
from pathlib import Path

from homeserver.main.sections import SECTIONS
from homeserver.runtime.config import Config, ConfigError, load_config
from homeserver.runtime.config_docs import write_example


def load(path: Path) -> Config:
    """Raises: ConfigError."""
    return load_config(path, SECTIONS, os.environ)


def load_or_make(path: Path, *, is_default: bool) -> Config:
    """The configuration; where there is none at the default place, a new one for a server on this machine.

    Raises: ConfigError.
    """
    if is_default and not path.exists():
        _make(path)
    return load(path)


def example(server_name: str) -> str:
    """A hearth.toml with every setting, commented out where it has a default."""
    return write_example(SECTIONS, {"server_name": server_name})


def _make(path: Path) -> None:
    text = write_example(SECTIONS, {"server_name": "localhost", "data_dir": ".", "registration.enabled": True})
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.write_text(text)
    except OSError as error:
        raise ConfigError(f"can't write {path}: {error.strerror}") from None
