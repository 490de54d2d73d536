"""How much memory there is for PostgreSQL's pages."""

import os
from collections.abc import Iterator
from pathlib import Path

SHARE = 8
"""One part of so many is for pages; PostgreSQL's own advice for a machine that does nothing else is one of four."""

LEAST = 128 << 20
"""Bytes for pages, at least: what PostgreSQL takes if nobody says anything."""

MOST = 1 << 30
"""Bytes for pages, at most. The kernel keeps the files' pages as well, and more of these make a checkpoint longer."""


def buffers(memory: int) -> str:
    """Say what `shared_buffers` should be with so many bytes of memory, such as `512MB`.

    They are taken from the system as pages come in: a small log takes little of them.
    """
    return f"{max(LEAST, min(memory // SHARE, MOST)) >> 20}MB"


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use: the machine's, or as many as its control groups allow."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Yield what this process's control groups say, of version 2 and 1, and those that they are in.

    In a container the groups' own directories may be missing; then its limit is at the top.
    """
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text(errors="replace").splitlines()]
    except OSError:  # not Linux
        return
    for _, controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = "sys/fs/cgroup/memory" if controllers else "sys/fs/cgroup"
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inner = Path(path.lstrip("/"))
        for group in (inner, *inner.parents):
            try:
                said = (root / top / group / name).read_text().strip()
            except OSError:
                continue
            if said.isdigit():  # "max" says that there is no limit
                yield int(said)
