"""From a read model's shape to SQL: its table, its views, and the one statement that writes rows.

Names in here are identifiers from the code, never a caller's.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from domain.ports.read_models import InstanceId
from domain.read_models.tables import Column, Row, Rule, Table

SCHEMA = "read_models"

TYPES = {"words": "tsvector"}
"""Types that are not called as PostgreSQL calls them."""

GIVEN = {"json": "text", "words": "text"}
"""Types that are given as another one."""

WHEN_THERE: dict[Rule, str] = {
    "last": "excluded.{0}",
    "first": "coalesce(t.{0}, excluded.{0})",
    "add": "t.{0} + excluded.{0}",
    "least": "least(t.{0}, excluded.{0})",
    "greatest": "greatest(t.{0}, excluded.{0})",
    "joined": "t.{0} || ',' || excluded.{0}",
}
"""What becomes of a column's value when there is a row already."""


def place(table: Table, instance: InstanceId) -> str:
    """Name an instance's table."""
    return f"{SCHEMA}.{table.name}_{instance}"


def create(table: Table, instance: InstanceId) -> Iterable[str]:
    """Yield the statements that make an instance's table."""
    name = place(table, instance)
    columns = ", ".join(_definition(column) for column in table.columns)
    key = ", ".join(_quoted(column) for column in _key(table))
    yield f"CREATE TABLE {name} ({columns}, PRIMARY KEY ({key})) WITH (fillfactor = 85)"
    for index in table.indexes:
        listed = ", ".join(map(_quoted, index.columns))
        match index.by:
            case "order":
                yield f"CREATE INDEX ON {name} ({listed})"
            case "span":
                yield f"CREATE INDEX ON {name} USING gist (tstzrange({listed}))"
            case "words":
                yield f"CREATE INDEX ON {name} USING gin ({listed})"


def drop(name: str, instance: InstanceId) -> str:
    """Make the statement that drops an instance's table."""
    return f"DROP TABLE {SCHEMA}.{name}_{instance}"


def hide(name: str) -> str:
    """Make the statement that takes a table's views away."""
    return f"DROP VIEW IF EXISTS {SCHEMA}.{name}, analytics.{name}"


def analyse(name: str, instance: InstanceId) -> str:
    """Make the statement that counts what is in an instance's table."""
    return f"ANALYZE {SCHEMA}.{name}_{instance}"


def show(table: Table, instance: InstanceId) -> Iterable[str]:
    """Yield the statements that make an instance the one that is seen, inside and in reports."""
    inside, outside = f"{SCHEMA}.{table.name}", f"analytics.{table.name}"
    yield _replace(inside, f"TABLE {place(table, instance)}")
    public = table.public
    columns = [f"t.{_quoted(column.name)}" for column in public]
    columns += [f"{derived.expression} AS {_quoted(derived.name)}" for derived in table.derived]
    yield _replace(outside, f"SELECT {', '.join(columns)} FROM {place(table, instance)} AS t")  # noqa: S608
    yield f"COMMENT ON VIEW {outside} IS {_literal(table.about)}"
    for name, about in [(shown.name, shown.about) for shown in public] + [(d.name, d.about) for d in table.derived]:
        yield f"COMMENT ON COLUMN {outside}.{_quoted(name)} IS {_literal(about)}"


def _replace(view: str, query: str) -> str:
    """Keep what depends on a view, and who may read it; only where columns were taken away is it made anew."""
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
    """Make the one statement that merges rows into several tables. Its parameters are those of each, one after another.

    PostgreSQL carries out the last part first: so they stand in reverse, and rows are locked in the order of `written`.
    """
    parts, first = list[str](), 1
    for number, (instance, table) in enumerate(written):
        parts.append(f"part_{number} AS ({write(table, instance, first)})")
        first += len(table.columns)
    return f"WITH {', '.join(reversed(parts))} SELECT"


@cache
def write(table: Table, instance: InstanceId, first: int = 1) -> str:
    """Make the statement that merges rows into an instance's table.

    Its parameters are arrays, one for each column, and are numbered from `first` on.
    """
    names = ", ".join(_quoted(column.name) for column in table.columns)
    arrays = ", ".join(f"${n}::{_given(column)}[]" for n, column in enumerate(table.columns, first))
    values = ", ".join(_value(column) for column in table.columns)
    changed = ", ".join(
        f"{_quoted(column.name)} = {WHEN_THERE[column.rule].format(_quoted(column.name))}"
        for column in table.columns
        if column.rule != "key"
    )
    key = ", ".join(map(_quoted, _key(table)))
    then = f"DO UPDATE SET {changed}" if changed else "DO NOTHING"
    return f"""
        INSERT INTO {place(table, instance)} AS t ({names})
        SELECT {values} FROM unnest({arrays}) AS given ({names})
            ON CONFLICT ({key}) {then}
    """  # noqa: S608  (identifiers of our own)


def arrays_of(table: Table, rows: Sequence[Row]) -> list[list[Any]]:
    """Bring rows into the columns of `write`."""
    if not rows:
        return [[] for _ in table.columns]
    return [
        [_without_nul(value) for value in values] if column.kind in {"text", "words"} else list(values)
        for column, values in zip(table.columns, zip(*rows, strict=True), strict=True)
    ]


def _key(table: Table) -> Sequence[str]:
    """The key begins with the slice, if it has one: so rows of a slice lie together."""
    return sorted(table.key, key=lambda name: name != "slice")


def _definition(column: Column) -> str:
    needed = "" if column.rule in {"last", "first", "joined"} else " NOT NULL"
    return f"{_quoted(column.name)} {TYPES.get(column.kind, column.kind)}{needed}"


def _given(column: Column) -> str:
    return GIVEN.get(column.kind, column.kind)


def _value(column: Column) -> str:
    name = f"given.{_quoted(column.name)}"
    if column.kind == "words":
        return f"{name}::tsvector"
    return f"{name}::json" if column.kind == "json" else name


def _without_nul(value: Any) -> Any:
    """PostgreSQL's text has no NUL; a message may."""
    return value.replace("\x00", "\ufffd") if isinstance(value, str) and "\x00" in value else value


def _quoted(name: str) -> str:
    return f'"{name}"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
