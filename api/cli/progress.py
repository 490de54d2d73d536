"""Progress bars of long commands, on a terminal only."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Bars:
    """Progress bars by name."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def more(self, what: str, done: int, total: int | None = None) -> None:
        """Add to what is done of something."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=None)
        if total is not None:
            self._progress.update(self._tasks[what], total=total)
        self._progress.advance(self._tasks[what], done)


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on stderr, if that is a terminal, until the block ends."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bars(progress)
