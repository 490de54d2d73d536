"""Processes that run projections or append meanwhile, and what is to be known of them from outside."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg

from benchmarks.side_by_side.figures import Figures
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.settings import CHECKOUT
from projections.registry import PROJECTIONS

STREAMS, BATCH = 16, 5
"""How the one that appends does so: about as the steps of 16 turns do."""

SHAPES = [projection.shape for projection in PROJECTIONS]


def _started(url: str, part: int, of: int, until: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.contestants.projecting", "--database", url]
    command += ["--part", str(part), "--of", str(of), "--until", until]
    return subprocess.Popen(command, cwd=CHECKOUT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@contextmanager
def projecting(url: str, processes: int, until: str) -> Iterator[Sequence[subprocess.Popen[str]]]:
    """Start processes and let them begin at the same time; at the end, those that go on for ever are told to stop."""
    running = [_started(url, part, processes, until) for part in range(processes)]
    try:
        for one in running:
            _line(one)
        for one in running:
            _write(one, "go\n")
        yield running
    finally:
        for one in running:
            if one.stdin:
                one.stdin.close()
            one.wait(timeout=60)


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"A process that runs projections ended with status {process.wait()}")
    return line


def _write(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin
    process.stdin.write(text)
    process.stdin.flush()


def timed(url: str, processes: int, until: str) -> Figures:
    """Let processes work until they are done: events, and seconds until the last one is."""
    with projecting(url, processes, until) as running:
        began = time.perf_counter()
        told: list[dict[str, Any]] = [json.loads(_line(one)) for one in running]
        seconds = time.perf_counter() - began
    events = sum(one["events"] for one in told)
    return {
        "rate": events / seconds,
        "events": events,
        "seconds": seconds,
        "cpu_us": sum(one["cpu_s"] for one in told) * 1e6 / max(events, 1),
    }


def appended(url: str, rate: float, seconds: float) -> Figures:
    """Let a process append for some seconds, `rate` events a second or (0) as many as it can."""
    command = [sys.executable, "-m", "benchmarks.contestants.append_paced", "--database", url, "--rate", str(rate)]
    command += ["--seconds", str(seconds), "--streams", str(STREAMS), "--batch", str(BATCH)]
    done = subprocess.run(command, check=True, cwd=CHECKOUT, text=True, stdout=subprocess.PIPE)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


async def forget(url: str) -> None:
    """Drop all read models, and make empty ones, which serve at once."""
    pool = await open_pool(url, max_size=2)
    store = PostgresReadModels(pool)
    for instance in await store.instances():
        await store.drop(instance.id, serving=True)
    await store.register(SHAPES)
    await pool.close()


async def rebuild(url: str) -> None:
    """Begin to build all read models anew; those that served before the last time are dropped."""
    pool = await open_pool(url, max_size=2)
    store = PostgresReadModels(pool)
    for instance in await store.instances():
        if instance.status != "serving":
            await store.drop(instance.id)
    await store.rebuild(SHAPES)
    await pool.close()


async def left(connection: asyncpg.Connection) -> int:
    """Count the events that are not in the read models yet."""
    found: int = await connection.fetchval(LEFT)
    return found


LEFT = """
SELECT coalesce(sum(slices.head - positions.position), 0)::bigint
  FROM slices
  JOIN read_models.positions USING (slice)
"""
