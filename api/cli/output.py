"""Output of commands: tables for people, one JSON document for programs."""

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from api.cli.visible import visible, visible_json
from api.schemas.page import Page

T = TypeVar("T")

UNBOUNDED = 100_000
"""Columns of an output that is not a terminal: nothing is cut off."""

as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of a table.")


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text for people, with what could deceive them spelled out. Commands print nothing by other means."""
    click.echo(visible(text), err=err, nl=nl)


def terminal() -> Console:
    """Return a console for stdout that prints texts unchanged: no markup, emoji or highlighting."""
    measured = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(width=None if measured else UNBOUNDED, markup=False, emoji=False, highlight=False)


def show_json(document: Any) -> None:
    """Print a document of plain structures."""
    show_json_line(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())


def show_json_line(document: str) -> None:
    """Print a document that is JSON already, with what could deceive a reader as JSON's escapes."""
    click.echo(visible_json(document))


def show_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: bool = False, empty: str | None = None
) -> None:
    """Print rows. If they are wider than the terminal, the last column is cut off, or wrapped.

    With `empty`, print that line instead of headings without rows.
    """
    rows = list(rows)
    if empty and not rows:
        echo(empty)
        return
    console = terminal()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), expand=console.width != UNBOUNDED)
    for heading in headings[:-1]:
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    table.add_column(headings[-1], no_wrap=not wrap, overflow="fold" if wrap else "ellipsis", ratio=1)
    for row in rows:
        table.add_row(*(Text(visible(cell)) for cell in row))
    _print(console, table)


def show_page(page: Page[T], headings: Sequence[str], row: Callable[[T], Sequence[str]], *, empty: str) -> None:
    """Print the items of a page as rows, and how to see the next page."""
    show_table(headings, map(row, page.items), empty=empty)
    if page.next_cursor:
        echo(f"There are more: --limit takes up to 1000, --cursor {page.next_cursor} goes on.", err=True)


def show_checked(what: str, problems: Sequence[str]) -> None:
    """Print problems that were found, and what was checked."""
    for problem in problems:
        echo(problem)
    found = counted(len(problems), "problem") if problems else "no problem"
    echo(f"Checked {what}: {found} found.")


def show_fields(*fields: tuple[str, str | None]) -> None:
    """Print names and values, one pair a line; those without a value are omitted."""
    console = terminal()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        if value is not None:
            table.add_row(name, Text(visible(value)))
    _print(console, table)


def moment(at: datetime) -> str:
    """Write an instant in UTC, to the second."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def counted(number: int, noun: str) -> str:
    """Write `1 event`, `1,024 events`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _print(console: Console, table: Table) -> None:
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
