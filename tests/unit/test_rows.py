"""Rows of one key become one row, by each column's rule, whatever was merged before."""

from functools import reduce

from hypothesis import given
from hypothesis import strategies as st

from domain.read_models.tables import Column, Row, Rows, Table

TABLE = Table(
    "sums",
    "For the tests",
    (
        Column("added", "bigint", "add"),
        Column("id", "integer", "key"),
        Column("last", "text"),
        Column("first", "text", "first"),
        Column("least", "integer", "least"),
        Column("greatest", "integer", "greatest"),
        Column("joined", "text", "joined"),
        Column("more", "bigint", "add"),
    ),
)

LETTERS = st.sampled_from("abc")
NUMBERS = st.integers(-3, 3)
ROWS = st.builds(
    TABLE.row,
    added=NUMBERS,
    id=st.integers(1, 2),
    last=st.none() | LETTERS,
    first=st.none() | LETTERS,
    least=NUMBERS,
    greatest=NUMBERS,
    joined=LETTERS,
    more=NUMBERS,
)


def _together(old: Row, new: Row) -> Row:
    added, key, _last, first, least, greatest, joined, more = old
    return (
        added + new[0],
        key,
        new[2],
        first if first is not None else new[3],
        min(least, new[4]),
        max(greatest, new[5]),
        f"{joined},{new[6]}",
        more + new[7],
    )


@given(st.lists(ROWS, max_size=8))
def test_rows_of_a_key_are_merged_in_their_order(given_rows: list[Row]) -> None:
    before, rows = [tuple(row) for row in given_rows], Rows()
    for row in given_rows:
        rows.add([(TABLE, row)])
    by_key = [[row for row in given_rows if row[1] == key] for key in (1, 2)]
    expected = [reduce(_together, same) for same in by_key if same]
    assert rows.of(TABLE) == expected
    assert [tuple(row) for row in given_rows] == before, "a handler's own rows stay as they are"
    merged = [reduce(TABLE.merge, same) for same in by_key if same]
    assert merged == expected


def test_the_same_row_twice_counts_twice() -> None:
    row, rows = TABLE.row(added=2, id=1, least=0, greatest=0, joined="a"), Rows()
    rows.add([(TABLE, row), (TABLE, row), (TABLE, row)])
    assert rows.of(TABLE)[0][0] == 6
