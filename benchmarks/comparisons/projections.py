"""Projections: events a second that they take in, with one process and with two, and how far behind they are.

All read models are built from the beginning, in place (catching up, as a process does that was away) and beside those
that serve (a rebuild, with the exchange at its end). Lag is the time from an append's commit until its last event is in
the read models, while another process appends at a share of the rate that it had reached alone, just before.
"""

import asyncio
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import asyncpg

from benchmarks import bulk_log, projectors
from benchmarks.side_by_side.alternate import Played, Round
from benchmarks.side_by_side.bench import Bench
from benchmarks.side_by_side.figures import Figures, quantiles
from benchmarks.side_by_side.ratios import Figure
from domain.ids import SLICES
from migrations.run import migrate

EVENTS = {"tiny": 4_000, "short": 100_000, "full": 200_000}
SECONDS = {"tiny": 2.0, "short": 3.0, "full": 20.0}

ROUNDS = 3

SHARES = (0.8, 0.4, 0.2)
"""Of the rate that the appending process reaches alone."""

LOOK = 0.015
"""Seconds between two looks at how far the read models are."""

WARM_UP = 1.0
"""Seconds at the beginning whose appends do not count."""

PATIENCE = 60.0
"""Seconds that the projections have to read what is left."""

POSITIONS = "SELECT array_agg(position ORDER BY slice) FROM read_models.positions"
"""Of one line: all others are dropped before."""

ONE, TWO = "one process", "two processes"

RATES = (Figure("rate", "events/s"), Figure("cpu_us", "runners' CPU µs/event", "less", 1))
LAGS = (
    Figure("p50_ms", "lag p50 ms", "less"),
    Figure("p99_ms", "lag p99 ms", "less"),
    Figure("asked", "events/s asked for"),
    Figure("rate", "events/s appended"),
    Figure("left", "events left at the end", "less"),
    Figure("drain_s", "s until they are read", "less", 1),
)


def compare(bench: Bench) -> None:
    """Write `projections` and `lag`."""
    with bench.server.database("projections") as url:
        asyncio.run(migrate(url))
        asyncio.run(projectors.forget(url))
        bulk_log.fill(url, EVENTS[bench.extent])
        bench.report("projections", "Projections: events a second", RATES, rates(url, min(bench.pairs, ROUNDS)))
        lags = behind(url, SECONDS[bench.extent], min(bench.pairs, 2))
        bench.report("lag", "Projections: lag while events are appended", LAGS, lags, verdicts(lags))


def rates(url: str, pairs: int) -> Sequence[Played]:
    """Build everything again and again, with one process and with two in turn."""
    ways: Mapping[str, tuple[Callable[[str], Coroutine[Any, Any, None]], str]] = {
        "catching up": (projectors.forget, "caught_up"),
        "rebuild": (projectors.rebuild, "serving"),
    }
    rounds: dict[str, list[Round]] = {way: [] for way in ways}
    for number in range(1, pairs + 1):
        for way, (prepare, until) in ways.items():
            figures: dict[str, Figures] = {}
            for name, processes in ((ONE, 1), (TWO, 2)):
                asyncio.run(prepare(url))
                figures[name] = projectors.timed(url, processes, until)
                seen = f"{figures[name]['rate']:,.0f} events/s"
                print(f"{way}, {number} of {pairs}: {name}, {seen}", file=sys.stderr, flush=True)
            rounds[way].append(figures)
    return [Played(way, [ONE, TWO], found) for way, found in rounds.items()]


def behind(url: str, seconds: float, rounds: int) -> Sequence[Played]:
    """Measure the appending process alone, and then the lag at shares of that, around and around."""
    asyncio.run(projectors.forget(url))
    found: dict[float, list[Round]] = {share: [] for share in SHARES}
    for _ in range(rounds):
        alone = projectors.appended(url, 0.0, seconds)["rate"]
        for share in SHARES:
            projectors.timed(url, 2, "caught_up")
            with projectors.projecting(url, 1, "closed"):
                figures = asyncio.run(_lag(url, alone * share, seconds))
            print(f"lag at {share:.0%} of {alone:,.0f} events/s: {figures}", file=sys.stderr, flush=True)
            found[share].append({"Threadfold": {**figures, "asked": alone * share}})
    return [Played(f"{share:.0%} of the appends", ["Threadfold"], around) for share, around in found.items()]


async def _lag(url: str, rate: float, seconds: float) -> Figures:
    connection = await asyncpg.connect(url)
    looks: dict[int, list[tuple[int, float]]] = {slice_: [] for slice_ in range(SLICES)}
    looking = asyncio.create_task(_look(connection, looks))
    told = await asyncio.to_thread(projectors.appended, url, rate, seconds)
    other = await asyncpg.connect(url)
    while await projectors.left(other) and time.monotonic() < told["ended"] + PATIENCE:
        await asyncio.sleep(0.05)
    await asyncio.sleep(5 * LOOK)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    await connection.close()
    await other.close()
    seen = [(_seen(looks[slice_], position), at) for slice_, position, at in told["seen"]]
    lags = [read - at for read, at in seen if at > told["began"] + WARM_UP]
    left = told["events"] * sum(read > told["ended"] for read, _ in seen) / len(seen)
    drained = max(read for read, _ in seen) - told["ended"]
    return {**quantiles(lags), "rate": told["rate"], "left": left, "drain_s": drained, "appends": len(lags)}


async def _look(connection: asyncpg.Connection, looks: dict[int, list[tuple[int, float]]]) -> None:
    """Note when each slice was seen to be further than before."""
    last = dict.fromkeys(looks, -1)
    while True:
        began = time.monotonic()
        positions = await connection.fetchval(POSITIONS)
        at = time.monotonic()
        for slice_, position in enumerate(positions):
            if position != last[slice_]:
                last[slice_] = position
                looks[slice_].append((position, at))
        await asyncio.sleep(max(0.0, began + LOOK - time.monotonic()))


def _seen(looks: Sequence[tuple[int, float]], position: int) -> float:
    """Return the instant at which a position was first seen to be reached; the end of time if it was not."""
    place = bisect_left(looks, position, key=lambda look: look[0])
    return looks[place][1] if place < len(looks) else float("inf")


def verdicts(cases: Sequence[Played]) -> Sequence[str]:
    """Say whether the projections kept up."""
    found = []
    for played in cases:
        rates, left = played.values("Threadfold", "rate"), played.values("Threadfold", "left")
        grows = any(one > rate for one, rate in zip(left, rates, strict=True))  # more than a second's worth
        found.append(f"{'NO' if grows else 'yes'}: at {played.name} one process keeps up")
    return found
