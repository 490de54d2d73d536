"""Turns a second over HTTP: Threadfold as a service, and LangGraph behind FastAPI, under the same load.

A client says something, waits for the answer, and says the next thing; each has a conversation of its own.
"""

from collections.abc import Sequence

from benchmarks.comparisons.turns import SAVERS
from benchmarks.side_by_side.alternate import Case, Played
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.ratios import Figure

FIGURES = (
    Figure("turns_per_s", "turns/s"),
    Figure("p50_ms", "p50 ms", "less"),
    Figure("p99_ms", "p99 ms", "less"),
    Figure("server_us", "server CPU µs/turn", "less"),
    Figure("postgres_us", "PostgreSQL CPU µs/turn", "less"),
    Figure("clients_share", "clients' CPU, of a core", "less", 3),
)

NOTES = (
    "Requests wait for the finished turn, which is stored by then, step by step.",
    "With 'invoke', requests are answered at once (p50 and p99 are of that), and turns count when all have ended.",
)

YOUNG = {"tiny": "8x3,16x2", "short": "16x20,64x5,1000x1", "full": "16x60,64x20,256x8,1000x3"}
"""How many clients at the same time, and how many turns each takes, of conversations that begin with the first."""

AGED = {"tiny": "8x2", "short": "16x20", "full": "16x20,64x10"}
"""The same of conversations that have `AGE` turns already."""

AGE = {"tiny": 10, "short": 100, "full": 100}


def compare(bench: Bench) -> None:
    """Write `http`, and with the full extent `http_all`."""
    everything = bench.extent != "short"
    cases: list[Played] = []
    for processes in (1, 2) if everything else (1,):
        for loads, age in ((YOUNG[bench.extent], 0), (AGED[bench.extent], AGE[bench.extent])):
            contestants = [
                threadfold(loads, processes, age),
                threadfold(loads, processes, age, recall=False),
                *([threadfold(loads, processes, 0, "invoke")] if everything and not age else []),
                langgraph(loads, processes, age),
                *([langgraph(loads, processes, age, messages="delta")] if everything else []),
            ]
            (played,) = bench.play([Case(_shown(processes, age), contestants, own=3 if everything and not age else 2)])
            cases += by_load(played, loads)
    name = "http_all" if bench.extent == "full" else "http"
    bench.report(name, "Turns a second over HTTP, each waited for", FIGURES, cases, NOTES)


def threadfold(loads: str, processes: int, age: int, mode: str = "wait", *, recall: bool = True) -> Contestant:
    """Ours, by `threadfold serve`."""
    name = ", ".join(["Threadfold", *([] if mode == "wait" else [mode]), *([] if recall else ["nothing recalled"])])
    options = {"clients": loads, "processes": processes, "mode": mode, "age": age, "recall": "on" if recall else "off"}
    return Contestant(name, "threadfold_http", options)


def langgraph(loads: str, processes: int, age: int, *, messages: str = "full", savers: int = SAVERS) -> Contestant:
    """LangGraph behind FastAPI."""
    name = "LangGraph, FastAPI" if messages == "full" else f"LangGraph {messages}, FastAPI"
    options = {"clients": loads, "processes": processes, "age": age, "messages": messages, "savers": savers}
    return Contestant(name, "langgraph_http", options)


def _shown(processes: int, age: int) -> str:
    served = "1 process" if processes == 1 else f"{processes} processes"
    return f"{served}, after {age} turns" if age else served


def by_load(played: Played, loads: str) -> Sequence[Played]:
    """Take what every run has told of each load."""
    counts = [load.partition("x")[0] for load in loads.split(",")]
    return [
        Played(
            f"{count} clients, {played.name}",
            played.contestants,
            [{name: told[count] for name, told in around.items()} for around in played.rounds],
            played.own,
        )
        for count in counts
    ]
