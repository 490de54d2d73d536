"""Break things on purpose, and count what was lost or doubled.

make chaos                                            all of it, about half an hour
python -m tests.chaos crashes --runs 300 --seed 1     workers killed at every named point
python -m tests.chaos crashes --runs 1 --seed 217     one of them again
python -m tests.chaos postgres --turns 2000           PostgreSQL killed every 5 to 20 s, four workers
python -m tests.chaos frozen --runs 30                workers stopped beyond their lease, and woken up
python -m tests.chaos projections --seconds 120       late commits, and runners of projections killed each second;
                                                      --idle other|same leaves a transaction open in another database
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infrastructure.embedded import EmbeddedPostgres
from migrations.run import migrate
from tests.chaos import crashes, frozen, postgres, projections
from tests.chaos.crashing import POINTS
from tests.e2e.server_process import recorded_model

AT_ONCE = 4


@asynccontextmanager
async def migrated(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """Start a server, and name a migrated database to copy."""
    server = await asyncio.to_thread(EmbeddedPostgres.start, directory / "postgres")
    try:
        await crashes.execute(server.url(), "ALTER SYSTEM SET fsync = off")
        await crashes.execute(server.url(), "SELECT pg_reload_conf()")
        await crashes.execute(server.url(), "CREATE DATABASE template")
        await migrate(urlsplit(server.url())._replace(path="/template").geturl())
        yield server.url(), "template"
    finally:
        await asyncio.to_thread(server.stop)


async def run_crashes(directory: Path, arguments: argparse.Namespace) -> bool:
    gate = asyncio.Semaphore(AT_ONCE)
    reports: list[crashes.Report] = []

    async def one(seed: int) -> None:
        async with gate:
            report = await crashes.run(server, template, model.url, seed, arguments.durability)
        reports.append(report)
        for fault in report.faults:
            say(f"seed {seed} ({report.conversation}, crashes at {report.points}): {fault}")
        if len(reports) % 25 == 0:
            say(f"{len(reports)} runs")

    async with migrated(directory) as (server, template), recorded_model(directory) as model:
        await asyncio.gather(*[one(arguments.seed + number) for number in range(arguments.runs)])
    died = Counter(point for report in reports for point in report.died_at)
    say(f"{len(reports)} runs, {sum(r.turns for r in reports)} turns, {sum(r.events for r in reports)} events")
    say(f"workers killed: {died.total()}: " + ", ".join(f"{point} {died[point]}" for point in POINTS))
    say(f"turns resumed {sum(r.resumed for r in reports)}, calls settled {sum(r.settled for r in reports)}")
    faults = sum(len(report.faults) for report in reports)
    say(f"turns stuck, events lost or doubled, tools run twice, transcripts other than recorded: {faults}")
    return not faults


async def run_postgres(directory: Path, arguments: argparse.Namespace) -> bool:
    report = await postgres.run(directory, arguments.turns, arguments.seed)
    for fault in report.faults:
        say(f"seed {arguments.seed}: {fault}")
    workers, seconds = postgres.WORKERS, report.seconds
    say(f"{report.turns} turns with {workers} workers in {seconds:.0f} s, PostgreSQL killed {report.kills} times")
    say(f"acknowledged events lost or doubled, turns that did not end: {len(report.faults)}")
    return not report.faults


async def run_frozen(directory: Path, arguments: argparse.Namespace) -> bool:
    faults = 0
    async with migrated(directory) as (server, template):
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            async with crashes.new_database(server, template) as url:
                for fault in await frozen.run(url, seed):
                    faults += 1
                    say(f"seed {seed}: {fault}")
    say(f"{arguments.runs} workers frozen and woken up: stale appends accepted, other faults: {faults}")
    return not faults


async def run_projections(directory: Path, arguments: argparse.Namespace) -> bool:
    async with migrated(directory) as (server, template), crashes.new_database(server, template) as url:
        report = await projections.run(url, arguments.seconds, arguments.seed, arguments.idle)
    for fault in report.faults[:20]:
        say(f"seed {arguments.seed}: {fault}")
    writers = projections.WRITERS
    say(f"{report.events} events by {writers} writers, {report.undone} rolled back, {report.kills} runners killed")
    p50, p99 = (report.lags[int(len(report.lags) * share)] * 1_000 for share in (0.5, 0.99))
    say(f"lag p50 {p50:.0f} ms, p99 {p99:.0f} ms; idle transaction in a database: {arguments.idle or 'none'}")
    say(f"rows skipped, doubled or wrong: {len(report.faults)}")
    return not report.faults


RUNS: Mapping[str, Callable[[Path, argparse.Namespace], Coroutine[Any, Any, bool]]] = {
    "crashes": run_crashes,
    "postgres": run_postgres,
    "frozen": run_frozen,
    "projections": run_projections,
}


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--turns", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--durability", choices=["sync", "turn", "async"], default="sync")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--idle", choices=["other", "same"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="threadfold-chaos-", ignore_cleanup_errors=True) as name:
        directory = Path(name)
        directory.chmod(0o755)
        if not asyncio.run(RUNS[arguments.what](directory, arguments)):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
