"""Appending: events a second by batch and by streams, of Threadfold, of others, and of nothing but rows.

A case `20 x 16` is 16 streams that append 20 events at a time. *Rows, grouped* is the limit that ours is held to: one
multi-row INSERT of the same rows into the same table for each group, and the groups are made by our own appender.
The other limits are COPY in place of INSERT, and a commit for each batch.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.append_load import name_of
from benchmarks.side_by_side.alternate import Case, Played
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.figures import Figures
from benchmarks.side_by_side.ratios import Figure, Ratio, ratio

OURS = "Threadfold"
ROWS = "rows, grouped"

GOAL = 0.7
"""The share of what bare rows reach that ours is to reach."""

BATCHES = (1, 5, 20, 100)
STREAMS = (1, 16, 64)
SECONDS = {"tiny": 0.05, "short": 0.15, "full": 1.0}

MESSAGE_DB = "MESSAGE_DB"
"""The variable that names message-db's folder `database`."""

RATE = Figure("rate", "events/s")
FIGURES = (
    RATE,
    Figure("per_commit", "events a commit"),
    Figure("cpu_us", "client CPU µs/event", "less", 1),
    Figure("postgres_us", "PostgreSQL CPU µs/event", "less", 1),
)


def compare(bench: Bench) -> None:
    """Measure all cells, and say whether the goal is met."""
    options = {"batches": _listed(BATCHES), "streams": _listed(STREAMS), "seconds": SECONDS[bench.extent]}
    (played,) = bench.play([Case("append", contestants(options, everybody=bench.extent == "full"))])
    cases = [cell_of(played, batch, streams) for batch in BATCHES for streams in STREAMS]
    bench.report("append", "Appending: a case is batch x streams", FIGURES, cases, notes(cases))


def contestants(options: Mapping[str, object], *, everybody: bool) -> Sequence[Contestant]:
    """List who takes part."""

    def rows(name: str, how: str, alone: int) -> Contestant:
        return Contestant(name, "append_rows", {**options, "how": how, "alone": alone})

    def eventsourcing(name: str, recorder: str) -> Contestant:
        return Contestant(name, "append_eventsourcing", {**options, "recorder": recorder, "functions": 0})

    found = [
        Contestant(OURS, "append_threadfold", {**options, "commands": 1}),
        rows(ROWS, "insert", 0),
        rows("rows, not grouped", "insert", 1),
        rows("rows, grouped, COPY", "copy", 0),
        eventsourcing("eventsourcing, ordered", "application"),
    ]
    if everybody:
        found.append(Contestant("Threadfold, no commands", "append_threadfold", {**options, "commands": 0}))
        found.append(eventsourcing("eventsourcing, unordered", "aggregate"))
    if sql := os.environ.get(MESSAGE_DB):
        found.append(Contestant("message-db", "append_message_db", {**options, "sql": Path(sql).absolute()}))
    else:
        print(f"message-db is left out: {MESSAGE_DB} names no folder `database` of a checkout of it")
    return found


def cell_of(played: Played, batch: int, streams: int) -> Played:
    """Take one cell out of what all have told."""
    name = name_of(batch, streams)

    def figures(told: Figures) -> Figures:
        return {figure.key: told[f"{figure.key} {name}"] for figure in FIGURES}

    rounds = [{who: figures(told) for who, told in around.items()} for around in played.rounds]
    return Played(name, played.contestants, rounds)


def notes(cases: Sequence[Played]) -> Sequence[str]:
    """Hold each case against the goal."""
    ratios = {played.name: ratio(played, ROWS, RATE) for played in cases}
    return [f"{_verdict(found)}: {name}: {found} of the same rows alone" for name, found in ratios.items()]


def _verdict(found: Ratio | None) -> str:
    return "yes" if found and found.median >= GOAL else "NO"


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))
