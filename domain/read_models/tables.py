"""Tables of read models: their columns, and the rules that merge two rows of one key.

A handler never updates. It returns a row, and the rule of each column merges it with the row that exists. So the rows
of thousands of events are merged before anything is written, and a batch takes one statement.
"""

import hashlib
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["smallint", "integer", "bigint", "text", "uuid", "timestamptz", "json", "words"]
"""A column's type. `words` are the search terms of a text, separated by spaces; they are not read back."""

Rule: TypeAlias = Literal["key", "last", "first", "add", "least", "greatest", "joined"]
"""How a column's old and new value are merged. `first` keeps the old one unless it is null; `joined` joins texts with
a comma."""

Row: TypeAlias = tuple[Any, ...]
"""Values in the order of a table's columns."""

Key: TypeAlias = Any

MAX_INDEXED = 200
"""Characters of a text in a key or an index. PostgreSQL takes 2,704 bytes for all columns of an entry: room for three
names of four-byte characters, and a tenant. Names of tools and models can be of any length.
"""

DIGEST_LENGTH = 16
"""Characters of the digest that distinguishes long texts with the same beginning."""


def indexed(text: str) -> str:
    """Return a text as keys and indexes hold it: a long one becomes its beginning and a digest of the whole.

    A NUL, which PostgreSQL's text cannot hold, becomes U+FFFD. The log has the text as it was.
    """
    if len(text) > MAX_INDEXED:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST_LENGTH]
        text = f"{text[: MAX_INDEXED - DIGEST_LENGTH - 1]}…{digest}"
    return text.replace("\0", "\ufffd")


@dataclass(frozen=True)
class Column:
    """A column, its rule, and a comment for its SQL view."""

    name: str
    kind: Kind
    rule: Rule = "last"
    about: str = ""


@dataclass(frozen=True)
class Index:
    """An index by columns; by the `span` between two instants; or by `words`."""

    columns: tuple[str, ...]
    by: Literal["order", "span", "words"] = "order"


@dataclass(frozen=True)
class Derived:
    """A column that only the SQL views have: an expression over the columns of the table, which it calls `t`."""

    name: str
    expression: str
    about: str


COST = Derived("cost_usd", "t.cost / 1e12", "What they cost, in dollars.")
"""For tables with a column `cost`, in millionths of a millionth of a dollar."""


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a read model. `private` columns are not in the SQL views, `derived` ones only there."""

    name: str
    about: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    private: frozenset[str] = frozenset({"slice"})
    derived: tuple[Derived, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names, in order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The names of the key's columns."""
        return tuple(column.name for column in self.columns if column.rule == "key")

    @cached_property
    def _added(self) -> tuple[int, ...]:
        return self._places("add")

    @cached_property
    def _replaced(self) -> tuple[int, ...]:
        return self._places("last")

    def _places(self, rule: Rule) -> tuple[int, ...]:
        return tuple(place for place, column in enumerate(self.columns) if column.rule == rule)

    @cached_property
    def _merging(self) -> tuple[tuple[int, Callable[[Any, Any], Any]], ...]:
        return tuple((place, MERGE[c.rule]) for place, c in enumerate(self.columns) if c.rule in MERGE)

    @property
    def public(self) -> Sequence[Column]:
        """The table's columns that the SQL views show: the tenant first, then the key."""
        shown = [column for column in self.columns if column.name not in self.private]
        return sorted(shown, key=lambda column: (column.name != "tenant", column.rule != "key"))

    @cached_property
    def row(self) -> Callable[..., Row]:
        """The constructor of rows. Columns default to null, added ones to 0. Raises `TypeError` for unknown names."""
        defaults = [0 if column.rule == "add" else None for column in self.columns]
        return namedtuple(self.name, self.names, defaults=defaults)  # noqa: PYI024  (names and defaults are known only here)

    def fit(self, row: Row) -> Row:
        """Return a row with its keys and indexed texts shortened; the row itself, if they are short enough."""
        for place in self._indexed:
            text = row[place]
            if text is not None and (len(text) > MAX_INDEXED or "\0" in text):
                return tuple(indexed(v) if n in self._indexed and v is not None else v for n, v in enumerate(row))
        return row

    @cached_property
    def indexes_more(self) -> bool:
        """Whether texts outside of the key are indexed: they may need `fit` in any row, not only in a key's first."""
        return any(self.columns[place].rule != "key" for place in self._indexed)

    @cached_property
    def _indexed(self) -> tuple[int, ...]:
        """Places of texts in keys and indexes, except for the tenant: a shortened name would be another tenant's."""
        names = {*self.key, *(name for index in self.indexes if index.by == "order" for name in index.columns)}
        return tuple(
            place
            for place, column in enumerate(self.columns)
            if column.kind == "text" and column.name in names - {"tenant"}
        )

    @cached_property
    def key_of(self) -> Callable[[Row], Key]:
        """A function from a row to its key: a tuple of values, or the value of a single column."""
        return itemgetter(*(place for place, column in enumerate(self.columns) if column.rule == "key"))

    def merge(self, old: Row, new: Row) -> Row:
        """Return two rows of one key merged."""
        merged = list(old)
        self.merge_into(merged, new)
        return tuple(merged)

    def merge_into(self, old: list[Any], new: Row) -> None:
        """Merge a row into another one of the same key, in place."""
        for place in self._added:
            old[place] += new[place]
        for place in self._replaced:
            old[place] = new[place]
        for place, made in self._merging:
            old[place] = made(old[place], new[place])


MERGE: Mapping[Rule, Callable[[Any, Any], Any]] = {
    "first": lambda old, new: new if old is None else old,
    "least": min,
    "greatest": max,
    "joined": lambda old, new: f"{old},{new}",
}
"""How an old and a new value are merged, by the rules other than `last` and `add`."""


Change: TypeAlias = tuple[Table, Row]
"""What a handler returns: a row to merge into a table."""


class Rows:
    """Rows of several tables, merged by key."""

    def __init__(self, tables: Iterable[Table] = ()) -> None:
        """Begin without rows. The given tables are in `tables` even if they get no rows."""
        self._tables: defaultdict[Table, dict[Key, Row | list[Any]]] = defaultdict(
            dict, {table: {} for table in tables}
        )

    def add(self, changes: Iterable[Change]) -> None:
        """Merge changes, in their order."""
        for table, given in changes:
            row = table.fit(given) if table.indexes_more else given
            rows, key = self._tables[table], table.key_of(row)
            old = rows.get(key)
            if old is None and row is given:  # an existing key is short enough
                row = table.fit(given)
                if row is not given:
                    key = table.key_of(row)
                    old = rows.get(key)
            if old is None:
                rows[key] = row
                continue
            if type(old) is not list:  # a row that is merged once is merged often: from then on in place
                old = rows[key] = list(old)
            table.merge_into(old, row)

    def of(self, table: Table) -> Sequence[Row]:
        """Return a table's rows in the order of their keys: so writers that share rows cannot deadlock."""
        rows = self._tables.get(table, {})
        return [tuple(rows[key]) for key in sorted(rows)]

    @property
    def tables(self) -> Sequence[Table]:
        """The tables that have rows, and those given to the constructor."""
        return list(self._tables)
