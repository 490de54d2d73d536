"""Lines of the returns desk are counted by one rule, and ours has no more than the others."""

from pathlib import Path

import pytest

from benchmarks.authoring.__main__ import FILES, table
from benchmarks.authoring.kills import Outcome
from benchmarks.authoring.lines import code_lines
from infrastructure.settings import CHECKOUT

MODULE = '''"""A module."""

import os
from os import (
    path,
)

# A comment.
X = """Text
of two lines."""
"""What X is."""


def f(a: int) -> str:
    """A function."""
    return str(  # of three lines
        a,
    )
'''


def test_lines_of_code_have_no_imports_comments_docstrings_or_blanks(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    assert code_lines(tmp_path / "module.py") == 6


def test_our_desk_has_no_more_lines_than_the_shorter_of_the_others() -> None:
    lines = {name: code_lines(CHECKOUT / file) for name, file in FILES.items()}
    assert lines.pop("Threadfold") <= min(lines.values())


@pytest.mark.parametrize(("file", "most"), [("agent", 120), ("test_desk", 30), ("client", 30)])
def test_the_example_is_short(file: str, most: int) -> None:
    assert code_lines(CHECKOUT / "examples" / "returns" / f"{file}.py") <= most


def test_a_table_has_a_row_for_each_point() -> None:
    outcomes = [Outcome(desk, "mail", 1, 2, answer="Your return: 5 dollars") for desk in ("a", "b")]
    rows = list(table({"a": 1, "b": 2}, outcomes))
    assert [row[1] for row in rows[2:]] == ["1", "**1 doubled**; 0 s"]
