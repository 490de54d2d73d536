"""What a turn takes of a disk, in conversations of different lengths, by Threadfold and by LangGraph.

Sizes are of whole tables with their indexes and TOAST after a checkpoint; what as many turns have added to them is told
by turn. Nothing is vacuumed by hand. Threadfold's write side has its snapshots in it; its read models, which LangGraph
has not, are apart.
"""

from collections.abc import Sequence

from benchmarks.side_by_side.alternate import Case, Played
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.chart import lines
from benchmarks.side_by_side.contestant import Contestant
from benchmarks.side_by_side.growth import marks
from benchmarks.side_by_side.ratios import Figure

FIGURES = (
    Figure("write_bytes", "bytes/turn", "less"),
    Figure("write_rows", "rows/turn", "less", 1),
    Figure("read_bytes", "of read models: bytes/turn", "less"),
    Figure("read_rows", "rows/turn of these", "less", 1),
    Figure("autovacuums", "autovacuums", "less"),
)

NOTES = ("Sizes are after a checkpoint and without a VACUUM by hand; how often PostgreSQL did it by itself is shown.",)

RIVALS = (
    ("LangGraph, sync", "sync", "full"),
    ("LangGraph, exit", "exit", "full"),
    ("LangGraph, delta", "sync", "delta"),
)

IN_ALL = {"tiny": 40, "short": 200, "full": 400}
"""Turns of all conversations of one length, unless two of them have more. Of ours there are ten times as many: they
take so little room that pages which are half empty would count."""

ROUNDS = 2
"""Sizes hardly change from one round to the next."""

LAST = {"tiny": 10, "short": 200, "full": 1000}


def compare(bench: Bench) -> None:
    """Write `storage`, and with the full extent `storage_long`."""
    turns = LAST[bench.extent]
    case = Case(f"up to {turns} turns", _contestants(turns, IN_ALL[bench.extent]))
    played = bench.play([case], min(bench.pairs, ROUNDS))
    cases = [_at(mark, played[0]) for mark in marks(turns)]
    name = "storage_long" if bench.extent == "full" else "storage"
    report = bench.report(name, "Bytes of a turn in long conversations", FIGURES, cases, NOTES)
    lines(report, bench.results / f"{name}_growth.png", "write_bytes", "bytes/turn", [*marks(turns)], "turns")


def _contestants(turns: int, in_all: int) -> Sequence[Contestant]:
    options = {"turns": turns, "in_all": in_all}
    ours = {"turns": turns, "in_all": 10 * in_all, "durability": "sync"}
    return [
        Contestant("Threadfold", "threadfold_storage", ours),
        *(
            Contestant(name, "langgraph_storage", {**options, "durability": durability, "messages": messages})
            for name, durability, messages in RIVALS
        ),
    ]


def _at(mark: int, played: Played) -> Played:
    """Take what every run has told of one length."""
    rounds = [{name: told[str(mark)] for name, told in around.items()} for around in played.rounds]
    return Played(f"{mark} turns", played.contestants, rounds, played.own)
