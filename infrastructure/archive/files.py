"""Opening the files of an export: only regular files in its own folders, whatever else has their names."""

import os
import stat
from pathlib import Path
from typing import BinaryIO

from domain.errors import BadExport

_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Neither follow a link nor wait for the writer of a FIFO."""


def open_file(directory: Path, name: str) -> BinaryIO:
    """Open a file by its path in the export's directory, which itself may be a link.

    Raises:
        FileNotFoundError: it does not exist.
        BadExport: it cannot be read, or it or one of its folders is something else, such as a link or a FIFO.
    """
    path = directory / name
    try:
        folder = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            *folders, last = name.split("/")
            for part in folders:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _OPEN, dir_fd=folder)
                os.close(folder)
                folder = inner
            descriptor = os.open(last, os.O_RDONLY | _OPEN, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise BadExport(_refused(path, error.strerror)) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise BadExport(_refused(path))
    return os.fdopen(descriptor, "rb")


def create_file(path: Path) -> None:
    """Create an empty file, instead of whatever has its name."""
    if path.parent.is_symlink():
        raise BadExport(f"{path.parent} is a link, which an import would not follow. Use a directory without links.")
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))


def _refused(path: Path, why: str | None = None) -> str:
    reason = f" ({why})" if why else ""
    return (
        f"{path} cannot be read as a file of an export{reason}: expected a regular file and folders that are no links. "
        "Copy the export, with its files instead of links, and import the copy."
    )
