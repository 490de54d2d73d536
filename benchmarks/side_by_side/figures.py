"""What a contestant tells of its run: one JSON object, the last line that it prints.

arguments = options(threads=int, turns=int)
with metered(arguments) as figures:
    ...  # the work that counts
say({**figures, "turns": 3200})
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from benchmarks.side_by_side.cpu import own_cpu, tree_cpu

Figures: TypeAlias = dict[str, Any]
"""Numbers by their names. `wall_s`, `cpu_s` (of the contestant) and `postgres_s` are seconds."""


def options(**kinds: Callable[[str], Any]) -> argparse.Namespace:
    """Read the options that every contestant has, and those that are named here, all of which must be given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--database", required=True, help="URL of an empty database")
    parser.add_argument("--postmaster", type=int, help="PostgreSQL's first process, where it runs on this machine")
    for name, kind in kinds.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, required=True)
    return parser.parse_args()


@contextmanager
def metered(arguments: argparse.Namespace) -> Iterator[Figures]:
    """Measure what is done inside. The figures are there at its end."""
    figures: Figures = {}
    server, own, began = _postgres(arguments), own_cpu(), time.perf_counter()
    yield figures
    figures["wall_s"] = time.perf_counter() - began
    figures["cpu_s"] = own_cpu() - own
    if arguments.postmaster is not None:
        figures["postgres_s"] = _postgres(arguments) - server


def _postgres(arguments: argparse.Namespace) -> float:
    return 0.0 if arguments.postmaster is None else tree_cpu(arguments.postmaster)


def say(figures: Figures) -> None:
    """Print the figures, as the last thing that is printed."""
    sys.stdout.flush()
    print(json.dumps(figures), flush=True)


def quantiles(seconds: Sequence[float]) -> Figures:
    """Return the median, the 99th percentile and the longest of some durations, in milliseconds."""
    ordered = sorted(seconds)
    at = {"p50_ms": 0.50, "p99_ms": 0.99, "max_ms": 1.0}
    return {name: ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000 for name, share in at.items()}
