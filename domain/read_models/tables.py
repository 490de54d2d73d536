"""Read models as tables of rows: their columns, and how two rows of one key become one.

A handler never updates: it says a row, and the column's rule says what becomes of the one that is there. So the rows
of thousands of events are merged before anything is written, and a batch costs one statement.
"""

import hashlib
from collections import defaultdict, namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any, Literal, TypeAlias

Kind: TypeAlias = Literal["smallint", "integer", "bigint", "text", "uuid", "timestamptz", "json", "words"]
"""What a column holds. `words` are what a text is found by, separated by spaces; they are not read back."""

Rule: TypeAlias = Literal["key", "last", "first", "add", "least", "greatest", "joined"]
"""How a column's old and new value become one. `first` keeps what is there unless it is null; `joined` appends texts,
with a comma between them."""

Row: TypeAlias = tuple[Any, ...]
"""Values in the order of a table's columns."""

Key: TypeAlias = Any

MAX_INDEXED = 200
"""Characters of a text in a key or an index. PostgreSQL takes 2,704 bytes for all columns of an entry: three names of
the longest characters, and a tenant. Names of tools and models can be of any length: models and endpoints make them up.
"""

DIGEST = 16
"""Characters of the digest that tells long texts apart which begin alike."""


def indexed(text: str) -> str:
    """Return a text as keys and indexes have it: of a long one its beginning and a digest of the whole.

    A NUL, which PostgreSQL's text cannot hold, becomes U+FFFD. The log has the text as it was.
    """
    if len(text) > MAX_INDEXED:
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST]
        text = f"{text[: MAX_INDEXED - DIGEST - 1]}…{digest}"
    return text.replace("\0", "\ufffd")


@dataclass(frozen=True)
class Column:
    """A column, its rule, and a sentence about it for those who read it in SQL."""

    name: str
    kind: Kind
    rule: Rule = "last"
    about: str = ""


@dataclass(frozen=True)
class Index:
    """An index by some columns; or, `by_span`, by two instants between which something was so; or by words."""

    columns: tuple[str, ...]
    by: Literal["order", "span", "words"] = "order"


@dataclass(frozen=True)
class Derived:
    """A column that only the SQL views have: an expression over the table's own, which is `t` in it."""

    name: str
    expression: str
    about: str


COST = Derived("cost_usd", "t.cost / 1e12", "What they cost, in dollars.")
"""For tables with a column `cost`, in millionths of a millionth of a dollar."""


@dataclass(frozen=True, eq=False)
class Table:
    """The shape of a read model. `private` columns are not shown in the SQL views, `derived` ones only there."""

    name: str
    about: str
    columns: tuple[Column, ...]
    indexes: tuple[Index, ...] = ()
    private: frozenset[str] = frozenset({"slice"})
    derived: tuple[Derived, ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The columns' names in their order."""
        return tuple(column.name for column in self.columns)

    @cached_property
    def key(self) -> tuple[str, ...]:
        """The names of the columns that a row is known by."""
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
        """The columns of its own that the SQL views show: whose it is first, and then what it is known by."""
        shown = [column for column in self.columns if column.name not in self.private]
        return sorted(shown, key=lambda column: (column.name != "tenant", column.rule != "key"))

    def column(self, name: str) -> Column:
        """Return a column. Raises `KeyError`."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> Mapping[str, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def row(self) -> Callable[..., Row]:
        """Make a row; what is not given is null, or 0 where it is added up. Raises `TypeError` for other names."""
        defaults = [0 if column.rule == "add" else None for column in self.columns]
        return namedtuple(self.name, self.names, defaults=defaults)  # noqa: PYI024  (names and defaults are known only here)

    def fit(self, row: Row) -> Row:
        """Return a row whose keys and indexed texts are short enough; itself, if they are."""
        for place in self._indexed:
            text = row[place]
            if text is not None and (len(text) > MAX_INDEXED or "\0" in text):
                return tuple(indexed(v) if n in self._indexed and v is not None else v for n, v in enumerate(row))
        return row

    @cached_property
    def indexes_more(self) -> bool:
        """Whether there are texts in indexes that are not in the key: those of a later row may be unfit, too."""
        return any(self.columns[place].rule != "key" for place in self._indexed)

    @cached_property
    def _indexed(self) -> tuple[int, ...]:
        """Places of texts in keys and indexes, but for the tenant: a name that was cut would be another tenant's."""
        names = {*self.key, *(name for index in self.indexes if index.by == "order" for name in index.columns)}
        return tuple(
            place
            for place, column in enumerate(self.columns)
            if column.kind == "text" and column.name in names - {"tenant"}
        )

    @cached_property
    def key_of(self) -> Callable[[Row], Key]:
        """Return what a row is known by: the values of its key, or the value if there is one."""
        return itemgetter(*(place for place, column in enumerate(self.columns) if column.rule == "key"))

    def merge(self, old: Row, new: Row) -> Row:
        """Make one row of two with the same key."""
        merged = list(old)
        self.merge_into(merged, new)
        return tuple(merged)

    def merge_into(self, old: list[Any], new: Row) -> None:
        """Change a row to what it is together with another one of the same key."""
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
"""What becomes of an old value and a new one, where that is neither the new one nor their sum."""


Change: TypeAlias = tuple[Table, Row]
"""What a handler says: a row to be merged into a table."""


class Rows:
    """Rows of several tables, those of one key merged."""

    def __init__(self, tables: Iterable[Table] = ()) -> None:
        """Begin without rows, perhaps of tables that are known already."""
        self._tables: defaultdict[Table, dict[Key, Row | list[Any]]] = defaultdict(
            dict, {table: {} for table in tables}
        )

    def add(self, changes: Iterable[Change]) -> None:
        """Merge changes, in their order."""
        for table, given in changes:
            row = table.fit(given) if table.indexes_more else given
            rows, key = self._tables[table], table.key_of(row)
            old = rows.get(key)
            if old is None and row is given:  # a key that is there already is short enough
                row = table.fit(given)
                if row is not given:
                    key = table.key_of(row)
                    old = rows.get(key)
            if old is None:
                rows[key] = row
                continue
            if type(old) is not list:  # a row that meets a second one meets many: from then on it is changed in place
                old = rows[key] = list(old)
            table.merge_into(old, row)

    def of(self, table: Table) -> Sequence[Row]:
        """Return a table's rows in the order of their keys: writers who share rows do not wait in a circle."""
        rows = self._tables.get(table, {})
        return [tuple(rows[key]) for key in sorted(rows)]

    @property
    def tables(self) -> Sequence[Table]:
        """The tables that have rows, and those that were known."""
        return list(self._tables)
