"""Break things on purpose, and count what was lost or doubled.

make chaos                                            all of it, an hour and a half
python -m tests.chaos crashes --runs 300 --seed 1     workers killed at every named point
python -m tests.chaos crashes --runs 1 --seed 217     one of them again
python -m tests.chaos crashes --agent questions       an agent that asks models and people, works on lists and has a
                                                      subgraph, killed within all of these
python -m tests.chaos postgres --turns 2000           PostgreSQL killed every 5 to 20 s, four workers
python -m tests.chaos frozen --runs 30                workers stopped beyond their lease, and woken up
python -m tests.chaos projections --seconds 120       late commits, and runners of projections killed again and again;
                                                      --idle other|same leaves a transaction open in another database
python -m tests.chaos containment --runs 100          code of agents that exits, blocks, prints, takes all memory, kills
                                                      its process or ignores cancellation, beside innocent turns
python -m tests.chaos errors --runs 104               each SQLSTATE, locks, cuts, read-only sessions, a frozen server,
                                                      while models are paid and tools must not be repeated
python -m tests.chaos redis --runs 12                 Redis killed, frozen, emptied
python -m tests.chaos clocks --runs 10                clocks hours ahead and behind, poison turns, budgets for the day
python -m tests.chaos hostile --runs 12               requests and answers of models of hostile shapes and sizes, at a
                                                      server that measures its memory, and what blocks its event loop
python -m tests.chaos rolling --runs 12               deployments with different AGENTS; 20 restarts under a long turn

Each seed is a run; `--seed N --runs 1` has the same one again (its draws; processes are as quick as they are). The exit
status is 1 where there was a fault. `--keep DIRECTORY` keeps what the processes said.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from infrastructure.embedded.server import EmbeddedPostgres
from migrations.run import migrate
from tests.chaos import (
    clocks,
    containment,
    crashes,
    frozen,
    hostile,
    inquiries,
    outages,
    postgres,
    projections,
    redis_outages,
    rolling,
)
from tests.chaos.crashing import POINTS, QUESTION_POINTS
from tests.e2e.server_process import recorded_model

AT_ONCE = 4
AT_ONCE_ERRORS = 3
AT_ONCE_SERVICES = 2


@dataclass
class Broken:
    """Runs that ended with an error of their own. That is a fault, too, and no reason not to have the next one."""

    runs: int = 0

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Note that a run ended with an error."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  (whatever it is, it is told, and counts)
            self.note(f"{what} ended with an error: {''.join(traceback.format_exception(error))}")

    def note(self, what: str) -> None:
        """Tell of a run that measured nothing."""
        self.runs += 1
        say(what)


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
    if arguments.agent == "questions":
        return await run_inquiries(directory, arguments)
    gate = asyncio.Semaphore(AT_ONCE)
    reports: list[crashes.Report] = []
    broken = Broken()

    async def one(seed: int) -> None:
        async with gate:
            with broken.noted(f"seed {seed}"):
                report = await crashes.run(server, template, model.url, seed, arguments.durability)
                reports.append(report)
                tell(report)

    def tell(report: crashes.Report) -> None:
        for fault in report.faults:
            say(f"seed {report.seed} ({report.conversation}, crashes at {report.points}): {fault}")
        if len(reports) % 25 == 0:
            say(f"{len(reports)} runs")

    async with migrated(directory) as (server, template), recorded_model(directory) as model:
        await asyncio.gather(*[one(arguments.seed + number) for number in range(arguments.runs)])
    died = Counter(point for report in reports for point in report.died_at)
    say(f"{len(reports)} runs, {sum(r.turns for r in reports)} turns, {sum(r.events for r in reports)} events")
    say(f"workers killed: {died.total()}: " + ", ".join(f"{point} {died[point]}" for point in POINTS))
    say(f"turns resumed {sum(r.resumed for r in reports)}, calls settled {sum(r.settled for r in reports)}")
    faults = sum(len(report.faults) for report in reports)
    if not died.total():
        broken.note("nothing was measured: no worker died")
    say(f"turns stuck, events lost or doubled, tools run twice, transcripts other than recorded: {faults}")
    return not faults and not broken.runs


async def run_inquiries(directory: Path, arguments: argparse.Namespace) -> bool:
    broken = Broken()

    async def run(server: str, template: str, home: Path, seed: int) -> inquiries.Report:
        await asyncio.to_thread(home.mkdir)
        return await inquiries.run(server, template, home, seed, arguments.durability)

    reports = await _some(directory, arguments, run, lambda r: f"killed at {', '.join(r.died_at)}", broken, AT_ONCE)
    died = Counter(point for report in reports for point in report.died_at)
    if not died.total():
        broken.note("nothing was measured: no worker died")
    say(f"workers killed: {died.total()}: " + ", ".join(f"{point} {died[point]}" for point in QUESTION_POINTS))
    calls, answers = sum(r.paid for r in reports), sum(r.answered for r in reports)
    say(f"{len(reports)} runs, {sum(r.turns for r in reports)} turns, {sum(r.events for r in reports)} events")
    say(f"turns resumed {sum(r.resumed for r in reports)}, calls of models {calls}, answers of people {answers}")
    counts = {
        "turns that did not complete": sum(len(r.found.stuck) for r in reports),
        "effects doubled": sum(len(r.found.doubled) for r in reports),
        "answers paid twice although known": sum(len(r.found.paid_twice) for r in reports),
        "questions asked twice": sum(len(r.found.asked_twice) for r in reports),
        "answers lost": sum(len(r.found.lost) for r in reports),
        "other faults": sum(len(r.found.others) for r in reports) + broken.runs,
    }
    say(", ".join(f"{what} {count}" for what, count in counts.items()))
    return not any(counts.values())


async def run_postgres(directory: Path, arguments: argparse.Namespace) -> bool:
    report = await postgres.run(directory, arguments.turns, arguments.seed)
    for fault in report.faults:
        say(f"seed {arguments.seed}: {fault}")
    workers, seconds = postgres.WORKERS, report.seconds
    say(f"{report.turns} turns with {workers} workers in {seconds:.0f} s, PostgreSQL killed {report.kills} times")
    say(f"acknowledged events lost or doubled, turns that did not end: {len(report.faults)}")
    if not report.kills or not report.turns:
        say("nothing was measured: PostgreSQL was not killed while turns ran; ask for more --turns")
        return False
    return not report.faults


async def run_frozen(directory: Path, arguments: argparse.Namespace) -> bool:
    faults, broken = 0, Broken()
    async with migrated(directory) as (server, template):
        for seed in range(arguments.seed, arguments.seed + arguments.runs):
            with broken.noted(f"seed {seed}"):
                async with crashes.new_database(server, template) as url:
                    for fault in await frozen.run(url, seed):
                        faults += 1
                        say(f"seed {seed}: {fault}")
    say(f"{arguments.runs} workers frozen and woken up: stale appends accepted, other faults: {faults}")
    return not faults and not broken.runs


async def run_projections(directory: Path, arguments: argparse.Namespace) -> bool:
    async with migrated(directory) as (server, template), crashes.new_database(server, template) as url:
        report = await projections.run(url, arguments.seconds, arguments.seed, arguments.idle)
    for fault in report.faults[:20]:
        say(f"seed {arguments.seed}: {fault}")
    writers = projections.WRITERS
    say(f"{report.events} events by {writers} writers, {report.undone} rolled back, {report.kills} runners killed")
    say(f"a start of a runner took {report.start:.1f} s; idle transaction in a database: {arguments.idle or 'none'}")
    if report.lags:
        p50, p99 = (report.lags[int(len(report.lags) * share)] * 1_000 for share in (0.5, 0.99))
        say(f"lag p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    say(f"rows skipped, doubled or wrong: {len(report.faults)}")
    return not report.faults


async def run_containment(directory: Path, arguments: argparse.Namespace) -> bool:
    reports, broken = [], Broken()
    async with migrated(directory) as (server, template):
        for seeds in containment.batches(arguments.seed, arguments.runs):
            report = containment.Report([])
            with broken.noted(f"seeds {seeds[0]} to {seeds[-1]}"):
                report = await containment.run(server, template, directory / f"from-{seeds[0]}", seeds)
            reports.append(report)
            about = "; ".join(f"{plan.seed}: {plan.told}" for plan in report.plans)
            say(f"seeds {about}" if report.faults else f"seeds {seeds[0]} to {seeds[-1]}: no fault")
            say_all(report.faults)
    ends = sum((report.ends for report in reports), Counter[str]())
    say(f"{arguments.runs} runs, {sum(len(plan.villains) for r in reports for plan in r.plans)} villains: {dict(ends)}")
    slowest = max(report.slowest_villain for report in reports)
    say(f"no answer for {max(r.silence for r in reports):.1f} s at most; a villain ended after {slowest:.0f} s at most")
    say(f"a new quick turn took {max(r.slowest_probe for r in reports):.1f} s at most")
    say(f"no new quick turn ended for {max(r.standstill for r in reports):.1f} s at most")
    counts = {
        f"{sum(r.innocents for r in reports)} innocent turns, failed": sum(len(r.failed) for r in reports),
        "turns that did not end": sum(len(r.stuck) for r in reports),
        "tools run twice": sum(len(r.doubled) for r in reports),
        "service down": sum(len(r.down) for r in reports),
        "other faults": sum(len(r.others) for r in reports) + broken.runs,
    }
    say(", ".join(f"{what} {count}" for what, count in counts.items()))
    return not any(counts.values())


async def run_errors(directory: Path, arguments: argparse.Namespace) -> bool:
    waiting, reports = list(outages.batches(arguments.seed, arguments.runs))[::-1], list[outages.Report]()
    broken, one_migrates = Broken(), asyncio.Lock()

    async def work(lane: int) -> None:
        """Have faults in a PostgreSQL of this lane's own: some concern the whole server."""
        home = directory / str(lane)
        home.mkdir(mode=0o755)
        async with AsyncExitStack() as stack:
            async with one_migrates:  # Alembic's context is the process's
                server, template = await stack.enter_async_context(migrated(home))
            while waiting:
                seeds = waiting.pop()
                with broken.noted(f"seeds {seeds[0]} to {seeds[-1]}"):
                    await outages.run_some(server, template, home, seeds, tell)

    def tell(report: outages.Report) -> None:
        reports.append(report)
        say(f"seed {report.seed} ({report.fault.told}): met {report.met} times, {len(report.faults)} faults")
        say_all(report.faults)

    await asyncio.gather(*[work(lane) for lane in range(min(AT_ONCE_ERRORS, len(waiting)))])
    say(f"{sum(not report.met for report in reports)} of {len(reports)} faults were met by no statement")
    if not any(report.met for report in reports):
        broken.note("nothing was measured: no statement met a fault")
    counts = {
        f"{len(reports)} faults of PostgreSQL, {sum(r.turns for r in reports)} turns; answers paid twice": sum(
            len(r.paid_twice) for r in reports
        ),
        "outcomes lost": sum(len(r.lost) for r in reports),
        "turns failed": sum(len(r.failed) for r in reports),
        "turns that did not end": sum(len(r.stuck) for r in reports),
        "answers 500": sum(len(r.errors) for r in reports),
        "other faults": sum(len(r.others) for r in reports) + broken.runs,
    }
    say(", ".join(f"{what} {count}" for what, count in counts.items()))
    return not any(counts.values())


