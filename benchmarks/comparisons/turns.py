"""Turns a second of the same agent, by Threadfold, LangGraph and DBOS.

Each turn takes the same four nodes, with a tool and a model that answer at once: what is left is the backend.
"""

from collections.abc import Iterator

from benchmarks.side_by_side.alternate import Case, Played
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
    "A turn counts when it is stored for good. Bytes are of the write side, with indexes, where all turns were taken.",
    "Of long conversations the turns in the middle are measured, or stretches of it; see docs/benchmarks.md.",
    "'Nothing recalled' does what LangGraph does; the other one also looks for older messages that matter again.",
)

STRETCHES = 5
"""Stretches of a conversation that the whole matrix measures, where it does not measure all of it."""

SAVERS = 20
"""LangGraph's, as many as connections."""

DURABILITIES = {"sync": "sync", "turn": "exit", "async": "async"}
"""Threadfold's, and the one of LangGraph's that promises the same."""


def compare(bench: Bench) -> None:
    """Write `turns`, and with the full extent `turns_matrix`."""
    if bench.extent == "full":
        done: list[Played] = []
        for case in _matrix():  # a night's work: what is done is written at once
            done += bench.play([case])
            bench.report("turns_matrix", "Turns a second of the same four-node agent", FIGURES, done, NOTES)
    else:
        played = bench.play([*(_points() if bench.extent == "short" else _tiny())])
        bench.report("turns", "Turns a second of the same four-node agent", FIGURES, played, NOTES)


def threadfold(
    threads: int, turns: int, durability: str, measured: int, stretches: int = 1, *, recall: bool = True
) -> Contestant:
    """Ours. `measured` is how many turns of each thread are measured, or 0 for all."""
    name = "Threadfold" if recall else "Threadfold, nothing recalled"
    options = _options(threads, turns, durability, measured, stretches)
    return Contestant(name, "threadfold_turns", {**options, "recall": "on" if recall else "off"})


def langgraph(
    threads: int,
    turns: int,
    durability: str,
    measured: int,
    stretches: int = 1,
    *,
    messages: str = "full",
    savers: int = SAVERS,
) -> Contestant:
    """LangGraph, with its messages kept as `full` lists or as `delta`."""
    name = "LangGraph" if messages == "full" else f"LangGraph, {messages}"
    options = _options(threads, turns, durability, measured, stretches)
    return Contestant(name, "langgraph_turns", {**options, "messages": messages, "savers": savers})


def dbos(threads: int, turns: int) -> Contestant:
    """DBOS, whose turns do not get slower: some of a conversation's are enough."""
    return Contestant("DBOS", "dbos_turns", _options(threads, turns, "sync", turns, 1))


def _options(threads: int, turns: int, durability: str, measured: int, stretches: int) -> dict[str, object]:
    length = max(measured // stretches, 1)
    return {"threads": threads, "turns": turns, "durability": durability, "stretches": stretches, "length": length}


def _points() -> Iterator[Case]:
    """What `make bench` compares: turns in the middle of a conversation, which take what its turns take on average."""
    yield Case(
        "16 threads, 200 turns, sync",
        [
            threadfold(16, 200, "sync", 40),
            threadfold(16, 200, "sync", 40, recall=False),
            langgraph(16, 200, "sync", 10),
            langgraph(16, 200, "sync", 10, messages="delta"),
            dbos(16, 20),
        ],
        own=2,
    )
    yield Case(
        "64 threads, 200 turns, sync",
        [
            threadfold(64, 200, "sync", 15),
            threadfold(64, 200, "sync", 15, recall=False),
            langgraph(64, 200, "sync", 3),
        ],
        own=2,
    )
    yield Case(
        "16 threads, 100 turns, sync / exit",
        [
            threadfold(16, 100, "sync", 40),
            threadfold(16, 100, "sync", 40, recall=False),
            langgraph(16, 100, "exit", 10),
        ],
        own=2,
    )


def _tiny() -> Iterator[Case]:
    yield Case(
        "4 threads, 20 turns, sync",
        [
            threadfold(4, 20, "sync", 5),
            threadfold(4, 20, "sync", 20, recall=False),
            langgraph(4, 20, "sync", 5),
            langgraph(4, 20, "sync", 5, messages="delta"),
            dbos(4, 10),
        ],
        own=2,
    )


def _matrix() -> Iterator[Case]:
    """All combinations, with durability sync; the ones in the middle with the others. At most 2,000 turns are measured
    of each, or five of each thread."""
    for ours, theirs in DURABILITIES.items():
        for threads in (1, 16, 64, 256) if ours == "sync" else (16, 64):
            for turns in (20, 200, 1000) if ours == "sync" else (20, 200):
                measured = min(turns, max(2_000 // threads, STRETCHES))
                rivals = [langgraph(threads, turns, theirs, measured, STRETCHES, messages=m) for m in ("full", "delta")]
                if ours == "sync":
                    rivals.append(dbos(threads, measured))
                yield Case(
                    f"{threads} threads, {turns} turns, {_shown(ours, theirs)}",
                    [
                        threadfold(threads, turns, ours, measured, STRETCHES),
                        threadfold(threads, turns, ours, measured, STRETCHES, recall=False),
                        *rivals,
                    ],
                    own=2,
                )


def _shown(ours: str, theirs: str) -> str:
    return ours if ours == theirs else f"{ours} / {theirs}"
