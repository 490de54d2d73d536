"""An import in a process of its own, for its memory: `python -m tests.support.importing DIRECTORY`."""

import asyncio
import re
import sys
from pathlib import Path

import api.cli.import_  # noqa: F401  (what the command loads)
from domain.application.archive import import_log
from domain.errors import BadExport, CorruptLog
from infrastructure.archive.reading import ExportedFiles
from infrastructure.memory.archive import MemoryArchive
from infrastructure.memory.event_store import MemoryEventStore


async def main(directory: Path) -> None:
    store = MemoryEventStore()
    try:
        files = ExportedFiles(directory)
        files.check(lambda _: None)
        await import_log(MemoryArchive(store), files, lambda *_: None)
    except (BadExport, CorruptLog) as error:
        print(error)  # noqa: T201
    # Not the maximum of getrusage, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text(encoding="ascii")  # noqa: ASYNC240  (it is no disk's)
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    print(sum(await store.slice_heads()), int(peak[1]) >> 10 if peak else 0)  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
