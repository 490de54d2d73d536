"""The directory of an export: one writer at a time, and nothing left over of those that were killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from domain.errors import BadExport
from infrastructure.archive.manifest import COMMANDS_PATH, EVENTS_PATH, NAME, UNFINISHED, Manifest


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Make a directory and keep other exports out of it. The lock is the process's: it ends with it.

    Raises:
        BadExport: it cannot be written to, or another process exports into it.
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
            raise BadExport(f"Another process exports into {directory}. Wait for its end.") from error
        yield
    finally:
        os.close(descriptor)


def parts_in(directory: Path) -> Iterator[Path]:
    """Find files of ours, whole or not, whether a manifest names them or not."""
    for path in [*directory.glob("events/day=*/part-*"), *directory.glob("commands/part-*")]:
        whole = path.relative_to(directory).as_posix().removesuffix(UNFINISHED)
        if EVENTS_PATH.fullmatch(whole) or COMMANDS_PATH.fullmatch(whole):
            yield path


def remove_leftovers(directory: Path, manifest: Manifest) -> None:
    """Remove files of ours that the manifest does not name: a run that was killed has left them. Others stay."""
    (directory / (NAME + UNFINISHED)).unlink(missing_ok=True)
    for path in parts_in(directory):
        if path.relative_to(directory).as_posix() not in manifest.paths:
            path.unlink()
    for folder in [*directory.glob("events/day=*"), directory / "events", directory / "commands"]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
