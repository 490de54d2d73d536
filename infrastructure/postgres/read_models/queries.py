"""Queries as SQL. SQLAlchemy's expression language puts them together, asyncpg runs them."""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.sql.elements import ColumnElement
from sqlalchemy.types import TypeEngine

from domain.queries import Aggregate, Among, Condition, Histogram, Select, Spanning, Where
from domain.tables import Table
from infrastructure.postgres.read_models.tables import LANGUAGE, SCHEMA

DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]

TYPES: dict[str, TypeEngine[Any]] = {
    "smallint": sa.SmallInteger(),
    "integer": sa.Integer(),
    "bigint": sa.BigInteger(),
    "text": sa.Text(),
    "uuid": sa.Uuid(),
    "timestamptz": sa.TIMESTAMP(timezone=True),
    "json": sa.Text(),
    "words": postgresql.TSVECTOR(),
}


def select(query: Select) -> tuple[str, Sequence[Any]]:
    """Write a page of rows, and its parameters."""
    table = _table(query.table)
    shown = [sa.null().label(c.name) if c.kind == "words" else table.c[c.name] for c in query.table.columns]
    order = [table.c[name] for name in query.order]
    statement = sa.select(*shown).where(*_conditions(table, query.where))
    if query.after is not None:
        mark = sa.tuple_(*(sa.bindparam(None, v, c.type) for c, v in zip(order, query.after, strict=True)))
        statement = statement.where(sa.tuple_(*order) < mark if query.descending else sa.tuple_(*order) > mark)
    ordered = [column.desc() if query.descending else column.asc() for column in order]
    return _compiled(statement.order_by(*ordered).limit(query.limit))


def aggregate(query: Aggregate) -> tuple[str, Sequence[Any]]:
    """Write sums by groups, and their parameters. Sums of `bigint` are `numeric`: they may be larger than one."""
    table = _table(query.table)
    groups = _groups(table, query)
    sums = {name: _sum(table.c[name]) for name in query.sums}
    statement = sa.select(*groups, *sums.values()).where(*_conditions(table, query.where))
    places = _places(groups)
    most = [sums[name].desc() for name in query.most]
    return _compiled(statement.group_by(*places).order_by(*most, *places).limit(query.limit))


def histogram(query: Histogram) -> tuple[str, Sequence[Any]]:
    """Write counts by value, gathered into one row a group: a tenth of the time that a row a value would take."""
    table = _table(query.table)
    groups = [group.label(f"g{place}") for place, group in enumerate(_groups(table, query))]
    value = table.c[query.column].label("value")
    count = _sum(table.c[query.count]).cast(sa.BigInteger()).label("count")  # durations: never that many
    counted = sa.select(*groups, value, count).where(*_conditions(table, query.where))
    inner = counted.group_by(*_places([*groups, value])).subquery("counted")
    of = [inner.c[group.name] for group in groups]
    gathered = sa.select(*of, sa.func.array_agg(inner.c.value), sa.func.array_agg(inner.c.count))
    some = sa.func.count() > 0  # without groups, SQL has a row of nothing
    return _compiled(gathered.group_by(*of).having(some).order_by(*of).limit(query.limit))


def _groups(table: sa.TableClause, query: Aggregate | Histogram) -> list[ColumnElement[Any]]:
    groups: list[ColumnElement[Any]] = [table.c[name] for name in query.group_by]
    if query.bucket:
        at = table.c[query.at]
        whole = query.bucket == query.at  # a column that is called `hour` has whole hours
        groups.insert(0, at if whole else sa.func.date_trunc(sa.literal_column(f"'{query.bucket}'"), at, _UTC))
    return groups


def _places(columns: Sequence[object]) -> list[sa.TextClause]:
    return [sa.text(str(place)) for place in range(1, len(columns) + 1)]


def _sum(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return sa.func.coalesce(sa.func.sum(column), 0)


_UTC: ColumnElement[str] = sa.literal_column("'UTC'")


@cache
def _table(table: Table) -> sa.TableClause:
    columns: list[sa.ColumnClause[Any]] = [sa.column(c.name, TYPES[c.kind]) for c in table.columns]
    return sa.table(table.name, *columns, schema=SCHEMA)


def _conditions(table: sa.TableClause, where: Iterable[Condition]) -> Iterable[ColumnElement[bool]]:
    for condition in where:
        match condition:
            case Where():
                yield _comparison(table.c[condition.column], condition)
            case Spanning(since, until, at):
                span = sa.func.tstzrange(table.c[since], table.c[until])
                yield span.op("@>", is_comparison=True)(sa.bindparam(None, at, TYPES["timestamptz"]))
            case Among(columns, other, inner):
                found = _table(other)
                chosen = sa.select(*(found.c[name] for name in columns)).where(*_conditions(found, inner))
                yield sa.tuple_(*(table.c[name] for name in columns)).in_(chosen)


def _comparison(column: ColumnElement[Any], where: Where) -> ColumnElement[bool]:
    match where.operator:
        case "matches":
            words = sa.func.plainto_tsquery(sa.literal_column(f"'{LANGUAGE}'"), where.value)
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
