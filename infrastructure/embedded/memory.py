"""The memory for PostgreSQL's pages (`shared_buffers`)."""

import os
from collections.abc import Iterator
from pathlib import Path

PAGES_DIVISOR = 8
"""Pages get an eighth of the memory; PostgreSQL advises a quarter for a machine that does nothing else."""

MIN_PAGES_BYTES = 128 << 20
"""PostgreSQL's default."""

MAX_PAGES_BYTES = 1 << 30
"""The kernel caches the files as well, and more dirty pages make a checkpoint longer."""


def buffers(memory: int) -> str:
    """Return the setting `shared_buffers` for so many bytes of memory, such as `512MB`.

    The memory is used only as pages are loaded: a small log takes little of it.
    """
    return f"{max(MIN_PAGES_BYTES, min(memory // PAGES_DIVISOR, MAX_PAGES_BYTES)) >> 20}MB"


def memory(root: Path = Path("/")) -> int:
    """Return the bytes of memory that this process may use: the machine's, or the limit of its control groups."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(root)])


def _limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control groups, of versions 2 and 1, and of their parents.

    In a container, the groups' own directories may be missing; then the limit is in the root directory.
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
                limit = (root / top / group / name).read_text().strip()
            except OSError:
                continue
            if limit.isdigit():  # "max" means no limit
                yield int(limit)