async def run_redis(directory: Path, arguments: argparse.Namespace) -> bool:
    broken = Broken()
    reports = await _some(directory, arguments, redis_outages.run, lambda r: f"{r.how}, {r.turns} turns", broken)
    turns, answers = sum(r.turns for r in reports), sum(r.answers for r in reports)
    slowest = max((report.slowest for report in reports), default=0.0)
    say(f"{turns} turns, of which the slowest took {slowest:.1f} s; {answers} answers were waited for")
    say(f"answers lost with Redis and their process, as documented: {sum(r.lost for r in reports if r.may_lose)}")
    return _sum_up(reports, broken)


async def run_clocks(directory: Path, arguments: argparse.Namespace) -> bool:
    broken = Broken()
    reports = await _some(directory, arguments, clocks.run, lambda r: f"ahead by {r.told}", broken)
    for report in reports:
        spent = f"a thread spent {report.spent} and an agent {report.spent_by_agent} of {clocks.BUDGET} tokens a day"
        say(f"seed {report.seed}: {report.deaths} processes died; {spent}, in {report.days} days")
    return _sum_up(reports, broken)


async def run_rolling(directory: Path, arguments: argparse.Namespace) -> bool:
    broken = Broken()
    reports = await _some(directory, arguments, rolling.run, lambda r: f"{r.what}, {r.turns} turns", broken)
    slowest = max((report.slowest for report in reports), default=0.0)
    say(f"{sum(r.turns for r in reports)} turns, {sum(r.restarts for r in reports)} processes stopped")
    say(f"the slowest turn took {slowest:.1f} s of the time in which a process knew its agent")
    return _sum_up(reports, broken)


