"""The directory of an export: one writer at a time, and no leftovers of killed ones."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.errors import BadExport
from infrastructure.archive.manifest import COMMANDS_PATH, EVENTS_PATH, NAME, UNFINISHED, Manifest


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Create a directory, and lock it against other exports. The kernel releases the lock with the process.

    Raises:
        BadExport: the directory cannot be used or written, or another process exports into it.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BadExport(f"{directory} cannot be used: {error.strerror}.") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadExport(f"Another process exports into {directory}. Wait until it has ended.") from error
        yield
    except OSError as error:
        raise BadExport(f"{error.filename or directory} cannot be written: {error.strerror or error}.") from error
    finally:
        os.close(descriptor)


def parts_in(directory: Path) -> Iterator[Path]:
    """Yield the files of an export, complete or not, whether or not a manifest names them."""
    for path in [*directory.glob("events/day=*/part-*"), *directory.glob("commands/part-*")]:
        whole = path.relative_to(directory).as_posix().removesuffix(UNFINISHED)
        if EVENTS_PATH.fullmatch(whole) or COMMANDS_PATH.fullmatch(whole):
            yield path


def remove_leftovers(directory: Path, manifest: Manifest) -> None:
    """Remove files of an export that the manifest does not name: a killed run left them. Other files stay."""
    (directory / (NAME + UNFINISHED)).unlink(missing_ok=True)
    for path in parts_in(directory):
        if path.relative_to(directory).as_posix() not in manifest.paths:
            path.unlink()
    for folder in [*directory.glob("events/day=*"), directory / "events", directory / "commands"]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
