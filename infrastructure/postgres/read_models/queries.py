"""SQL for the queries to read models, built with SQLAlchemy's expression language and run by asyncpg."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeAlias

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from domain.read_models.queries import Aggregate, Among, Condition, Histogram, Select, Spanning, Where
from domain.read_models.tables import Table
from infrastructure.postgres.read_models.tables import SCHEMA
from infrastructure.postgres.tsquery import tsquery

DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]

TYPES: dict[str, tuple[str, TypeEngine[Any]]] = {
    "smallint": ("0", sa.SmallInteger()),
    "integer": ("0", sa.Integer()),
    "bigint": ("0", sa.BigInteger()),
    "text": ("''", sa.Text()),
    "uuid": ("NULL", sa.Uuid()),
    "timestamptz": ("NULL", sa.TIMESTAMP(timezone=True)),
    "json": ("'null'", sa.Text()),
    "words": ("''::tsvector", postgresql.TSVECTOR()),
}
"""By kind of column: what one that the view lacks reads as, and the type."""

Views: TypeAlias = Mapping[str, frozenset[str]]
"""The columns of each view. A view of an older version may lack columns."""


def select(query: Select, views: Views | None = None) -> tuple[str, Sequence[Any]]:
    """Return the SQL of a page of rows, and its parameters."""
    table = _table(query.table, views)
    shown = [sa.null().label(c.name) if c.kind == "words" else table.c[c.name] for c in query.table.columns]
    order = [table.c[name] for name in query.order]
    statement = sa.select(*shown).where(*_conditions(table, query.where, views))
    if query.after is not None:
        mark = sa.tuple_(*(sa.bindparam(None, v, c.type) for c, v in zip(order, query.after, strict=True)))
        statement = statement.where(sa.tuple_(*order) < mark if query.descending else sa.tuple_(*order) > mark)
    ordered = [column.desc() if query.descending else column.asc() for column in order]
    return _compiled(statement.order_by(*ordered).limit(query.limit))


def aggregate(query: Aggregate, views: Views | None = None) -> tuple[str, Sequence[Any]]:
    """Return the SQL of sums by groups, and its parameters. Sums of `bigint` are `numeric`: they may overflow."""
    table = _table(query.table, views)
    groups = _groups(table, query)
    sums = {name: sa.func.coalesce(sa.func.sum(table.c[name]), 0) for name in query.sums}
    statement = sa.select(*groups, *sums.values()).where(*_conditions(table, query.where, views))
    places = _places(groups)
    most = [sums[name].desc() for name in query.most]
    return _compiled(statement.group_by(*places).order_by(*most, *places).limit(_literal(query.limit)))


def histogram(query: Histogram, views: Views | None = None) -> tuple[str, Sequence[Any]]:
    """Return the SQL of counts by value, and its parameters. A row is a group; its last column has the counts."""
    table = _table(query.table, views)
    groups = _groups(table, query)
    value, count = sa.func.int4send(table.c[query.column]), sa.func.int8send(table.c[query.count])
    counted = sa.func.string_agg(value.op("||")(count), sa.literal_column("''::bytea"))
    places = _places(groups)
    some = sa.func.count() > 0  # without GROUP BY, SQL returns a row for no rows
    statement = sa.select(*groups, counted).where(*_conditions(table, query.where, views))
    return _compiled(statement.group_by(*places).having(some).order_by(*places).limit(_literal(query.limit)))


SQL_OF: Mapping[type, Callable[..., tuple[str, Sequence[Any]]]] = {
    Select: select,
    Aggregate: aggregate,
    Histogram: histogram,
}
"""What returns the SQL of a query and its parameters, by its kind."""


def _groups(table: sa.FromClause, query: Aggregate | Histogram) -> list[ColumnElement[Any]]:
    groups: list[ColumnElement[Any]] = [table.c[name] for name in query.group_by]
    if query.bucket:
        at = table.c[query.at]
        whole = query.bucket == query.at  # a column named `hour` holds whole hours
        groups.insert(0, at if whole else sa.func.date_trunc(sa.literal_column(f"'{query.bucket}'"), at, _UTC))
    return groups


def _literal(number: int) -> ColumnElement[int]:
    """Return a limit as a literal: the planner assumes that a parameter keeps a tenth of the groups."""
    return sa.literal_column(str(number))


def _places(columns: Sequence[object]) -> list[sa.TextClause]:
    return [sa.text(str(place)) for place in range(1, len(columns) + 1)]


_UTC: ColumnElement[str] = sa.literal_column("'UTC'")


@cache
def _view(table: Table) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(c.name, TYPES[c.kind][1]) for c in table.columns]
    return sa.table(table.name, *columns, schema=SCHEMA)


def _table(table: Table, views: Views | None) -> sa.FromClause:
    view = _view(table)
    there = views.get(table.name) if views is not None else None
    if there is None:
        return view
    columns = [
        view.c[c.name] if c.name in there else sa.literal_column(*TYPES[c.kind]).label(c.name) for c in table.columns
    ]
    return sa.select(*columns).select_from(view).subquery(table.name)


def _conditions(table: sa.FromClause, where: Iterable[Condition], views: Views | None) -> Iterable[ColumnElement[bool]]:
    for condition in where:
        match condition:
            case Where():
                yield _comparison(table.c[condition.column], condition)
            case Spanning(since, until, at):
                span = sa.func.tstzrange(table.c[since], table.c[until])
                yield span.op("@>", is_comparison=True)(sa.bindparam(None, at, TYPES["timestamptz"][1]))
            case Among(columns, other, inner):
                found = _table(other, views)
                chosen = sa.select(*(found.c[name] for name in columns)).where(*_conditions(found, inner, views))
                yield sa.tuple_(*(table.c[name] for name in columns)).in_(chosen)


def _comparison(column: ColumnElement[Any], where: Where) -> ColumnElement[bool]:
    match where.operator:
        case "matches":
            words = sa.bindparam(None, tsquery(where.value), postgresql.TSQUERY())  # a cast is not estimated
            return column.op("@@", is_comparison=True)(words)
        case "begins":
            return column.startswith(where.value, autoescape=True)
        case "in":
            given = sa.bindparam(None, list(where.value), postgresql.ARRAY(column.type))
            return column == sa.any_(given)
        case operator:
            return column.op(operator, is_comparison=True)(sa.bindparam(None, where.value, column.type))


def _compiled(statement: sa.Select[Any]) -> tuple[str, Sequence[Any]]:
    compiled = statement.compile(dialect=DIALECT)
    values = compiled.params
    return str(compiled), [values[name] for name in compiled.positiontup or ()]
