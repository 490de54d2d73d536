"""Appends with the library `eventsourcing`: its recorder for PostgreSQL, a thread of Python for each stream.

    python -m benchmarks.contestants.append_eventsourcing --database URL [--recorder application|aggregate]

An application's recorder orders all events, as ours does; an aggregate's does not. An event's payload and metadata are
its state, as bytes. The pool has a connection for each thread. `--functions` has the database's functions insert.
"""

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import asyncpg
from eventsourcing.persistence import AggregateRecorder, StoredEvent
from eventsourcing.postgres import PostgresAggregateRecorder, PostgresApplicationRecorder, PostgresDatastore

from benchmarks import append_load
from benchmarks.assistant_turns import drafts
from domain.chain import Draft
from infrastructure.postgres.pool import dsn_of

RECORDERS = {"aggregate": PostgresAggregateRecorder, "application": PostgresApplicationRecorder}


def datastore(url: str, connections: int, *, functions: bool) -> PostgresDatastore:
    """Connect as its documentation says."""
    parts = urlsplit(dsn_of(url))
    query = parse_qs(parts.query)
    return PostgresDatastore(
        parts.path.lstrip("/"),
        query.get("host", [parts.hostname or "localhost"])[0],
        query.get("port", [parts.port or 5432])[0],
        parts.username or "postgres",
        parts.password or "",
        pool_size=connections,
        enable_db_functions=functions,
        connect_timeout=30,
    )


def appended(recorder: AggregateRecorder, source: Iterator[Sequence[Draft]], until: float) -> int:
    """Append to a new stream; count the events."""
    stream, version = uuid4(), 0
    while time.perf_counter() < until:
        events = [
            StoredEvent(stream, version + number, draft.type, f"{draft.payload}\n{draft.metadata}".encode())
            for number, draft in enumerate(next(source), 1)
        ]
        recorder.insert_events(events)
        version += len(events)
    return version


def cell(recorder: AggregateRecorder, batch: int, streams: int, seconds: float) -> append_load.Cell:
    """Append from so many threads at a time."""
    events, until, counts = drafts(), time.perf_counter() + seconds, []
    lists = [*itertools.islice(append_load.batches(batch, events), len(events))]

    def work() -> None:
        counts.append(appended(recorder, itertools.cycle(lists), until))

    began = time.perf_counter()
    threads = [threading.Thread(target=work) for _ in range(streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return append_load.Cell(sum(counts), time.perf_counter() - began)


def written(url: str) -> int:
    """Count the transactions that have written."""

    async def ask() -> int:
        connection = await asyncpg.connect(dsn_of(url))
        found: int = await connection.fetchval(append_load.WRITTEN)
        await connection.close()
        return found

    return asyncio.run(ask())


def main(what: append_load.Asked, recorder: str, *, functions: bool) -> None:
    results = {}
    with datastore(what.database, max(what.streams), functions=functions) as store:
        recording = RECORDERS[recorder](store)
        recording.create_table()
        for batch, streams in itertools.product(what.batches, what.streams):
            cell(recording, batch, streams, append_load.WARM_UP)
            before = written(what.database)
            found = cell(recording, batch, streams, what.seconds)
            results[append_load.name_of(batch, streams)] = append_load.result(found, written(what.database) - before)
    append_load.tell(results)


if __name__ == "__main__":
    parser = append_load.parser(__doc__)
    parser.add_argument("--recorder", choices=RECORDERS, default="application")
    parser.add_argument("--functions", action="store_true")
    given = parser.parse_args()
    main(append_load.asked(given), given.recorder, functions=given.functions)
