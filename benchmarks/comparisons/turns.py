"""Turns a second of the same agent, by Threadfold, LangGraph and DBOS.

Each turn takes the same four nodes, with a tool and a model that answer at once: what is left is the backend.
"""

from collections.abc import Iterator

from benchmarks.side_by_side.alternate import Case
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.ratios import Figure

FIGURES = (
    Figure("turns_per_s", "turns/s"),
    Figure("p50_ms", "p50 ms", "less", 1),
    Figure("p99_ms", "p99 ms", "less", 1),
    Figure("cpu_us", "client CPU µs/turn", "less"),
    Figure("postgres_us", "PostgreSQL CPU µs/turn", "less"),
    Figure("events_per_turn", "events/turn", "less", 1),
    Figure("bytes_per_turn", "bytes/turn", "less"),
)

NOTES = (
    "A turn counts when it is stored for good. Bytes are of the write side, with indexes, after whole conversations.",
    "Long conversations are measured in stretches, spread evenly; see docs/benchmarks.md.",
)

DURABILITIES = {"sync": "sync", "turn": "exit", "async": "async"}
"""Threadfold's, and the one of LangGraph's that promises the same."""


def compare(bench: Bench) -> None:
    """Write `turns`, and with the full extent `turns_matrix`."""
    if bench.extent == "full":
        played = bench.play([*_matrix()])
        bench.report("turns_matrix", "Turns a second: the whole matrix", FIGURES, played, NOTES)
    else:
        played = bench.play([*(_points() if bench.extent == "short" else _tiny())])
        bench.report("turns", "Turns a second of the same four-node agent", FIGURES, played, NOTES)


def threadfold(threads: int, turns: int, durability: str, measured: int, *, recall: bool) -> Contestant:
    """Ours. `measured` is how many turns of each thread are measured, or 0 for all."""
    name = "Threadfold" if recall else "Threadfold, nothing recalled"
    options = _options(threads, turns, durability, measured)
    return Contestant(name, "threadfold_turns", {**options, "recall": "on" if recall else "off"})


def langgraph(threads: int, turns: int, durability: str, measured: int) -> Contestant:
    return Contestant("LangGraph", "langgraph_turns", _options(threads, turns, durability, measured))


def dbos(threads: int, turns: int) -> Contestant:
    return Contestant("DBOS", "dbos_turns", _options(threads, turns, "sync", 0))


def _options(threads: int, turns: int, durability: str, measured: int) -> dict[str, object]:
    stretches = min(measured, 5)
    length = measured // stretches if stretches else 0
    return {"threads": threads, "turns": turns, "durability": durability, "stretches": stretches, "length": length}


def _points() -> Iterator[Case]:
    """What `make bench` compares. DBOS's turns do not get slower: some of a conversation's are enough."""
    yield Case(
        "16 threads, 200 turns, sync",
        [
            threadfold(16, 200, "sync", 20, recall=True),
            threadfold(16, 200, "sync", 0, recall=False),
            langgraph(16, 200, "sync", 20),
            dbos(16, 40),
        ],
    )
    yield Case(
        "64 threads, 200 turns, sync",
        [
            threadfold(64, 200, "sync", 5, recall=True),
            threadfold(64, 200, "sync", 20, recall=False),
            langgraph(64, 200, "sync", 5),
            dbos(64, 10),
        ],
    )
    for ours, theirs in (("turn", "exit"), ("async", "async")):
        yield Case(
            f"16 threads, 200 turns, {ours}" if ours == theirs else f"16 threads, 200 turns, {ours} / {theirs}",
            [
                threadfold(16, 200, ours, 20, recall=True),
                threadfold(16, 200, ours, 20, recall=False),
                langgraph(16, 200, theirs, 20),
            ],
        )


def _tiny() -> Iterator[Case]:
    yield Case(
        "4 threads, 20 turns, sync",
        [
            threadfold(4, 20, "sync", 5, recall=True),
            threadfold(4, 20, "sync", 0, recall=False),
            langgraph(4, 20, "sync", 5),
            dbos(4, 10),
        ],
    )


def _matrix() -> Iterator[Case]:
    """All combinations; at most some 20,000 turns are measured of each, and fewer of what gets slower."""
    for durability, theirs in DURABILITIES.items():
        for threads in (1, 16, 64, 256):
            for turns in (20, 200, 1000):
                measured = min(turns, max(2_000 // threads, 5))
                shown = durability if durability == theirs else f"{durability} / {theirs}"
                yield Case(
                    f"{threads} threads, {turns} turns, {shown}",
                    [
                        threadfold(threads, turns, durability, measured, recall=True),
                        threadfold(threads, turns, durability, measured, recall=False),
                        langgraph(threads, turns, theirs, measured),
                        *([dbos(threads, min(turns, measured))] if durability == "sync" else []),
                    ],
                )
