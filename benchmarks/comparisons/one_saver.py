"""Turns a second beside LangGraph as its documentation sets it up: with one saver, which does one thing at a time.

The other comparisons give it 20 (see `SAVERS`), which about doubles its rate.
"""

from benchmarks.comparisons import http, turns
from benchmarks.side_by_side.alternate import Case
from benchmarks.side_by_side.bench import Bench

THREADS = {"tiny": (4,), "short": (16, 64), "full": (16, 64)}
TURNS = {"tiny": 20, "short": 200, "full": 200}
LOADS = {"tiny": "8x2", "short": "16x20,64x5,1000x1", "full": "16x60,64x20,1000x3"}


def compare(bench: Bench) -> None:
    """Write `one_saver` and `one_saver_http`."""
    length = TURNS[bench.extent]
    played = bench.play(
        [
            Case(
                f"{threads} threads, {length} turns, sync",
                [
                    turns.threadfold(threads, length, "sync", 1200 // threads),
                    turns.threadfold(threads, length, "sync", 1200 // threads, recall=False),
                    turns.langgraph(threads, length, "sync", 3, savers=1),
                ],
                own=2,
            )
            for threads in THREADS[bench.extent]
        ]
    )
    bench.report("one_saver", "Turns a second, LangGraph with one saver", turns.FIGURES, played, turns.NOTES)
    loads = LOADS[bench.extent]
    ours = [http.threadfold(loads, 1, 0), http.threadfold(loads, 1, 0, recall=False)]
    (served,) = bench.play([Case("1 process", [*ours, http.langgraph(loads, 1, 0, savers=1)], own=2)])
    title = "Turns a second over HTTP, LangGraph with one saver"
    bench.report("one_saver_http", title, http.FIGURES, http.by_load(served, loads), http.NOTES)
