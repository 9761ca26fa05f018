"""Numbered migrations: NNNN_name.py, each with `upgrade(connection)`.

A migration imports nothing of ours, so that it does the same for ever, and is never edited once released. The number of
the newest one applied stands in `schema_version`; all of one start's migrations run in one transaction.
"""

from __future__ import annotations

import importlib
import pkgutil
import re

from sqlalchemy import Connection, inspect, text

_NAME = re.compile(r"m(\d{4})_\w+")


class SchemaTooNew(Exception):
    """The database was written by a newer Hearth."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"the database has schema {found}, this version of Hearth knows up to {known}")


def known_migrations() -> dict[int, str]:
    """Number -> module name, ascending."""
    found = {
        int(match[1]): module.name
        for module in pkgutil.iter_modules(__path__)
        if (match := _NAME.fullmatch(module.name))
    }
    return dict(sorted(found.items()))


def schema_version(connection: Connection) -> int:
    if not inspect(connection).has_table("schema_version"):
        return 0
    version: int = connection.execute(text("SELECT version FROM schema_version")).scalar_one()
    return version


def upgrade(connection: Connection) -> list[str]:
    """Bring the schema to the newest version; the names of the migrations applied.

    Raises: SchemaTooNew.
    """
    migrations = known_migrations()
    if connection.dialect.name == "postgresql":  # two processes may start at once
        connection.execute(text("SELECT pg_advisory_xact_lock(1214603848)"))
    version = schema_version(connection)
    if version > max(migrations):
        raise SchemaTooNew(version, max(migrations))
    applied = [name for number, name in migrations.items() if number > version]
    for name in applied:
        importlib.import_module(f"{__name__}.{name}").upgrade(connection)
    if version == 0:
        connection.execute(text("CREATE TABLE schema_version (version INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO schema_version (version) VALUES (:v)"), {"v": max(migrations)})
    elif applied:
        connection.execute(text("UPDATE schema_version SET version = :v"), {"v": max(migrations)})
    return applied
