"""Insert-or-update statements that SQLite and PostgreSQL both understand, built once from a Table.

SQLAlchemy has them in its two dialects only, so each would need two statements; the SQL itself is the same.
"""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import Table, TextClause, text


def upsert(table: Table, *columns: str, **otherwise: str) -> TextClause:
    """INSERT of these columns (by default all); a row of the same primary key is overwritten. otherwise: SQL for columns
    that then get something else than what would have been inserted."""
    names = columns or tuple(table.columns.keys())
    keys = _primary_key(table)
    changes = ", ".join(f"{name} = {otherwise.get(name, f'excluded.{name}')}" for name in names if name not in keys)
    return text(f"{_insert(table, names)} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}")


def insert_if_absent(table: Table, *columns: str) -> TextClause:
    """INSERT of these columns (by default all); a row of the same key is left alone, and rowcount is 0."""
    names = columns or tuple(table.columns.keys())
    return text(f"{_insert(table, names)} ON CONFLICT ({', '.join(_primary_key(table))}) DO NOTHING")


def _insert(table: Table, names: Collection[str]) -> str:
    values = ", ".join(f":{name}" for name in names)
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({values})"


def _primary_key(table: Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.primary_key.columns)
