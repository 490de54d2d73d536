"""Prints a table of lines and of what kills did, and writes `benchmarks/results/authoring.json`.

.venv-bench/bin/python -m benchmarks.authoring [--desks Threadfold,LangGraph] [--points refund,mail]
"""

import argparse
import asyncio
import json
import tempfile
from collections.abc import Iterable, Sequence
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
    "pydantic-ai, DBOS": "benchmarks/authoring/pydantic_ai_desk.py",
}


def main() -> None:
    """Kill each desk at each point, in a database of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--desks", default=",".join(MAKE).replace(", ", "; "), help="default: all")
    parser.add_argument("--points", default=",".join(POINTS))
    given = parser.parse_args()
    lines = {name: code_lines(CHECKOUT / file) for name, file in FILES.items()}
    outcomes: list[Outcome] = []
    with one_server() as server:
        described = machine(server)
        for name in given.desks.split(","):
            for point in given.points.split(","):
                with tempfile.TemporaryDirectory() as directory, server.database() as url:
                    outcomes.append(asyncio.run(killed_at(name.replace("; ", ", "), point, url, Path(directory))))
                    print(outcomes[-1], flush=True)
    for row in table(lines, outcomes):
        print("| " + " | ".join(row) + " |")
    RESULTS.mkdir(parents=True, exist_ok=True)
    result = {"machine": described, "lines": lines, "outcomes": [asdict(one) for one in outcomes]}
    (RESULTS / "authoring.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def table(lines: dict[str, int], outcomes: Sequence[Outcome]) -> Iterable[Sequence[str]]:
    """Lay out one row for each desk and point."""
    yield ("desk", "lines", "killed while", "payments", "mails", "paid again", "asked again", "resumed", "answer")
    yield ("---", "---:", "---", "---:", "---:", "---:", "---:", "---:", "---")
    for one in outcomes:
        counts = (one.refunds, one.mails, one.paid_again, one.asked_again)
        shown = [str(count) for count in counts]
        yield (one.desk, str(lines[one.desk]), POINTS[one.point], *shown, f"{one.resumed_s:.1f} s", one.answer)


if __name__ == "__main__":
    main()
