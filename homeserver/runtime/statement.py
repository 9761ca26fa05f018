"""Statements that go straight to the driver.

PERF(a third to two thirds of the database thread's CPU in small transactions): SQLAlchemy takes some 150 us for a
statement, to find what was compiled of it, to process its values and to wrap its result; SQLite itself takes 5. So
where a transaction is one of very many, its statements are compiled once for each dialect, and their values, which are
all what the drivers take, go to the driver; so do its rows come from there, as plain tuples.

What the driver raises comes out as what SQLAlchemy would have raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter, itemgetter, methodcaller
from typing import Any, NoReturn, TypeVar

import orjson
from attrs import frozen
from sqlalchemy import BindParameter, Connection, Text, bindparam
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql import ClauseElement, ColumnElement
from sqlalchemy.sql.functions import FunctionElement

Values = Mapping[str, Any]
T = TypeVar("T")

_fetch_all: Callable[[Any], list[tuple[Any, ...]]] = methodcaller("fetchall")
_get_count: Callable[[Any], int] = attrgetter("rowcount")


@frozen
class _Compiled:
    sql: str
    values_of: Callable[[Values], Any]


class OneOf(ColumnElement[bool]):
    """`column` is one of the values of the list `name`: as one parameter, so that the statement is the same for all lists."""

    inherit_cache = False

    def __init__(self, column: ColumnElement[str], name: str) -> None:
        self.column = column
        self.values: BindParameter[Any] = bindparam(name)


class Members(FunctionElement[Any]):
    """The members of the JSON object `name`, as rows: by .table_valued("key", "value"), of which value is a text or a number."""

    inherit_cache = False

    def __init__(self, name: str) -> None:
        super().__init__(bindparam(name, type_=Text))


@compiles(Members, "postgresql")
def _members_as_json(element: Members, compiler: Any, **options: Any) -> str:
    return f"json_each_text(CAST({compiler.process(element.clause_expr, **options)} AS JSON))"


@compiles(Members, "sqlite")
def _members_as_text(element: Members, compiler: Any, **options: Any) -> str:
    return f"json_each{compiler.process(element.clause_expr, **options)}"


@compiles(OneOf, "postgresql")
def _one_of_array(element: OneOf, compiler: Any, **options: Any) -> str:
    return f"{compiler.process(element.column, **options)} = ANY ({compiler.process(element.values, **options)})"


@compiles(OneOf, "sqlite")
def _one_of_json(element: OneOf, compiler: Any, **options: Any) -> str:
    values = compiler.process(element.values, **options)
    return f"{compiler.process(element.column, **options)} IN (SELECT value FROM json_each({values}))"


class Statement:
    """A statement whose values are numbers, texts, bytes, booleans and None, by name; it has no expanding parameters.

    columns: of an INSERT, if not all. texts: names of values that are lists of texts (see OneOf).
    """

    def __init__(self, statement: ClauseElement, *columns: str, texts: Sequence[str] = ()) -> None:
        self._statement = statement
        self._columns = columns
        self._texts = texts
        self._compiled: dict[str, _Compiled] = {}

    def all(self, conn: Connection, values: Values) -> list[tuple[Any, ...]]:
        """Its rows. Booleans are numbers on SQLite."""
        return self._execute(conn, values, _fetch_all)

    def first(self, conn: Connection, values: Values) -> tuple[Any, ...] | None:
        rows = self.all(conn, values)
        return rows[0] if rows else None

    def run(self, conn: Connection, values: Values) -> int:
        """For statements that yield no rows: how many they changed."""
        return self._execute(conn, values, _get_count)

    def run_many(self, conn: Connection, rows: Sequence[Values]) -> int:
        """Once for each of the rows: how many it changed. Does nothing without rows."""
        if not rows:
            return 0
        compiled = self._get_compiled(conn)
        values = [compiled.values_of(row) for row in rows]
        dialect: Any = conn.dialect
        try:
            cursor: Any = conn.connection.cursor()
            cursor.executemany(compiled.sql, values)
        except dialect.dbapi.Error as error:
            _explain(conn, error, compiled.sql, values)
        count: int = cursor.rowcount
        cursor.close()
        return count

    def _execute(self, conn: Connection, values: Values, read: Callable[[Any], T]) -> T:
        compiled = self._get_compiled(conn)
        dialect: Any = conn.dialect
        try:
            cursor: Any = conn.connection.cursor()
            cursor.execute(compiled.sql, compiled.values_of(values))
            result = read(cursor)  # SQLite works while it is asked for rows
        except dialect.dbapi.Error as error:
            _explain(conn, error, compiled.sql, values)
        cursor.close()
        return result

    def _get_compiled(self, conn: Connection) -> _Compiled:
        return self._compiled.get(conn.dialect.name) or self._compile(conn)

    def _compile(self, conn: Connection) -> _Compiled:
        compiled: Any = self._statement.compile(dialect=conn.dialect, column_keys=list(self._columns) or None)
        values_of = _getter(compiled)
        if self._texts and conn.dialect.name == "sqlite":
            values_of = _with_json(values_of, self._texts)
        made = _Compiled(compiled.string, values_of)
        self._compiled[conn.dialect.name] = made
        return made


def _with_json(values_of: Callable[[Values], Any], names: Sequence[str]) -> Callable[[Values], Any]:
    return lambda values: values_of({**values, **{name: orjson.dumps(values[name]).decode() for name in names}})


def _getter(compiled: Any) -> Callable[[Values], Any]:
    """The values of an execution as the driver wants them: by position (SQLite) or by name (psycopg)."""
    fixed = {name: value for name, value in compiled.params.items() if value is not None}
    if not compiled.positional:
        return (lambda values: {**fixed, **values}) if fixed else dict
    names = compiled.positiontup
    if fixed:
        return lambda values: [values[name] if name in values else fixed[name] for name in names]
    if len(names) == 1:
        return lambda values: (values[names[0]],)
    return itemgetter(*names) if names else lambda values: ()


def _explain(conn: Connection, error: Exception, sql: str, values: Any) -> NoReturn:
    """Raise what SQLAlchemy would have raised for it."""
    dialect: Any = conn.dialect
    is_gone = dialect.is_disconnect(error, conn.connection.dbapi_connection, None)
    if is_gone:
        conn.invalidate(error)
    raise DBAPIError.instance(
        sql,
        values,
        error,
        dialect.dbapi.Error,
        hide_parameters=True,
        connection_invalidated=is_gone,
        dialect=dialect,
    ) from error