async def run_hostile(directory: Path, arguments: argparse.Namespace) -> bool:
    broken = Broken()

    def tell(report: hostile.Report) -> str:
        return f"{report.cases} cases, {report.slowest * 1000:.0f} ms, {report.largest:.0%} of the memory"

    reports = await _some(directory, arguments, hostile.run, tell, broken, 1)
    slowest, largest = (
        max((getattr(report, name) for report in reports), default=0.0) for name in ("slowest", "largest")
    )
    say(f"{sum(r.cases for r in reports)} cases; the event loop was blocked for {slowest * 1000:.0f} ms at most")
    say(f"the largest share of the memory that a case may take: {largest:.0%}")
    return _sum_up(reports, broken)


class Reported(Protocol):
    """What was seen in the run of a seed."""

    @property
    def seed(self) -> int: ...
    @property
    def faults(self) -> Sequence[str]: ...


R = TypeVar("R", bound=Reported)


async def _some(
    directory: Path,
    arguments: argparse.Namespace,
    run: Callable[[str, str, Path, int], Awaitable[R]],
    tell: Callable[[R], str],
    broken: Broken,
    at_once: int = AT_ONCE_SERVICES,
) -> list[R]:
    """Have the runs of some seeds, `at_once` at a time, and tell of each as it ends."""
    gate, reports = asyncio.Semaphore(at_once), list[R]()

    async def one(seed: int) -> None:
        async with gate:
            with broken.noted(f"seed {seed}"):
                report = await run(server, template, directory / f"seed-{seed}", seed)
                reports.append(report)
                say(f"seed {seed} ({tell(report)}): {len(report.faults)} faults")
                say_all(report.faults)

    async with migrated(directory) as (server, template):
        await asyncio.gather(*[one(arguments.seed + number) for number in range(arguments.runs)])
    return sorted(reports, key=lambda report: report.seed)


