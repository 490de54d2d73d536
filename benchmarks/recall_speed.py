"""How long it takes to find older messages by their words in a thread of 100,000 events, and in short ones beside it.

    .venv/bin/python -m benchmarks.recall_speed [--messages 30000] [--others 150000] [--times 20]

Fills the read model on an embedded PostgreSQL with the recorded conversations, each with codes, numbers and dates of
its own, and prints p50 and p99 in milliseconds for questions with rare words, with frequent ones, and with both.
"""

import argparse
import asyncio
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import asyncpg

from benchmarks.reading import make_readable
from domain.ids import ThreadId, Version, slice_of
from domain.recall.terms import terms_of
from domain.recall.word_index import index_of
from examples.airline.recordings import conversations
from infrastructure.embedded.server import EmbeddedPostgres
from infrastructure.postgres.pool import open_pool
from infrastructure.postgres.read_models import tables
from infrastructure.postgres.read_models.store import PostgresReadModels
from infrastructure.postgres.recall.search import PostgresFinder
from migrations.run import migrate
from projections.messages import MESSAGES, PROJECTION

LONG = ThreadId(UUID(int=7))
CODES = re.compile(r"\b(?=[A-Z0-9]*\d)[A-Z0-9]{5,6}\b|\d{3,}")

SHORT = 1_000
"""Threads beside the long one."""

QUESTIONS = (
    "What was the total price of my reservation from New York to Seattle on May 20?",
    "How had I paid for PEP4E0? I need the payment id.",
    "Which date of birth do you have for Harper Kovacs on the trip from New York to Atlanta?",
    "flight",
    "I lost the confirmation code of my trip from Los Angeles to Charlotte on May 23, what is it?",
    "How much was business class on HAT069 from New York to Seattle?",
    "Please cancel my reservation and refund the flight to my credit card, with insurance and baggage of passengers",
)


def texts(chance: random.Random) -> Iterator[tuple[str, str]]:
    recorded = list(conversations().values())
    while True:
        other: dict[str, str] = {}
        for message in chance.choice(recorded).messages:
            if message["content"]:
                yield message["role"], CODES.sub(partial(_other, other, chance), message["content"])


def _other(other: dict[str, str], chance: random.Random, code: re.Match[str]) -> str:
    """Put other letters and digits in a code's place, and the same ones wherever it stands in a conversation."""
    made = "".join(chance.choice("0123456789" if each.isdigit() else "ABCDEFGHIJ") for each in code[0])
    return other.setdefault(code[0], made)


async def fill(pool: asyncpg.Pool, messages: int, others: int) -> dict[ThreadId, int]:
    models, chance = PostgresReadModels(pool), random.Random(3)
    await models.register([PROJECTION.shape])
    (instance,) = await models.instances()
    short = [ThreadId(UUID(int=chance.getrandbits(128))) for _ in range(SHORT)]
    ends: dict[ThreadId, int] = dict.fromkeys([LONG, *short], 1)
    told, rows = texts(chance), []
    for number in range(messages + others):
        thread_id = LONG if number * messages // (messages + others) > ends[LONG] // 3 else chance.choice(short)
        ends[thread_id] += 3
        role, text = next(told)
        index = index_of(text)
        rows.append(
            MESSAGES.row(
                at=datetime.now(UTC),
                version=ends[thread_id],
                tokens=len(text) // 4,
                slice=slice_of(thread_id),
                thread_id=thread_id,
                tenant="default",
                role=role,
                content=index.words,
                keys=index.term_ids,
            )
        )
        if len(rows) == 2_000 or number == messages + others - 1:
            await pool.execute(tables.write(MESSAGES, instance.id), *tables.arrays_of(MESSAGES, rows))
            rows = []
    await pool.execute(f"VACUUM ANALYZE {tables.place(MESSAGES.name, instance.id)}")
    return ends


async def ask(pool: asyncpg.Pool, thread_id: ThreadId, end: int, times: int) -> None:
    finder, found = PostgresFinder(pool), []
    for question in QUESTIONS:
        took = []
        for _ in range(times + 3):
            began = time.perf_counter()
            await finder.find([(thread_id, Version(end))], terms_of(question), Version(end), 48)
            took.append((time.perf_counter() - began) * 1000)
        found += took[3:]
        print(f"{statistics.median(took[3:]):8.1f} ms   {question}")
    print(
        f"{end:,} events: p50 {statistics.median(found):.1f} ms, p99 {statistics.quantiles(found, n=100)[98]:.1f} ms\n"
    )


async def main(messages: int, others: int, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="threadfold-bench-", ignore_cleanup_errors=True) as name:
        make_readable(name)
        server = await asyncio.to_thread(EmbeddedPostgres.start, Path(name) / "postgres")
        try:
            await migrate(server.url())
            pool = await open_pool(server.url(), max_size=2)
            ends = await fill(pool, messages, others)
            await ask(pool, LONG, ends.pop(LONG), times)
            await ask(pool, *next(iter(ends.items())), times)
            await pool.close()
        finally:
            await asyncio.to_thread(server.stop)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=30_000)
    parser.add_argument("--others", type=int, default=150_000)
    parser.add_argument("--times", type=int, default=20)
    given = parser.parse_args()
    asyncio.run(main(given.messages, given.others, given.times))
