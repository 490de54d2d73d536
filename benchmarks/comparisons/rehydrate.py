"""A thread's state, now and in the past, by the thread's age: of Threadfold, and of LangGraph where it gets that old.

A case is the age in our events; LangGraph's threads have as many turns. Both are built before, each in a database of
its own that stays; then they are asked in turn.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from benchmarks.side_by_side.alternate import Case, Played
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.postgres import Server
from benchmarks.side_by_side.ratios import Figure

OURS = "Threadfold"

SIZES = {"tiny": (100, 1_000), "short": (100, 1_000, 10_000, 100_000), "full": (100, 1_000, 10_000, 100_000)}
TIMES = {"tiny": 10, "short": 60, "full": 200}
OTHERS = {"tiny": 1_000, "short": 10_000, "full": 17_000}
"""Events up to whose number of turns LangGraph is asked: 1,000 turns are 17,000 events."""
REAL = {"tiny": 10, "short": 10, "full": 1_000}
"""LangGraph's turns of a thread that are taken as turns."""

COLD = 3.0
"""Milliseconds that a state may take, at any age: the median of a repository that has never seen the thread."""

PAST = 2.0
"""How many times as long a past state may take."""

OLD = 1.5
"""How many times as long as at 1,000 events anything may take at 100,000."""

QUESTIONS = {
    "cold": "now, cold",
    "version": "at a version",
    "instant": "at an instant",
    "warm": "now, warm",
    "fresh": "now, new connection",
    "history": "10 checkpoints",
}

FIGURES = tuple(
    Figure(f"{key}_{at}_ms", f"{name} {at} ms", "less", 2)
    for key, name in QUESTIONS.items()
    for at in ("p50", "p99")
    if at == "p50" or key in {"cold", "version", "instant"}
)


@dataclass(frozen=True)
class Filled(Contestant):
    """A contestant whose database stays from run to run."""

    url: str = ""

    def run(self, server: Server) -> Figures:
        """Ask."""
        return self.ask(server, self.url)


def compare(bench: Bench) -> None:
    """Build all threads, ask, and say whether the goals are met."""
    extent, server = bench.extent, bench.server
    sizes = SIZES[extent]
    others = tuple(size for size in (*sizes, OTHERS[extent]) if size <= OTHERS[extent])
    base = {"times": TIMES[extent], "seed": 1}
    ours = Contestant(OURS, "rehydrate_threadfold", base)
    theirs = Contestant("LangGraph", "rehydrate_langgraph", {**base, "real": REAL[extent]})
    with ExitStack() as stack:
        filled = []
        for contestant, ages in ((ours, sizes), (theirs, tuple(dict.fromkeys(others)))):
            url = stack.enter_context(server.database(contestant.module))
            listed = ",".join(map(str, ages))
            made = contestant.ask(server, url, do="fill", sizes=listed)
            print(f"{contestant.name}: threads built in {made['seconds']:.0f} s")
            options = {**contestant.options, "do": "ask", "sizes": listed}
            filled.append(Filled(contestant.name, contestant.module, options, url=url))
        server.execute("CHECKPOINT")
        (played,) = bench.play([Case("rehydrate", filled)])
    cases = [aged(played, size) for size in dict.fromkeys((*sizes, *others))]
    bench.report("rehydrate", "A thread's state by its age, in events", FIGURES, cases, verdicts(cases))


def aged(played: Played, size: int) -> Played:
    """Take one age out of what all have told; whoever has no such thread does not take part."""
    ending = f" {size}"
    rounds = [
        {who: {key.removesuffix(ending): told[key] for key in told if key.endswith(ending)} for who, told in r.items()}
        for r in played.rounds
    ]
    names = [name for name in played.contestants if rounds[0][name]]
    return Played(f"{size:,}", names, rounds, own=int(OURS in names))


def verdicts(cases: Sequence[Played]) -> Sequence[str]:
    """Hold ours against the goals."""
    ages = [played for played in cases if OURS in played.contestants]
    cold = {played.name: _median(played, "cold_p50_ms") for played in ages}
    past = {
        f"{question} at {played.name}": _median(played, f"{key}_p50_ms") / cold[played.name]
        for played in ages
        for key, question in (("version", "a version"), ("instant", "an instant"))
    }
    found = [
        (max(cold.values()) < COLD, "cold p50 in ms: " + _listed(cold)),
        (max(past.values()) <= PAST, "the past, times as long as now: " + _listed(past)),
    ]
    named = {played.name: played for played in ages}
    if {"1,000", "100,000"} <= named.keys():
        old = {
            key: _median(named["100,000"], f"{key}_p50_ms") / _median(named["1,000"], f"{key}_p50_ms")
            for key in ("cold", "warm", "version", "instant")
        }
        found.append((max(old.values()) <= OLD, "at 100,000 events, times as long as at 1,000: " + _listed(old)))
    return [f"{'yes' if good else 'NO'}: {sentence}" for good, sentence in found]


def _median(played: Played, key: str) -> float:
    return statistics.median(played.values(OURS, key))


def _listed(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {number:.2f}" for name, number in numbers.items())
