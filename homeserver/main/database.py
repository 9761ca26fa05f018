"""Opening the database: the schema brought up to date, errors in one line."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from homeserver.runtime.config import Config, ConfigError
from homeserver.runtime.config_sections import DatabaseConfig
from homeserver.runtime.db import Database, engine_url, make_engine
from homeserver.store.migrations import SchemaTooNew, upgrade


def prepare_data_dir(config: Config) -> None:
    """Raises: ConfigError."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = config.data_dir / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(f"data_dir: can't write to {config.data_dir}: {error.strerror}") from None


def open_database(config: Config, reactor: Any) -> Database:
    """The database with its newest schema.

    Raises: ConfigError.
    """
    return Database(upgrade_schema(config), reactor)


def upgrade_schema(config: Config) -> Engine:
    """Bring the schema up to date.

    Raises: ConfigError.
    """
    url = config.section(DatabaseConfig).url
    try:
        engine = make_engine(engine_url(url, config.data_dir))
        with engine.connect() as connection, connection.begin():
            upgrade(connection)
    except SchemaTooNew as error:
        raise ConfigError(f"[database] url: {error}") from None
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise ConfigError(f"[database] url: can't open {_shown(url)}: {reason}") from None
    return engine


def _shown(url: str) -> str:
    """The URL without its password."""
    scheme, _, rest = url.partition("://")
    credentials, at, place = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}{at}{place}"
