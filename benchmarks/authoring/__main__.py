"""Prints a table of lines and of what kills did, and writes `benchmarks/results/authoring.json`.

.venv-bench/bin/python -m benchmarks.authoring [--desks Threadfold,LangGraph] [--points refund,mail]
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.authoring.kills import MAKE, POINTS, Outcome, killed_at
from benchmarks.authoring.lines import code_lines
from benchmarks.side_by_side.__main__ import RESULTS
from benchmarks.side_by_side.machine import machine
from benchmarks.side_by_side.postgres import one_server
from infrastructure.settings import CHECKOUT

FILES = {
    "Threadfold": "examples/returns/agent.py",
    "LangGraph": "benchmarks/authoring/langgraph_desk.py",
    "pydantic-ai": "benchmarks/authoring/pydantic_ai_desk.py",
}


def main() -> None:
    """Kill each desk at each point, in a database of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desks", default=",".join(MAKE))
    parser.add_argument("--points", default=",".join(POINTS))
    given = parser.parse_args()
    lines = {name: code_lines(CHECKOUT / file) for name, file in FILES.items()}
    outcomes: list[Outcome] = []
    with one_server() as server:
        described = machine(server)
        for name in given.desks.split(","):
            for point in given.points.split(","):
                with tempfile.TemporaryDirectory() as directory, server.database() as url:
                    outcomes.append(asyncio.run(killed_at(name, point, url, Path(directory))))
                    print(outcomes[-1], flush=True)
    for row in table(lines, outcomes):
        print("| " + " | ".join(row) + " |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"machine": described, "lines": lines, "outcomes": [asdict(one) for one in outcomes]}
    (RESULTS / "authoring.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(lines: Mapping[str, int], outcomes: Sequence[Outcome]) -> Iterable[Sequence[str]]:
    """Lay out a row for the lines and one for each point, and a column for each desk."""
    desks = list(dict.fromkeys(one.desk for one in outcomes))
    yield ("", *desks)
    yield ("---", *("---" for _ in desks))
    yield ("lines of the agent", *(str(lines[desk]) for desk in desks))
    for point in dict.fromkeys(one.point for one in outcomes):
        yield (POINTS[point], *(_shown(one) for one in outcomes if one.point == point))


def _shown(one: Outcome) -> str:
    counts = {"doubled": one.doubled, "lost": one.lost, "paid again": one.paid_again, "asked again": one.asked_again}
    harm = ", ".join(f"**{count} {what}**" for what, count in counts.items() if count)
    return f"{harm or 'no harm'}; {one.resumed_s:.0f} s"


if __name__ == "__main__":
    main()
