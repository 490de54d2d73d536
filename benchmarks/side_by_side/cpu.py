"""Seconds of CPU that processes have used, as the kernel counts them."""

import os
import resource
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def own_cpu() -> float:
    """Return what this process has used, and those of its children that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def tree_cpu(pid: int) -> float:
    """Return what a process and all below it have used, those that have ended and were waited for included."""
    used = 0.0
    for member in tree(pid):
        with suppress(OSError):  # it has ended meanwhile, and its parent has its time
            fields = _fields(member)
            used += sum(int(field) for field in fields[11:15]) / TICKS
    return used


def tree(pid: int) -> Iterator[int]:
    """List a process and all below it."""
    yield pid
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            below.setdefault(int(_fields(int(entry.name))[1]), []).append(int(entry.name))
    found = [pid]
    while found:
        children = below.get(found.pop(), [])
        yield from children
        found.extend(children)


def _fields(pid: int) -> list[str]:
    """Read the fields of a process after its name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
