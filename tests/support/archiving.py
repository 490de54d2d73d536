"""Exports and imports in processes that kill themselves: `python -m tests.support.archiving export URL DIR FORMAT N`.

An export dies before its Nth step on the file system, an import after its Nth part. With N = 0 they live, and print
how many there were.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any, cast

from domain.application.archive import import_log
from infrastructure.archive.export import export_log
from infrastructure.archive.manifest import Format
from infrastructure.archive.reading import ExportedFiles
from infrastructure.postgres.archive import PostgresArchive
from infrastructure.postgres.log.event_store import PostgresEventStore
from infrastructure.postgres.pool import open_pool

STEPS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
"""What Python tells its audit hooks of; each is a moment at which the directory looks otherwise than before."""


class Countdown:
    """Kills this process at a step."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.steps = 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


async def main(what: str, url: str, directory: Path, format_: str, last: int) -> None:
    countdown = Countdown(last)
    async with await open_pool(url, max_size=2) as pool:
        archive = PostgresArchive(pool)
        if what == "import":
            files = ExportedFiles(directory)
            files.check(lambda _: countdown.step())
            await import_log(archive, files, lambda *_: countdown.step())
        else:

            def audit(event: str, arguments: tuple[Any, ...]) -> None:
                if event in STEPS and str(directory) in str(arguments[0]):
                    countdown.step()

            sys.addaudithook(audit)
            await export_log(PostgresEventStore(pool), archive, directory, cast("Format", format_), lambda *_: None)
    print(countdown.steps)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], int(sys.argv[5])))
