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

    def reach(self, what: str, done: int, total: int) -> None:
        """Set what is done of something."""
        self._progress.update(self._task(what), completed=done, total=total)

    def more(self, what: str, done: int, total: int | None = None) -> None:
        """Add to what is done of something."""
        task = self._task(what)
        if total is not None:
            self._progress.update(task, total=total)
        self._progress.advance(task, done)

    def _task(self, what: str) -> TaskID:
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, total=None)
        return self._tasks[what]


@contextmanager
def bars() -> Iterator[Bars]:
    """Show bars on stderr, if that is a terminal, until the block ends."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bars(progress)
