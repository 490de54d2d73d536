"""Asking the read models of a large log over HTTP: each documented list and sum.

    .venv/bin/python -m benchmarks.reading [--events 1000000] [--threads 10000] [--times 200]

Fills an embedded PostgreSQL with turns of thirty days, has the read models built as a new version's are, and prints
p50 and p99 in milliseconds of each query, as a client on this machine sees them.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx

from benchmarks.large_log import fill
from domain.ids import SLICES, Slice
from infrastructure.embedded.server import EmbeddedPostgres
from migrations.run import migrate
from tests.chaos.crashes import execute
from tests.chaos.projections import runner_of
from tests.e2e.server_process import threadfold

QUERIES = (
    "/v1/threads",
    "/v1/threads?sort=last_event_at",
    "/v1/threads?sort=cost",
    "/v1/threads?sort=tokens&order=asc&limit=100",
    "/v1/threads?status=running",
    "/v1/threads?graph=support&active_since={at}",
    "/v1/threads?title=I need to cancel",
    "/v1/threads?search=517",
    "/v1/threads?search=refund certificate",
    "/v1/threads?search=flight",
    "/v1/threads/{thread}?consistency=eventual",
    "/v1/usage?group_by=model",
    "/v1/usage?bucket=day&group_by=graph,model",
    "/v1/usage?bucket=hour",
    "/v1/usage?bucket=hour&group_by=graph,node,model&from={at}",
    "/v1/analytics/nodes?group_by=node",
    "/v1/analytics/nodes?bucket=day&group_by=node",
    "/v1/analytics/tools?group_by=tool",
    "/v1/analytics/tools?bucket=day&group_by=graph,tool",
    "/v1/analytics/turns?bucket=day",
    "/v1/analytics/turns?bucket=hour&group_by=reason",
    "/v1/budgets?window=month",
    "/v1/budgets?window=day&group_by=model",
    "/v1/budgets?window=lifetime&group_by=thread_id&limit=100",
    "/v1/budgets?window=lifetime&thread_id={thread}&group_by=model",
    "/v1/audit",
    "/v1/audit?actor=user-7",
    "/v1/audit?thread_id={thread}",
    "/v1/audit?by=caller&from={at}",
    "/v1/projections",
    "/v1/instant?at={at}",
    "/v1/feed?limit=100",
)


async def ask(url: str, directory: Path, times: int, thread: str) -> None:
    """Time each query over HTTP, asked of a process of its own; the slowest first."""
    at = (datetime.now(UTC) - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = []
    async with threadfold(directory, DATABASE_URL=url) as server, httpx.AsyncClient(base_url=server.url) as client:
        for query in QUERIES:
            took = []
            for _ in range(times):
                started = time.perf_counter()
                response = await client.get(query.format(at=at, thread=thread))
                took.append((time.perf_counter() - started) * 1000)
                response.raise_for_status()
            p99 = statistics.quantiles(took, n=100)[98]
            found.append((p99, statistics.median(took), len(response.content), query))
    for p99, p50, size, query in sorted(found, reverse=True):
        print(f"{query:<62} p50 {p50:6.1f} ms   p99 {p99:6.1f} ms   {size / 1000:8.1f} kB")


async def build(url: str) -> None:
    """Build all read models from nothing, and tell the planner, as is done before instances serve."""
    async with runner_of(url) as runner:
        started = time.perf_counter()
        group = (await runner.models.groups())[0]
        while await runner.advance(group.id, [Slice(number) for number in range(SLICES)]):
            pass
        print(f"built with one process: {group.left / (time.perf_counter() - started):,.0f} events/s")


def make_readable(name: str) -> None:
    """Let whoever the server runs as enter a directory."""
    Path(name).chmod(0o755)


async def main(events: int, threads: int, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            url = server.url()
            await migrate(url)
            ends = await fill(url, events, threads)
            await build(url)
            await execute(url, "VACUUM ANALYZE")  # autovacuum would, within a minute
            await ask(url, Path(name), times, str(next(iter(ends))))
        finally:
            await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=10_000)
    parser.add_argument("--times", type=int, default=200)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.events, arguments.threads, arguments.times))