def _sum_up(reports: Sequence[Reported], broken: Broken) -> bool:
    faults = sum(len(report.faults) for report in reports) + broken.runs
    say(
        f"{len(reports)} runs; turns that failed, did not end or were too slow, tools run twice, other faults: {faults}"
    )
    return not faults


RUNS: Mapping[str, Callable[[Path, argparse.Namespace], Coroutine[Any, Any, bool]]] = {
    "clocks": run_clocks,
    "containment": run_containment,
    "crashes": run_crashes,
    "errors": run_errors,
    "postgres": run_postgres,
    "frozen": run_frozen,
    "hostile": run_hostile,
    "projections": run_projections,
    "redis": run_redis,
    "rolling": run_rolling,
}


def say_all(faults: Sequence[str]) -> None:
    """Tell faults; of those that differ only in numbers, the first, and how many there are."""
    alike: dict[str, list[str]] = {}
    for fault in faults:
        alike.setdefault(re.sub(r"[0-9a-f-]{36}|[0-9.]+", "#", fault), []).append(fault)
    for first, *more in alike.values():
        say(f"    {first}" + (f" (and {len(more)} more like that)" if more else ""))


def say(text: str) -> None:
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def _temporary() -> AbstractContextManager[str]:
    return tempfile.TemporaryDirectory(prefix="threadfold-chaos-", ignore_cleanup_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=RUNS)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--turns", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--agent", choices=["airline", "questions"], default="airline", help="of crashes")
    parser.add_argument("--durability", choices=["sync", "turn", "async"], default="sync")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--idle", choices=["other", "same"])
    parser.add_argument("--keep", type=Path, help="a new directory for what the processes say, which stays there")
    arguments = parser.parse_args()
    with _temporary() if arguments.keep is None else nullcontext(arguments.keep) as name:
        directory = Path(name).resolve()
        directory.mkdir(exist_ok=arguments.keep is None)
        directory.chmod(0o755)
        if not asyncio.run(RUNS[arguments.what](directory, arguments)):
            raise SystemExit(1)


if __name__ == "__main__":
    main()
