"""Questions to read models, as data: a page of rows, or sums by groups. Each store of read models answers them."""

from datetime import datetime
from typing import Any, Literal, TypeAlias

from msgspec import Struct

from domain.read_models.tables import Table

Bucket: TypeAlias = Literal["hour", "day", "week", "month"]
"""A width of time, in UTC. Weeks begin on Monday."""

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">=", "in", "matches", "begins"]
"""`matches` finds rows whose `words` have what a `Search` for terms asks for; `begins` texts that begin so."""


class Where(Struct, frozen=True):
    """A condition on a column."""

    column: str
    operator: Operator
    value: Any


class Spanning(Struct, frozen=True):
    """Between two instants of a row, the second of which may still be to come (null), there is a third one."""

    since: str
    until: str
    at: datetime


class Among(Struct, frozen=True):
    """A row of another table agrees with this one in some columns, and meets conditions of its own."""

    columns: tuple[str, ...]
    table: Table
    where: tuple["Condition", ...]


Condition: TypeAlias = Where | Spanning | Among


class Select(Struct, frozen=True):
    """A page of rows: in the order of one column and then of the key's last one, after a row's values of these."""

    table: Table
    where: tuple[Condition, ...] = ()
    order: tuple[str, ...] = ()
    descending: bool = False
    after: tuple[Any, ...] | None = None
    limit: int = 100


class Aggregate(Struct, frozen=True):
    """Sums of columns by groups, and by width of time where a bucket is given.

    A row of the answer has the bucket's beginning, if there is one, the groups' values, and the sums; rows come in the
    order of the bucket and the groups, or with the largest of the sums `most` first, at most `limit`.
    """

    table: Table
    sums: tuple[str, ...]
    where: tuple[Condition, ...] = ()
    group_by: tuple[str, ...] = ()
    bucket: Bucket | None = None
    at: str = "hour"
    """The column whose instants are put into buckets."""
    limit: int = 10_000
    most: tuple[str, ...] = ()


class Histogram(Struct, frozen=True):
    """How often each value of a column was counted, by groups and by width of time as in `Aggregate`.

    A row of the answer has the bucket's beginning, if there is one, the groups' values, and the sums of `count` by the
    values of `column`, which are whole numbers.
    """

    table: Table
    column: str
    count: str
    where: tuple[Condition, ...] = ()
    group_by: tuple[str, ...] = ()
    bucket: Bucket | None = None
    at: str = "hour"
    limit: int = 10_000
