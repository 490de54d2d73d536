"""Turns a second over HTTP: Threadfold as a service, and LangGraph behind FastAPI, under the same load.

A client says something, waits for the answer, and says the next thing; each has a conversation of its own.
"""

from collections.abc import Iterator, Sequence

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
    "Requests wait for the finished turn, which is stored by then, step by step. Conversations are young here.",
    "With 'invoke', requests are answered at once (p50 and p99 are of that), and turns count when all have ended.",
)

LOADS = {"tiny": "8x3,16x2", "short": "16x20,64x5,256x2,1000x1", "full": "16x60,64x20,256x8,1000x3"}
"""How many clients at the same time, and how many turns each takes."""


def compare(bench: Bench) -> None:
    """Write `http`, and with the full extent `http_all`."""
    loads = LOADS[bench.extent]
    everything = bench.extent != "short"
    cases: list[Played] = []
    for processes in (1, 2) if everything else (1,):
        shown = "1 process" if processes == 1 else f"{processes} processes"
        contestants = [*_contestants(loads, processes, everything=everything)]
        (played,) = bench.play([Case(shown, contestants, own=2 if everything else 1)])
        cases += [*_by_load(played, loads)]
    name = "http_all" if bench.extent == "full" else "http"
    bench.report(name, "Turns a second over HTTP, each waited for", FIGURES, cases, NOTES)


def _contestants(loads: str, processes: int, *, everything: bool) -> Iterator[Contestant]:
    options = {"clients": loads, "processes": processes}
    yield Contestant("Threadfold", "threadfold_http", {**options, "mode": "wait"})
    if everything:
        yield Contestant("Threadfold, invoke", "threadfold_http", {**options, "mode": "invoke"})
    yield Contestant("LangGraph, FastAPI", "langgraph_http", {**options, "messages": "full"})
    if everything:
        yield Contestant("LangGraph delta, FastAPI", "langgraph_http", {**options, "messages": "delta"})


def _by_load(played: Played, loads: str) -> Sequence[Played]:
    """Take what every run has told of one load."""
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
