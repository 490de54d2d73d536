"""Exports as tests make and compare them, in this process and in others."""

import asyncio
import sys
from pathlib import Path

from api.runtime.stores import LogArchive
from domain.ports.log import EventStore
from infrastructure.archive.export import Exported, export_log
from infrastructure.archive.manifest import Format
from infrastructure.settings import CHECKOUT


def content(directory: Path) -> dict[str, bytes]:
    """Read all files, and name empty folders."""
    found = {path.relative_to(directory).as_posix(): path for path in directory.rglob("*")}
    return {
        name: path.read_bytes() if path.is_file() else b""
        for name, path in found.items()
        if path.is_file() or not any(path.iterdir())
    }


async def export(store: EventStore, archive: LogArchive, directory: Path, format_: Format | None = None) -> Exported:
    return await export_log(store, archive, directory, format_, lambda *_: None)


async def run(what: str, url: str, directory: Path, format_: str, last: int) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.support.archiving", what, url, str(directory), format_, str(last)),
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()
