"""Queries to read models, as data: a page of rows, or sums by groups. Each store of read models answers them."""

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from domain.read_models.tables import Table

Bucket: TypeAlias = Literal["hour", "day", "week", "month"]
"""A width of time, in UTC. Weeks begin on Monday."""

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "in", "matches", "begins"]
"""`matches` finds rows whose `words` match a `Search`; `begins` finds texts with a prefix."""


class Where(Struct, frozen=True):
    """A condition on a column."""

    column: str
    operator: Operator
    value: Any


class Spanning(Struct, frozen=True):
    """An instant lies between two instants of a row. The second one may be null: it is in the future then."""

    since: str
    until: str
    at: datetime


class Among(Struct, frozen=True):
    """A row of another table has the same values in some columns, and meets conditions of its own."""

    columns: tuple[str, ...]
    table: Table
    where: tuple["Condition", ...]


Condition: TypeAlias = Where | Spanning | Among


class Select(Struct, frozen=True):
    """A page of rows in the order of some columns, after a row's values of these (`after`)."""

    table: Table
    where: tuple[Condition, ...] = ()
    order: tuple[str, ...] = ()
    descending: bool = False
    after: tuple[Any, ...] | None = None
    limit: int = 100


class Aggregate(Struct, frozen=True):
    """Sums of columns by groups, and by width of time if `bucket` is given.

    A row of the answer has the bucket's start, if there is one, the groups' values, and the sums. Rows are in the order
    of bucket and groups, or have the largest of the sums `most` first. There are at most `limit`.
    """

    table: Table
    sums: tuple[str, ...]
    where: tuple[Condition, ...] = ()
    group_by: tuple[str, ...] = ()
    bucket: Bucket | None = None
    at: str = "hour"
    """The column of the instants that are put into buckets."""
    limit: int = 10_000
    most: tuple[str, ...] = ()


class Histogram(Struct, frozen=True):
    """How often each value of a column was counted, by groups and by width of time as in `Aggregate`.

    A row of the answer has the bucket's start, if there is one, the groups' values, and a mapping from each value of
    `column`, an integer, to the sum of `count`.
    """

    table: Table
    column: str
    count: str
    where: tuple[Condition, ...] = ()
    group_by: tuple[str, ...] = ()
    bucket: Bucket | None = None
    at: str = "hour"
    limit: int = 10_000
