"""How much memory the embedded PostgreSQL takes for pages, by machine and container."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from infrastructure.embedded.memory import buffers, memory

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
SMALL = 300_000_000
V2 = "0::/a.slice/b.scope\n"
V1 = "9:cpu,cpuacct:/x\n4:memory:/docker/c\n0::/\n"


@pytest.mark.parametrize(
    ("megabytes", "taken"),
    [(256, "128MB"), (1024, "128MB"), (1600, "200MB"), (4096, "512MB"), (8192, "1024MB"), (1 << 20, "1024MB")],
)
def test_an_eighth_of_the_memory_is_for_pages_within_bounds(megabytes: int, taken: str) -> None:
    assert buffers(megabytes << 20) == taken


@pytest.mark.parametrize(
    ("groups", "files", "limit"),
    [
        (V2, {"sys/fs/cgroup/a.slice/b.scope/memory.max": str(SMALL)}, SMALL),
        (V2, {"sys/fs/cgroup/a.slice/b.scope/memory.max": "max\n", "sys/fs/cgroup/a.slice/memory.max": "7\n"}, 7),
        (V2, {"sys/fs/cgroup/memory.max": str(SMALL)}, SMALL),
        (V2, {"sys/fs/cgroup/other/memory.max": "7"}, MACHINE),
        (V1, {"sys/fs/cgroup/memory/docker/c/memory.limit_in_bytes": str(SMALL)}, SMALL),
        (V1, {"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE),
        (V1, {"sys/fs/cgroup/memory/memory.limit_in_bytes": f"{SMALL}\n"}, SMALL),
        (None, {}, MACHINE),
    ],
)
def test_a_container_s_limit_counts(tmp_path: Path, groups: str | None, files: Mapping[str, str], limit: int) -> None:
    for name, text in {**files, **({"proc/self/cgroup": groups} if groups else {})}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    assert memory(tmp_path) == limit
