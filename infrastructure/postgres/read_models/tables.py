"""SQL for a read model's shape: its table, its views, and the statement that merges rows into it.

All names are identifiers from the code, never from a caller.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from domain.ports.read_models import InstanceId
from domain.read_models.tables import Column, Row, Rule, Table

SCHEMA = "read_models"

TYPES = {"words": "tsvector"}
"""Kinds of columns whose type has another name in PostgreSQL."""

GIVEN = {"json": "text", "words": "text"}
"""Kinds of columns whose parameters have another type."""

INDEXED = {"order": "({0})", "span": "USING gist (tstzrange({0}))", "words": "USING gin ({0})"}
"""How an index is made of its columns, by what it finds."""

WHEN_THERE: dict[Rule, str] = {
    "last": "excluded.{0}",
    "first": "coalesce(t.{0}, excluded.{0})",
    "add": "t.{0} + excluded.{0}",
    "least": "least(t.{0}, excluded.{0})",
    "greatest": "greatest(t.{0}, excluded.{0})",
    "joined": "t.{0} || ',' || excluded.{0}",
}
"""A column's new value where the row exists already, by its rule."""


def place(name: str, instance: InstanceId) -> str:
    """Return the name of an instance's table."""
    return f"{SCHEMA}.{name}_{instance}"


def create(table: Table, instance: InstanceId) -> Iterable[str]:
    """Yield the statements that create an instance's table."""
    name = place(table.name, instance)
    columns = ", ".join(map(_definition, table.columns))
    key = ", ".join(map(_quoted, _key(table)))
    yield f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key})) WITH (fillfactor = 85)"
    for index in table.indexes:
        listed = ", ".join(map(_quoted, index.columns))
        yield f"CREATE INDEX ON {name} {INDEXED[index.by].format(listed)}"


def show(table: Table, instance: InstanceId) -> Iterable[str]:
    """Yield the statements that point the views at an instance: the internal one, and the one for reports."""
    inside, outside = f"{SCHEMA}.{table.name}", f"analytics.{table.name}"
    yield _replace(inside, f"TABLE {place(table.name, instance)}")
    columns = [f"t.{_quoted(column.name)}" for column in table.public]
    columns += [f"{derived.expression} AS {_quoted(derived.name)}" for derived in table.derived]
    yield _replace(outside, f"SELECT {', '.join(columns)} FROM {place(table.name, instance)} AS t")  # noqa: S608
    yield f"COMMENT ON VIEW {outside} IS {_literal(table.about)}"
    for name, about in [(c.name, c.about) for c in table.public] + [(d.name, d.about) for d in table.derived]:
        yield f"COMMENT ON COLUMN {outside}.{_quoted(name)} IS {_literal(about)}"


def _replace(view: str, query: str) -> str:
    """Replace a view in place, which keeps its grants and dependants. If columns were removed, it is created again."""
    return f"""
        DO $show$
        BEGIN
            CREATE OR REPLACE VIEW {view} AS {query};
        EXCEPTION WHEN invalid_table_definition THEN
            DROP VIEW {view};
            CREATE VIEW {view} AS {query};
        END
        $show$
    """


@cache
def write_all(written: tuple[tuple[InstanceId, Table], ...]) -> str:
    """Return one statement that merges rows into several tables. Its parameters are those of `write`, table by table.

    PostgreSQL executes the last part first. So the parts are reversed, and rows are locked in the order of `written`.
    """
    parts, first = list[str](), 1
    for number, (instance, table) in enumerate(written):
        parts.append(f"part_{number} AS ({write(table, instance, first)})")
        first += len(table.columns)
    return f"WITH {', '.join(reversed(parts))} SELECT"


@cache
def write(table: Table, instance: InstanceId, first: int = 1) -> str:
    """Return the statement that merges rows into an instance's table.

    Its parameters are arrays, one a column, numbered from `first` on.
    """
    names = ", ".join(_quoted(column.name) for column in table.columns)
    arrays = ", ".join(
        f"${n}::{GIVEN.get(column.kind, column.kind)}[]" for n, column in enumerate(table.columns, first)
    )
    values = ", ".join(_value(column) for column in table.columns)
    changed = ", ".join(
        f"{_quoted(column.name)} = {WHEN_THERE[column.rule].format(_quoted(column.name))}"
        for column in table.columns
        if column.rule != "key"
    )
    key = ", ".join(map(_quoted, _key(table)))
    then = f"DO UPDATE SET {changed}" if changed else "DO NOTHING"
    return f"""
        INSERT INTO {place(table.name, instance)} AS t ({names})
        SELECT {values} FROM unnest({arrays}) AS given ({names})
            ON CONFLICT ({key}) {then}
    """  # noqa: S608  (identifiers of our own)


def arrays_of(table: Table, rows: Sequence[Row]) -> list[list[Any]]:
    """Turn rows into the parameters of `write`: an array a column."""
    if not rows:
        return [[] for _ in table.columns]
    return [
        [_without_nul(value) for value in values] if column.kind in {"text", "words"} else list(values)
        for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]


def _key(table: Table) -> Sequence[str]:
    """Return the key's columns, the slice first: so rows of a slice are stored together."""
    return sorted(table.key, key=lambda name: name != "slice")


def _definition(column: Column) -> str:
    needed = "" if column.rule in {"last", "first", "joined"} else " NOT NULL"
    return f"{_quoted(column.name)} {TYPES.get(column.kind, column.kind)}{needed}"


def _value(column: Column) -> str:
    cast = f"::{TYPES.get(column.kind, column.kind)}" if column.kind in GIVEN else ""
    return f"given.{_quoted(column.name)}{cast}"


def _without_nul(value: Any) -> Any:
    """Replace NUL, which PostgreSQL's text cannot hold."""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) and "\x00" in value else value


def _quoted(name: str) -> str:
    return f'"{name}"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
