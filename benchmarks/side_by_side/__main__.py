"""Runs comparisons on one PostgreSQL, and writes what comes of them to `benchmarks/results`.

.venv-bench/bin/python -m benchmarks.side_by_side [NAME ...] [--extent short] [--pairs 5]
"""

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.side_by_side.alternate import PAIRS
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.postgres import one_server

COMPARISONS = ("turns", "storage", "http", "append", "rehydrate", "projections")
"""Modules in `benchmarks.comparisons`, in the order in which they run."""

MORE = ("one_saver",)
"""Those that run only if they are named."""

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(COMPARISONS)}, all by default; or {', '.join(MORE)}"
    )
    parser.add_argument("--extent", choices=["tiny", "short", "full"], default="short")
    parser.add_argument("--pairs", type=int, default=PAIRS)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    for name in given.names:
        if name not in COMPARISONS + MORE:
            parser.error(f"there is no comparison {name!r}")
    began = time.monotonic()
    with one_server() as server:
        bench = Bench(server, given.pairs, given.extent, given.results)
        for name in given.names or COMPARISONS:
            importlib.import_module(f"benchmarks.comparisons.{name}").compare(bench)
    print(f"All of it took {(time.monotonic() - began) / 60:.1f} minutes; the results are in {given.results}")


if __name__ == "__main__":
    main()
